"""How well predictions tell classes or findings apart, for many weightings of the same rows at once.

Each takes ``truth`` (``N`` class indices or ``N K`` findings, 0 or 1), ``predictions`` (``N K`` probabilities) and
``weights`` (``R N``, non-negative, one row a weighting), and returns ``R`` values. Where a class, or either outcome of
a finding, has no weight, the figure is undefined: NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.problem import Floats

OfCurve = Callable[[Floats, Floats], Floats]  # weight of true and of false positives, R G each -> R values
SLACK = 1e-12  # a specificity of exactly 0.95 is not missed by a rounding


def auroc(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return the area under the ROC curve: of class 1 of two, else the macro mean of one-vs-rest or of findings."""
    return _over_classes(area, truth, predictions, weights)


def auprc(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return average precision; classes and findings as in ``auroc``."""
    return _over_classes(average_precision, truth, predictions, weights)


def sensitivity_at(specificity: float) -> Callable[[NDArray[Any], Floats, Floats], Floats]:
    """Return the metric: the highest sensitivity on the ROC curve where specificity is no lower than this fraction.

    The threshold is chosen on the rows that are judged, as the ROC curve is drawn; it is no threshold set beforehand.
    """
    return partial(_over_classes, sensitivity_of(specificity))


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


def curves(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Yield the ROC curve of class 1 of two, else of each class against the rest, or of each finding.

    A curve is the weight of true and of false positives at each threshold, from the highest on: ``R G`` each.
    """
    num = predictions.shape[1]
    if truth.ndim == 1 and num == 2:
        yield _curve(truth == 1, predictions[:, 1], weights)
        return
    positive = truth == 1 if truth.ndim == 2 else truth[:, None] == np.arange(num)  # N K
    for k in range(num):
        yield _curve(positive[:, k], predictions[:, k], weights)


def area(true: Floats, false: Floats) -> Floats:
    """Return the area under a ROC curve; a tie counts half."""
    height = true - np.diff(true, axis=1, prepend=0) / 2
    return ratio((height * np.diff(false, axis=1, prepend=0)).sum(1), true[:, -1] * false[:, -1])


def average_precision(true: Floats, false: Floats) -> Floats:
    """Return the mean precision over the positives."""
    flagged = true + false
    precision = np.divide(true, flagged, out=np.zeros_like(flagged), where=flagged > 0)
    found = ratio((np.diff(true, axis=1, prepend=0) * precision).sum(1), true[:, -1])
    return np.asarray(np.where(false[:, -1] > 0, found, np.nan))


def sensitivity_of(specificity: float) -> OfCurve:
    """Return what reads the sensitivity at this specificity off a curve."""

    def reached(true: Floats, false: Floats) -> Floats:
        specific = 1 - ratio(false, false[:, -1:]) >= specificity - SLACK
        most = np.where(specific, true, 0).max(1)
        return np.asarray(np.where(false[:, -1] > 0, ratio(most, true[:, -1]), np.nan))

    return reached


def _over_classes(of_curve: OfCurve, truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    values = [of_curve(*curve) for curve in curves(truth, predictions, weights)]
    return np.asarray(np.mean(values, axis=0))  # a NaN of one class is a NaN of the mean


def _curve(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(score[order]) != 0, True])  # of the rows of equal score
    ordered = weights[:, order]
    true, flagged = np.cumsum(ordered * positive[order], axis=1), np.cumsum(ordered, axis=1)
    if len(last) < len(order):
        true, flagged = true[:, last], flagged[:, last]
    return true, flagged - true


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
