"""The section ``evaluation`` of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt
from pydantic import Field

from medssl.core.config import Config
from medssl.evaluation.audits import AuditConfig
from medssl.evaluation.choosing import Tuning
from medssl.evaluation.gate import GateRule
from medssl.evaluation.label_efficiency import CurveConfig
from medssl.evaluation.units import Level


class PicturesConfig(Config):
    """What is drawn of an encoder: of so many test ``images`` (0: nothing) with so many ``neighbours``, and maps of at
    most so many ``points``.
    """

    images: Annotated[int, Ge(0)] = 6
    neighbours: Annotated[int, Gt(0)] = 5
    points: Annotated[int, Gt(0)] = 2000


class EvaluationConfig(Config):
    """How the encoder is measured.

    ``task`` defaults to the only one of ``tasks``, ``metric`` to what its kind of labels is judged by. ``level`` says
    who is judged: each volume, or each study or patient by the mean of what was predicted for its volumes. With
    ``attentive`` there is a probe on tokens, of an untrained encoder too, with ``tuned`` the encoder may be fine-tuned
    where it is compared with learning from scratch, if held-out labels say so: both take minutes. Few-shot figures are
    means of ``shot_draws``. ``tuning`` is that of the networks that the gate compares with. ``external``: other pools,
    by name, whose labelled patients are judged too.
    """

    task: str | None = None
    metric: str | None = None
    level: Level = "volume"
    attentive: bool = False
    tuned: bool = False
    shot_draws: Annotated[int, Gt(0)] = 20
    tuning: Tuning = Field(default_factory=lambda: Tuning(least=200, most=400))
    external: dict[str, Path] = Field(default_factory=dict)
    bootstrap: Annotated[int, Gt(0)] = 1000
    gate: GateRule = Field(default_factory=GateRule)
    audit: AuditConfig = Field(default_factory=AuditConfig)
    curve: CurveConfig = Field(default_factory=CurveConfig)
    pictures: PicturesConfig = Field(default_factory=PicturesConfig)
