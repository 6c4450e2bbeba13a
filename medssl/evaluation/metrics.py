"""The metrics by name: what kind of task each judges, and whether more is better.

scikit-learn scores one weighting a call; a bootstrap needs a thousand. Each metric here sorts once and equals its
scikit-learn (for correlations scipy) namesake for every weighting (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from medssl.core.errors import EvaluationError
from medssl.core.plugins import did_you_mean
from medssl.evaluation import agreement, calibration, discrimination
from medssl.evaluation.problem import Floats, Kind

Measure = Callable[[NDArray[Any], Floats, Floats], Floats]

CLASSES, ORDINAL, FINDINGS, NUMBERS = Kind.CLASSES, Kind.ORDINAL, Kind.MULTILABEL, Kind.REGRESSION


@dataclass(frozen=True)
class Metric:
    """A figure of predictions: ``measure(truth, predictions, weights)`` returns ``R`` values, NaN where undefined.

    Attributes:
        measure: ``truth`` is ``N`` or ``N K``, ``predictions`` ``N K``, ``weights`` ``R N``.
        kinds: of task that it judges.
        higher_is_better: else lower is, and differences are turned so that positive is better.
        fraction: whether it lies in [0, 1], which its interval must not leave.
        share: whether it is 1 minus a ratio of errors (R²), which a few extreme patients pull down far more than up.
        by_class: whether every class counts alike, however rare: then its interval is as wide as the rarest makes it.
        of_curve: reads it off a ROC curve, where it can be, for several metrics to share the sorting.
    """

    measure: Measure
    kinds: frozenset[Kind]
    higher_is_better: bool = True
    fraction: bool = False
    share: bool = False
    by_class: bool = False
    of_curve: discrimination.OfCurve | None = None

    def __call__(self, truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
        """Return ``R`` values."""
        return self.measure(truth, predictions, weights)


PRESENT = frozenset({CLASSES, ORDINAL, FINDINGS})
EXCLUSIVE = frozenset({CLASSES, ORDINAL})


def _of_curve(measure: Measure, of_curve: discrimination.OfCurve) -> Metric:
    return Metric(measure, PRESENT, fraction=True, by_class=True, of_curve=of_curve)


METRICS: Mapping[str, Metric] = {
    "auroc": _of_curve(discrimination.auroc, discrimination.area),
    "auprc": _of_curve(discrimination.auprc, discrimination.average_precision),
    "balanced_accuracy": Metric(discrimination.balanced_accuracy, EXCLUSIVE, fraction=True, by_class=True),
    "f1": Metric(discrimination.f1, PRESENT, fraction=True, by_class=True),
    "sensitivity_at_90": _of_curve(discrimination.sensitivity_at(0.90), discrimination.sensitivity_of(0.90)),
    "sensitivity_at_95": _of_curve(discrimination.sensitivity_at(0.95), discrimination.sensitivity_of(0.95)),
    "brier": Metric(calibration.brier, PRESENT, higher_is_better=False),
    "log_loss": Metric(calibration.log_loss, EXCLUSIVE, higher_is_better=False),
    "ece": Metric(calibration.ece, EXCLUSIVE, higher_is_better=False, fraction=True),
    "kappa": Metric(agreement.kappa, frozenset({ORDINAL})),
    "class_mae": Metric(agreement.class_mae, frozenset({ORDINAL}), higher_is_better=False),
    "mae": Metric(agreement.mae, frozenset({NUMBERS}), higher_is_better=False),
    "r2": Metric(agreement.r2, frozenset({NUMBERS}), share=True),
    "pearson": Metric(agreement.pearson, frozenset({NUMBERS})),
    "spearman": Metric(agreement.spearman, frozenset({NUMBERS})),
}

DEFAULT_METRIC: Mapping[Kind, str] = {CLASSES: "auroc", FINDINGS: "auroc", ORDINAL: "kappa", NUMBERS: "mae"}


def metrics_of(kind: Kind) -> tuple[str, ...]:
    """Return the names of the metrics that judge ``kind``, its default first."""
    default = DEFAULT_METRIC[kind]
    return (default, *(name for name, metric in METRICS.items() if kind in metric.kinds and name != default))


def metric_named(name: str, kind: Kind | None = None) -> Metric:
    """Return the metric called ``name``.

    Raises:
        EvaluationError: no such metric, or it does not judge tasks of ``kind``.
    """
    if name not in METRICS:
        raise EvaluationError(f"unknown metric {name!r}: {did_you_mean(name, METRICS)}")
    if kind is not None and kind not in METRICS[name].kinds:
        raise EvaluationError(f"metric {name!r} does not judge {kind} tasks; these do: {', '.join(metrics_of(kind))}")
    return METRICS[name]
