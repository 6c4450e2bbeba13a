"""Metrics of class probabilities, for many weightings of the same rows at once.

scikit-learn scores one weighting a call; a bootstrap needs a thousand. Each metric here sorts once and equals its
scikit-learn namesake with ``sample_weight`` for every weighting (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError
from medssl.core.plugins import did_you_mean

Floats = NDArray[np.float64]
Metric = Callable[[NDArray[np.int64], Floats, Floats], Floats]


def auroc(truth: NDArray[np.int64], probabilities: Floats, weights: Floats) -> Floats:
    """Return the area under the ROC curve, ``R``: of class 1 where there are two, else the macro mean of one-vs-rest.

    Args:
        truth: ``N`` class indices.
        probabilities: ``N K``.
        weights: ``R N``, non-negative; one row a weighting.

    Returns:
        ``R`` values; NaN where a class has no weight, because the area is undefined there.
    """
    return _over_classes(_binary_auroc, truth, probabilities, weights)


def auprc(truth: NDArray[np.int64], probabilities: Floats, weights: Floats) -> Floats:
    """Return average precision, ``R``; arguments, classes and NaN as in ``auroc``."""
    return _over_classes(_binary_auprc, truth, probabilities, weights)


def balanced_accuracy(truth: NDArray[np.int64], probabilities: Floats, weights: Floats) -> Floats:
    """Return the mean recall over the classes of the most probable class, ``R``; NaN where a class has no weight."""
    member = (truth[:, None] == np.arange(probabilities.shape[1])).astype(np.float64)  # N K
    hit = member * (probabilities.argmax(1) == truth)[:, None]
    return np.asarray(_ratio(weights @ hit, weights @ member).mean(1))


METRICS: Mapping[str, Metric] = {"auroc": auroc, "auprc": auprc, "balanced_accuracy": balanced_accuracy}


def metric_named(name: str) -> Metric:
    """Return the metric called ``name``.

    Raises:
        EvaluationError: no such metric.
    """
    if name not in METRICS:
        raise EvaluationError(f"unknown metric {name!r}: {did_you_mean(name, METRICS)}")
    return METRICS[name]


def _over_classes(
    binary: Callable[[NDArray[np.bool_], Floats, Floats], Floats],
    truth: NDArray[np.int64],
    probabilities: Floats,
    weights: Floats,
) -> Floats:
    num_classes = probabilities.shape[1]
    if num_classes == 2:
        return binary(truth == 1, probabilities[:, 1], weights)
    values = [binary(truth == k, probabilities[:, k], weights) for k in range(num_classes)]
    return np.asarray(np.mean(values, axis=0))  # a NaN of one class is a NaN of the mean


def _binary_auroc(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    pos, neg = _tied(positive, score, weights)
    beaten = np.cumsum(neg, axis=1) - neg / 2  # a tie counts half
    return _ratio((pos * beaten).sum(1), pos.sum(1) * neg.sum(1))


def _binary_auprc(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    pos, neg = _tied(positive, -score, weights)
    true_positives = np.cumsum(pos, axis=1)
    flagged = true_positives + np.cumsum(neg, axis=1)
    precision = np.divide(true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0)
    area = _ratio((pos * precision).sum(1), pos.sum(1))
    return np.asarray(np.where(neg.sum(1) > 0, area, np.nan))


def _tied(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the positive and the negative weight at each distinct score, ascending: two arrays ``R G``."""
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weights = weights[:, order]
    pos = weights * positive[order]
    return np.add.reduceat(pos, starts, axis=1), np.add.reduceat(weights - pos, starts, axis=1)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0))
