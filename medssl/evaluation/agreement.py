"""How near predictions come to an order or a number, for many weightings ``R N`` of the same rows at once.

``truth`` holds ``N`` class indices with ``N K`` probabilities, of which the most probable class counts, or ``N``
numbers with ``N 1`` predicted ones. Each returns ``R`` values, NaN where undefined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.discrimination import ratio, tied
from medssl.evaluation.problem import Floats


def kappa(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return Cohen's kappa with quadratic weights; undefined where all truth and predictions are one class.

    Cohen, Psychological Bulletin 70, 1968. Quadratic disagreement needs only moments, no table of classes.
    """
    t, p = truth.astype(np.float64), predictions.argmax(1).astype(np.float64)
    by_chance = weights @ (t**2 + p**2) - 2 * ratio((weights @ t) * (weights @ p), weights.sum(1))
    return 1 - ratio(weights @ (t - p) ** 2, by_chance)


def class_mae(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return by how many classes the most probable one is off, on average."""
    return ratio(weights @ np.abs(truth - predictions.argmax(1)), weights.sum(1))


def mae(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return the mean absolute error, in the unit of the truth."""
    return ratio(weights @ np.abs(truth - predictions[:, 0]), weights.sum(1))


def r2(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return the coefficient of determination; undefined where all truth is one number."""
    centred = truth - truth.mean()  # a shift that keeps digits
    spread = weights @ centred**2 - ratio((weights @ centred) ** 2, weights.sum(1))
    varies = np.where(_varies(truth, weights), spread, 0)
    return 1 - ratio(weights @ (truth - predictions[:, 0]) ** 2, varies)


def pearson(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return the linear correlation; undefined where truth or predictions do not vary."""
    num = len(weights)
    a, b = truth - truth.mean(), predictions[:, 0] - predictions[:, 0].mean()
    defined = _varies(truth, weights) & _varies(predictions[:, 0], weights)
    found = _correlation(np.broadcast_to(a, (num, len(a))), np.broadcast_to(b, (num, len(b))), weights)
    return np.asarray(np.where(defined, found, np.nan))


def spearman(truth: NDArray[Any], predictions: Floats, weights: Floats) -> Floats:
    """Return the correlation of ranks, equal values sharing their mean rank; undefined as in ``pearson``.

    A weight counts as that many copies of a row, which is what a resample holds.
    """
    defined = _varies(truth, weights) & _varies(predictions[:, 0], weights)
    found = _correlation(_ranks(truth, weights), _ranks(predictions[:, 0], weights), weights)
    return np.asarray(np.where(defined, found, np.nan))


def _ranks(values: NDArray[Any], weights: Floats) -> Floats:
    (together,) = tied(values, weights)
    group = np.unique(values, return_inverse=True)[1]
    return np.asarray((np.cumsum(together, axis=1) - together / 2)[:, group])


def _correlation(a: Floats, b: Floats, weights: Floats) -> Floats:
    whole = weights.sum(1, keepdims=True)
    a = a - ratio((weights * a).sum(1, keepdims=True), whole)
    b = b - ratio((weights * b).sum(1, keepdims=True), whole)
    spread = np.sqrt((weights * a**2).sum(1) * (weights * b**2).sum(1))
    return ratio((weights * a * b).sum(1), spread)


def _varies(values: NDArray[Any], weights: Floats) -> NDArray[np.bool_]:
    """Return whether rows with weight hold two different values, ``R``; exact, which a computed spread is not."""
    (together,) = tied(values, weights)
    return np.asarray((together > 0).sum(1) > 1)
