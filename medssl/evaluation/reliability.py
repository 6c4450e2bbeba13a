"""Whether predicted probabilities come true, bin by bin, with counts and intervals."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.problem import Floats, Kind, Rows

MANY, BINS, FEW_BINS = 100, 10, 5  # from so many predictions on ten bins, else five


@dataclass(frozen=True)
class Bin:
    """Predictions from ``start`` to ``stop``: their mean, the share that came true (with interval), their numbers."""

    start: float
    stop: float
    predicted: float
    observed: float
    low: float
    high: float
    num: int
    num_patients: int


def confidences(kind: Kind, truth: NDArray[Any], probabilities: Floats) -> tuple[Floats, NDArray[np.bool_], Rows]:
    """Return what was predicted, whether it came true, and the row of each, ``M`` each.

    Of two classes the probability of the second; of more that of the most probable one (Guo et al., ICML 2017,
    section 2); of findings that of each.

    Args:
        kind: not a regression.
        truth: ``N`` class indices, or ``N K`` of findings.
        probabilities: ``N K``.
    """
    rows = np.arange(len(probabilities))
    if kind is Kind.MULTILABEL:
        return probabilities.ravel(), np.asarray(truth).ravel() == 1, np.repeat(rows, probabilities.shape[1])
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], np.asarray(truth) == 1, rows
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == truth, rows


def reliability(
    predicted: Floats, came_true: NDArray[np.bool_], patients: NDArray[np.str_], level: float = 0.95
) -> tuple[Bin, ...]:
    """Return the bins that hold a prediction, ascending.

    Intervals are Wilson's (1927), each patient counted once: resampling would call a bin certain in which everything
    came true, or which holds one patient.

    Args:
        predicted: ``M`` in [0, 1].
        came_true: ``M``.
        patients: ``M``.
        level: of the intervals.
    """
    num_bins = BINS if len(predicted) >= MANY else FEW_BINS
    member = np.minimum((predicted * num_bins).astype(np.int64), num_bins - 1)
    found = []
    for i in np.unique(member).tolist():
        inside = member == i
        observed, num_patients = float(came_true[inside].mean()), len(np.unique(patients[inside]))
        low, high = wilson(observed, num_patients, level)
        means = float(predicted[inside].mean()), observed, low, high
        found.append(Bin(i / num_bins, (i + 1) / num_bins, *means, int(inside.sum()), num_patients))
    return tuple(found)


def wilson(share: float, num: int, level: float) -> tuple[float, float]:
    """Return the score interval of a share of ``num`` (Wilson, JASA 22, 1927)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return max(0.0, middle - half), min(1.0, middle + half)
