"""Audits: what else could explain a score, each with its figures, one plain sentence, and whether that is a warning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from medssl.core.config import Config
from medssl.core.score import Score
from medssl.evaluation.results import Comparison


class AuditConfig(Config):
    """How closely an encoder is looked at.

    At most ``images`` images are looked at in each audit, test patients first (0: no audits). What is above chance by
    more than ``delta`` of the metric, with its whole interval, is worth a warning. ``groups`` are columns of the
    catalog that a good encoder should not need. ``source``: the pool that the encoder was pretrained on, where it comes
    from elsewhere.
    """

    images: Annotated[int, Ge(0)] = 1000
    delta: Annotated[float, Gt(0), Lt(1)] = 0.05
    groups: tuple[str, ...] = ("scanner", "site")
    source: Path | None = None


@dataclass(frozen=True)
class Audit:
    """One question, answered.

    Attributes:
        name: of the question.
        finding: the answer in a plain sentence.
        warning: whether it is a reason to doubt the encoder or the data.
        scores: every performance figure behind the answer.
        facts: counts and distances.
    """

    name: str
    finding: str
    warning: bool = False
    scores: Mapping[str, Score] = field(default_factory=dict)
    facts: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Audits:
    """All of them; ``covered``: the encoder beside its baselines with the border of every image covered."""

    found: tuple[Audit, ...] = ()
    covered: Mapping[str, Comparison] = field(default_factory=dict)

    @property
    def warnings(self) -> dict[str, str]:
        """The findings that are warnings, by audit."""
        return {audit.name: audit.finding for audit in self.found if audit.warning}

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "audits": [asdict(audit) for audit in self.found],
            "covered": {name: asdict(found) for name, found in self.covered.items()},
        }
