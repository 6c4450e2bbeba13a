"""What an evaluation found; the verdict follows from the figures and the rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation.gate import GateRule, Verdict, gate

ENCODER = "encoder"  # the system that is judged; all others are baselines
FEW = "few"  # the name under which what was learnt from few labels stands beside the probes
DECIDING = ("linear", "pca", FEW)  # the first of these that a system has is what it is judged by


def deciding(probes: Mapping[str, Any]) -> str:
    """Return the name of the probe that a difference is taken of."""
    return next((name for name in DECIDING if name in probes), next(iter(probes)))


@dataclass(frozen=True)
class Evaluation:
    """Scores of the encoder and its baselines on test patients.

    ``num_train``, ``num_val``, ``num_test`` count labelled rows (images or volumes); the ``n`` of a ``Score`` and
    ``class_patients`` (role, then class) count patients. ``systems`` and ``differences`` (encoder minus baseline,
    deciding probes) are empty where the labels allow no figure; the verdict then says what is missing.
    """

    task: str
    metric: str
    classes: tuple[str, ...]
    num_train: int
    num_val: int
    num_test: int
    num_test_patients: int
    class_patients: Mapping[Role, Mapping[str, int]]
    systems: Mapping[str, Mapping[str, Score]]
    differences: Mapping[str, Score]
    feature_std: float
    rankme: float
    rule: GateRule

    def deciding(self, system: str) -> Score:
        """Return the score by which ``system`` is judged."""
        return self.systems[system][deciding(self.systems[system])]

    @property
    def verdict(self) -> Verdict:
        """What the gate says to these figures."""
        return gate(self, self.rule)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, for the journal and the report."""
        return {
            "task": self.task,
            "metric": self.metric,
            "classes": list(self.classes),
            "num_train": self.num_train,
            "num_val": self.num_val,
            "num_test": self.num_test,
            "systems": {s: {p: asdict(score) for p, score in probes.items()} for s, probes in self.systems.items()},
            "differences": {baseline: asdict(score) for baseline, score in self.differences.items()},
            "feature_std": self.feature_std,
            "rankme": self.rankme,
            "verdict": {"decision": str(self.verdict.decision), "reasons": list(self.verdict.reasons)},
        }
