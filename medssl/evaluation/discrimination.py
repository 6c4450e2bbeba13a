"""How well predictions tell classes or findings apart, for many weightings of the same rows at once.

Each takes ``truth`` (``N`` class indices or ``N K`` findings, 0 or 1), ``predictions`` (``N K`` probabilities) and
``weights`` (``R N``, non-negative, one row a weighting), and returns ``R`` values. Where a class, or either outcome of
a finding, has no weight, the figure is undefined: NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.problem import Floats

SLACK = 1e-12  # a specificity of exactly 0.95 is not missed by a rounding


def auroc(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return the area under the ROC curve: of class 1 of two, else the macro mean of one-vs-rest or of findings."""
    return _over_classes(_binary_auroc, truth, predictions, weights)


def auprc(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return average precision; classes and findings as in ``auroc``."""
    return _over_classes(_binary_auprc, truth, predictions, weights)


def sensitivity_at(specificity: float) -> Callable[[NDArray[Any], Floats, Floats], Floats]:
    """Return the metric: the highest sensitivity on the ROC curve where specificity is no lower than this fraction.

    The threshold is chosen on the rows that are judged, as the ROC curve is drawn; it is no threshold set beforehand.
    """

    def binary(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
        pos, neg = tied(-score, weights * positive, weights * ~positive)
        specific = 1 - ratio(np.cumsum(neg, axis=1), neg.sum(1, keepdims=True)) >= specificity - SLACK
        reached = np.where(specific, np.cumsum(pos, axis=1), 0).max(1)
        return np.asarray(np.where(neg.sum(1) > 0, ratio(reached, pos.sum(1)), np.nan))

    def measure(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
        return _over_classes(binary, truth, predictions, weights)

    return measure


def balanced_accuracy(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return the mean recall over the classes of the most probable class."""
    member, chosen = decided(truth, predictions)
    return np.asarray(ratio(weights @ (member * chosen), weights @ member).mean(1))


def f1(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return macro F1 of the most probable class, or of the findings that are at least as likely as not."""
    member, chosen = decided(truth, predictions)
    present = weights @ member
    return np.asarray(
        np.where(present > 0, ratio(2 * (weights @ (member * chosen)), present + weights @ chosen), np.nan).mean(1)
    )


def decided(truth: NDArray[Any], predictions: Floats) -> tuple[Floats, Floats]:
    """Return what is so and what was said, each ``N K`` of zeros and ones."""
    if truth.ndim == 2:
        return truth.astype(np.float64), (predictions >= 0.5).astype(np.float64)
    classes = np.arange(predictions.shape[1])
    return (truth[:, None] == classes) * 1.0, (predictions.argmax(1)[:, None] == classes) * 1.0


def _over_classes(
    binary: Callable[[NDArray[np.bool_], Floats, Floats], Floats],
    truth: NDArray[Any],
    predictions: Floats,
    weights: Floats,
) -> Floats:
    num = predictions.shape[1]
    if truth.ndim == 1 and num == 2:
        return binary(truth == 1, predictions[:, 1], weights)
    positive = truth == 1 if truth.ndim == 2 else truth[:, None] == np.arange(num)  # N K
    values = [binary(positive[:, k], predictions[:, k], weights) for k in range(num)]
    return np.asarray(np.mean(values, axis=0))  # a NaN of one class is a NaN of the mean


def _binary_auroc(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    pos, neg = tied(score, weights * positive, weights * ~positive)
    beaten = np.cumsum(neg, axis=1) - neg / 2  # a tie counts half
    return ratio((pos * beaten).sum(1), pos.sum(1) * neg.sum(1))


def _binary_auprc(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    pos, neg = tied(-score, weights * positive, weights * ~positive)
    true_positives = np.cumsum(pos, axis=1)
    flagged = true_positives + np.cumsum(neg, axis=1)
    precision = np.divide(true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0)
    area = ratio((pos * precision).sum(1), pos.sum(1))
    return np.asarray(np.where(neg.sum(1) > 0, area, np.nan))


def tied(score: NDArray[Any], *weights: Floats) -> list[Floats]:
    """Return each of ``weights`` (``R N``) summed over rows of equal score, by ascending score: arrays ``R G``."""
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    return [np.add.reduceat(each[:, order], starts, axis=1) for each in weights]


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Return ``part / whole``, NaN where there is no whole."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))
