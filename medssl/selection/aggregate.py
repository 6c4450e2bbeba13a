"""From volume scores to study scores, and from raw scores to comparable ones; all in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from medssl.core.errors import SelectionError

Aggregate = Literal["mean", "max"]
Standardise = Literal["rank", "zscore"]


def by_study(
    values: NDArray[Any], studies: NDArray[Any], how: Aggregate = "mean"
) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Aggregate the values of each study's volumes.

    Args:
        values: ``N`` losses or ``N K`` probabilities, a volume.
        studies: ``N`` ids.
        how: ``mean``, or ``max`` (one odd volume makes the study odd).

    Returns:
        ``M`` study ids in order, and ``M`` or ``M K`` values; bit-equal for any order of the rows.

    Raises:
        SelectionError: lengths differ, or a value is not finite.
    """
    values, studies = np.asarray(values, dtype=np.float64), np.asarray(studies, dtype=np.str_)
    if len(values) != len(studies):
        raise SelectionError(f"{len(values)} values for {len(studies)} volumes: they must be equal in number")
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        raise SelectionError(f"{bad.sum()} of {len(values)} values are not finite numbers; score the volumes again")
    names, starts, sizes = np.unique(np.sort(studies), return_index=True, return_counts=True)
    if not len(names):
        return names, values
    if values.ndim == 1:
        return names, _reduced(values, studies, starts, sizes, how)
    return names, np.stack([_reduced(column, studies, starts, sizes, how) for column in values.T], axis=-1)


def standardise(scores: NDArray[Any], strata: NDArray[Any], how: Standardise = "rank") -> NDArray[np.float64]:
    """Make scores comparable between strata (modality, scanner), so that selection is no scanner detector.

    ``rank`` gives (rank - 1/2) / n within the stratum, ties sharing their mean rank: loss values of two pretext runs
    do not agree, their ranks do, and a stratum with a heavy tail cannot fill the top. ``zscore`` gives (score - mean)
    / std, 0 throughout a constant stratum. Neither reverses the order within a stratum.

    Args:
        scores: ``N``.
        strata: ``N``.
        how: ``rank`` or ``zscore``.
    """
    transform: Callable[[NDArray[np.float64]], NDArray[np.float64]] = _ranks if how == "rank" else _zscores
    scores, strata = np.asarray(scores, dtype=np.float64), np.asarray(strata, dtype=np.str_)
    out = np.empty(len(scores))
    for stratum in np.unique(strata):
        member = strata == stratum
        out[member] = transform(scores[member])
    return out


def _reduced(
    column: NDArray[np.float64], studies: NDArray[np.str_], starts: Any, sizes: Any, how: Aggregate
) -> NDArray[np.float64]:
    grouped = column[np.lexsort((column, studies))]  # by value within a study: the sum rounds the same way always
    if how == "max":
        return np.asarray(np.maximum.reduceat(grouped, starts))
    return np.asarray(np.add.reduceat(grouped, starts) / sizes)


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((rankdata(scores) - 0.5) / len(scores))


def _zscores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.ptp(scores) == 0:
        return np.zeros(len(scores))
    return np.asarray((scores - scores.mean()) / scores.std())
