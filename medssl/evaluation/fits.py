"""Probes as ``Fit``s: closures over cached features of every row of a problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError
from medssl.core.keys import hash_words
from medssl.core.types import Role
from medssl.evaluation.probes import Labelled, knn_probe, linear_probe, pixels_probe
from medssl.evaluation.problem import Fit, Floats, Problem, Rows


def finite(name: str, features: NDArray[Any], num: int) -> NDArray[Any]:
    """Return ``N D`` features.

    Raises:
        EvaluationError: there are not ``num`` rows, or one is not finite.
    """
    if len(features) != num:
        raise EvaluationError(f"{name} has {len(features)} rows, truth has {num}: they must be equal")
    flat = np.asarray(features).reshape(num, -1)
    bad = ~np.isfinite(flat).all(axis=1)
    if bad.any():
        raise EvaluationError(f"{name}: {bad.sum()} of {num} rows are not finite, first row {bad.argmax()}")
    return flat


def several(fits: Sequence[Fit]) -> Fit:
    """Return what each of ``S`` equal systems predicts, ``S M K``: their figure is the mean of theirs."""
    return fits[0] if len(fits) == 1 else lambda *given: np.stack([fit(*given) for fit in fits])


def in_turn(fits: Sequence[Fit]) -> Fit:
    """Return ``S`` equal systems as one: the seed says whose turn it is."""
    return lambda train, val, test, seed: fits[seed % len(fits)](train, val, test, seed)


def linear_fit(problem: Problem, features: NDArray[Any], name: str = "features") -> Fit:
    """Return a linear probe on ``N D`` features; see ``linear_probe``."""
    x = finite(name, features, len(problem))

    def fit(train: Rows, val: Rows, test: Rows, seed: int) -> Floats:
        known = Labelled.of(problem, x, train), Labelled.of(problem, x, val)
        return linear_probe(*known, x[test], num_classes=problem.num_outputs, kind=problem.kind)

    return fit


def knn_fit(problem: Problem, features: NDArray[Any], name: str = "features") -> Fit:
    """Return a kNN probe on ``N D`` features; see ``knn_probe``."""
    x = finite(name, features, len(problem))

    def fit(train: Rows, val: Rows, test: Rows, seed: int) -> Floats:
        known = Labelled.of(problem, x, train)
        return knn_probe(known, x[test], num_classes=problem.num_outputs, kind=problem.kind)

    return fit


def pca_fit(problem: Problem, pixels: NDArray[Any], name: str = "pixels") -> Fit:
    """Return PCA and a linear probe on ``N *S`` pixels, decomposed on every dev row; see ``pixels_probe``."""
    x = finite(name, pixels, len(problem))
    dev = problem.roles == str(Role.DEV)

    def fit(train: Rows, val: Rows, test: Rows, seed: int) -> Floats:
        known, state = (Labelled.of(problem, x, train), Labelled.of(problem, x, val)), hash_words("pca", seed) % 2**32
        return pixels_probe(*known, x[test], x[dev], num_classes=problem.num_outputs, seed=state, kind=problem.kind)

    return fit
