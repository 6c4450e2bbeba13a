"""What an evaluation found; the verdict follows from the figures and the rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation.gate import GateRule, Verdict, gate
from medssl.evaluation.panel import Panel
from medssl.evaluation.problem import Kind

if TYPE_CHECKING:
    from medssl.evaluation.audits import Audits

ENCODER = "encoder"  # the system that is judged; all others are baselines
FEW = "few"  # the name under which what was learnt from few labels stands beside the probes
DECIDING = ("linear", "pca", FEW)  # the first of these that a system has is what it is judged by


def plain(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Return scores by name as plain JSON types."""
    return {name: asdict(score) for name, score in scores.items()}


def deciding(probes: Mapping[str, Any]) -> str:
    """Return the name of the probe that a difference is taken of."""
    return next((name for name in DECIDING if name in probes), next(iter(probes)))


@dataclass(frozen=True)
class Comparison:
    """The encoder beside a baseline: both scores, and their difference by one paired bootstrap.

    ``lost``: of comparisons with something covered, how much smaller that made the difference. ``unit``: the error of a
    constant guess where the metric of these scores has a unit, else 1. ``draw_spread``: the standard deviation of the
    difference between the ``draws`` of few labels that both learnt from, for which the interval allows.
    """

    encoder: Score
    baseline: Score
    difference: Score
    lost: Score | None = None
    unit: float = 1.0
    draw_spread: float = 0.0
    draws: int = 1

    @property
    def vanished(self) -> bool:
        """Whether the difference is proven to be smaller, by half or more of itself, and is not above 0 any longer."""
        if self.lost is None or self.lost.low <= 0 or self.difference.low > 0:
            return False
        return self.difference.high <= (self.difference.value + self.lost.value) / 2


@dataclass(frozen=True)
class Evaluation:
    """Scores of the encoder and its baselines on test patients.

    ``num_train``, ``num_val``, ``num_test`` count labelled rows (images or volumes); the ``n`` of a ``Score`` and
    ``class_patients`` (role, then class) count patients. ``systems`` and ``differences`` (encoder minus baseline,
    deciding probes; of few labels under ``…_few``) are empty where the labels allow no figure; the verdict then says
    what is missing. ``draw_spreads`` are the standard deviations between draws of the differences with few labels, by
    baseline. ``panels`` are all metrics of each system's deciding probe (few labels: ``…_few``); they decide
    nothing, nor do ``probe_differences``, by system and probe, of probes that are not the deciding ones. ``unit`` is
    the error of a constant guess where the metric has a unit, else 1. ``covered`` are comparisons with the border of
    every image covered, ``warnings`` what the audits warn of, by audit: both come from audits, and are empty without.
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
    kind: Kind = Kind.CLASSES
    unit: float = 1.0
    draw_spreads: Mapping[str, float] = field(default_factory=dict)
    panels: Mapping[str, Panel] = field(default_factory=dict)
    probe_differences: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    covered: Mapping[str, Comparison] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)

    def comparison(self, baseline: str) -> Comparison:
        """Return the encoder beside ``baseline``: with few labels, where that is how the baseline was measured."""
        system = baseline.removesuffix(f"_{FEW}")
        probe = FEW if self.is_of_few(baseline) else deciding(self.systems[system])
        ours = self.systems[ENCODER]
        encoder = ours[FEW] if probe == FEW else ours[deciding(ours)]
        return Comparison(
            encoder,
            self.systems[system][probe],
            self.differences[baseline],
            unit=self.unit,
            draw_spread=self.draw_spreads.get(baseline, 0.0),
            draws=self.rule.draws if probe == FEW else 1,
        )

    def is_of_few(self, baseline: str) -> bool:
        """Return whether ``baseline`` was compared with by what few labels teach."""
        return baseline.endswith(f"_{FEW}") or deciding(self.systems[baseline]) == FEW

    def audited(self, audits: Audits) -> Evaluation:
        """Return this evaluation with what the audits found, for the gate to judge by."""
        return replace(self, covered=audits.covered, warnings=audits.warnings)

    @property
    def verdict(self) -> Verdict:
        """What the gate says to these figures."""
        return gate(self, self.rule)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, for the journal and the report."""
        return {
            "task": self.task,
            "metric": self.metric,
            "kind": str(self.kind),
            "classes": list(self.classes),
            "num_train": self.num_train,
            "num_val": self.num_val,
            "num_test": self.num_test,
            "systems": {system: plain(probes) for system, probes in self.systems.items()},
            "differences": plain(self.differences),
            "draw_spreads": dict(self.draw_spreads),
            "probe_differences": {system: plain(found) for system, found in self.probe_differences.items()},
            "metrics": {system: plain(panel.metrics) for system, panel in self.panels.items()},
            "by_class": {
                system: plain(panel.by_class)
                for system, panel in self.panels.items()
                if panel.by_class and not system.endswith(f"_{FEW}")
            },
            "covered": {baseline: asdict(found) for baseline, found in self.covered.items()},
            "warnings": dict(self.warnings),
            "feature_std": self.feature_std,
            "rankme": self.rankme,
            "rule": self.rule.data(),
            "verdict": {"decision": str(self.verdict.decision), "reasons": list(self.verdict.reasons)},
        }
