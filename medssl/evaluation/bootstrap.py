"""Intervals by resampling patients, and ONE paired resampling for a difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError
from medssl.core.keys import generator
from medssl.core.score import Score
from medssl.evaluation.metrics import Floats, Metric, metric_named

CELLS_AT_ONCE = 2**22  # resamples x rows held in memory together: 32 MB of float64


def patient_bootstrap(
    metric: str,
    truth: NDArray[np.int64],
    probabilities: Floats,
    patients: Sequence[Any] | NDArray[Any],
    *,
    seed: int,
    num: int = 1000,
    level: float = 0.95,
) -> Score:
    """Return a metric with its percentile interval over resampled patients (Efron 1979; clusters, not rows).

    Percentile intervals are a little too narrow on few patients: in 2,000 simulations the 95 % interval of an AUROC of
    .80 covered it in 91 % for 20 patients, 93 % for 40, 94 % for 100 and for 300.

    Args:
        metric: a name of ``METRICS``.
        truth: ``N`` class indices.
        probabilities: ``N K``, or ``S N K`` of several draws of training labels: the mean of their metrics counts.
        patients: ``N``; the rows of a patient are drawn together.
        seed: the same seed draws the same patients, whatever the metric.
        num: resamples. Those without every class leave the metric undefined and are left out.
        level: of the interval.

    Raises:
        EvaluationError: the metric is undefined on these rows, or on more than half of the resamples.
    """
    measure = metric_named(metric)
    return _bootstrap(metric, partial(_mean, measure, truth, probabilities), patients, seed, num, level)


def paired_difference(
    metric: str,
    truth: NDArray[np.int64],
    a: Floats,
    b: Floats,
    patients: Sequence[Any] | NDArray[Any],
    *,
    seed: int,
    num: int = 1000,
    level: float = 0.95,
) -> Score:
    """Return ``metric(a) - metric(b)``, both measured on the same resampled patients; arguments as above."""
    measure = metric_named(metric)

    def difference(weights: Floats) -> Floats:
        return _mean(measure, truth, a, weights) - _mean(measure, truth, b, weights)

    return _bootstrap(f"{metric} difference", difference, patients, seed, num, level)


def _mean(measure: Metric, truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    draws = predictions if predictions.ndim == 3 else predictions[None]
    return np.asarray(np.mean([measure(truth, one, weights) for one in draws], axis=0))


def _bootstrap(
    name: str, measure: Callable[[Floats], Floats], patients: Any, seed: int, num: int, level: float
) -> Score:
    unique, patient = np.unique(np.asarray(patients), return_inverse=True)
    value = float(measure(np.ones((1, len(patient))))[0])
    if np.isnan(value):
        raise EvaluationError(f"{name} is undefined: each class needs a labelled row, among {len(patient)} rows")
    rng = generator("patient bootstrap", seed)
    step = max(1, CELLS_AT_ONCE // len(patient))
    parts = [measure(_counts(rng, min(step, num - done), len(unique))[:, patient]) for done in range(0, num, step)]
    values = np.concatenate(parts)
    values = values[~np.isnan(values)]
    if 2 * len(values) < num:
        raise EvaluationError(f"{name}: only {len(values)} of {num} resamples hold every class; label more patients")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Score(name, value, float(low), float(high), len(unique), level)


def _counts(rng: np.random.Generator, num: int, num_patients: int) -> Floats:
    """Return how often each patient is drawn, ``num num_patients``, each row summing to ``num_patients``."""
    drawn = rng.integers(num_patients, size=(num, num_patients)) + num_patients * np.arange(num)[:, None]
    return np.bincount(drawn.ravel(), minlength=num * num_patients).reshape(num, -1).astype(np.float64)
