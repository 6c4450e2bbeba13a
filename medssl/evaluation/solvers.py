"""Linear models on frozen features, all tuned by one rule: what is held out chooses space and penalty.

Held out is what ``choosing`` says: ``val`` where it is large enough, else patients of ``train`` in turn, else nothing:
then the penalty is a fixed one. Classes and ordered classes get a multinomial logistic regression: it puts no order
on the slopes, so it needs no proportional odds, and an order that the features hold shows in the probabilities of
neighbouring classes. Each finding gets a logistic regression of its own, tuned on its own; numbers get a ridge
regression.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from medssl.core.errors import EvaluationError
from medssl.evaluation.choosing import Holdout, splits
from medssl.evaluation.problem import Floats, Kind, Problem, Rows

INVERSE_PENALTIES = tuple(float(c) for c in np.logspace(-5, 2, 8))
UNTUNED_INVERSE_PENALTY = 1e-2  # where neither validation nor cross-validation can be had
MAX_FOLDS = 5

Space = tuple[Floats, Floats]  # features of [train; val] and of test


@dataclass(frozen=True)
class Labelled:
    """Features ``x`` ``N D``, labels ``y`` (``N`` class indices or numbers, ``N K`` findings), ``patients`` ``N``."""

    x: NDArray[Any]
    y: NDArray[Any]
    patients: NDArray[Any]

    @classmethod
    def of(cls, problem: Problem, x: NDArray[Any], rows: Rows) -> Labelled:
        """Return ``rows`` of a problem with their features."""
        y = problem.truth[rows]
        return cls(x[rows], y.astype(np.int64) if problem.names else y, problem.patients[rows])


def solve(spaces: Sequence[Space], train: Labelled, val: Labelled, *, kind: Kind, num_classes: int) -> Floats:
    """Return ``M K`` predictions by the space and penalty of least held-out loss (ties: the first, more penalty).

    A finding that ``train`` shows on one side only is predicted by its smoothed frequency.

    Raises:
        EvaluationError: ``train`` holds fewer than two classes (of findings, each on one side; fewer than two numbers).
    """
    spaces = [_row_space(space, len(train.y)) for space in spaces]
    if kind is Kind.MULTILABEL:
        return _findings(spaces, train, val)
    if len(np.unique(train.y)) < 2:
        wanted = "numbers" if kind is Kind.REGRESSION else "classes"
        raise EvaluationError(f"a probe needs two {wanted} to train on, found one among {len(train.y)} rows")
    return _tuned(spaces, train, val, _Ridge() if kind is Kind.REGRESSION else _Logistic(num_classes))


def folds(train: Labelled, val: Labelled, kind: Kind) -> list[Holdout]:
    """Return what is held out in turn, rows counted through [train; val]; see ``splits``."""
    return splits((train.y, train.patients), (val.y, val.patients), MAX_FOLDS, exclusive=kind.exclusive)


class _Solver(ABC):
    kind: Kind

    @abstractmethod
    def path(self, x: Floats, y: NDArray[Any], fold: Holdout) -> list[float]:
        """Return the held-out loss of each penalty."""

    @abstractmethod
    def predict(self, x: Floats, y: NDArray[Any], test_x: Floats, inverse_penalty: float) -> Floats:
        """Return ``M K`` predictions."""


@dataclass(frozen=True)
class _Logistic(_Solver):
    num_classes: int
    kind = Kind.CLASSES

    def path(self, x: Floats, y: NDArray[Any], fold: Holdout) -> list[float]:
        model, losses = LogisticRegression(max_iter=1000, warm_start=True), []  # each fit starts from the one before
        for c in INVERSE_PENALTIES:
            _converged(model.set_params(C=c), x[fold.fit], y[fold.fit])
            given = self._probabilities(model, x[fold.held])[np.arange(len(fold.held)), y[fold.held]]
            losses.append(float(-np.log(np.maximum(given, 1e-15)).mean()))
        return losses

    def predict(self, x: Floats, y: NDArray[Any], test_x: Floats, inverse_penalty: float) -> Floats:
        model = LogisticRegression(C=inverse_penalty, max_iter=1000)
        return self._probabilities(_converged(model, x, y), test_x)

    def _probabilities(self, model: LogisticRegression, x: Floats) -> Floats:
        out = np.zeros((len(x), self.num_classes))
        out[:, model.classes_] = model.predict_proba(x)
        return out


@dataclass(frozen=True)
class _Ridge(_Solver):
    kind = Kind.REGRESSION

    def path(self, x: Floats, y: NDArray[Any], fold: Holdout) -> list[float]:
        given = [self.predict(x[fold.fit], y[fold.fit], x[fold.held], c)[:, 0] for c in INVERSE_PENALTIES]
        return [float(((y[fold.held] - each) ** 2).mean()) for each in given]

    def predict(self, x: Floats, y: NDArray[Any], test_x: Floats, inverse_penalty: float) -> Floats:
        return np.asarray(Ridge(alpha=1 / inverse_penalty).fit(x, y).predict(test_x)[:, None])


def _converged(model: LogisticRegression, x: Floats, y: NDArray[Any]) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # held-out data judges an unfinished fit like any other
        return model.fit(x, y)


def _tuned(spaces: Sequence[Space], train: Labelled, val: Labelled, solver: _Solver) -> Floats:
    y, held_out = np.concatenate([train.y, val.y]), folds(train, val, solver.kind)
    best, space, inverse_penalty = np.inf, spaces[0], UNTUNED_INVERSE_PENALTY
    for candidate in spaces if held_out else ():
        losses = np.mean([solver.path(candidate[0], y, fold) for fold in held_out], axis=0)
        if losses.min() < best:
            best, space, inverse_penalty = losses.min(), candidate, INVERSE_PENALTIES[int(losses.argmin())]
    return solver.predict(space[0][: len(train.y)], train.y, space[1], inverse_penalty)


def _findings(spaces: Sequence[Space], train: Labelled, val: Labelled) -> Floats:
    num_test, given = len(spaces[0][1]), []
    one_sided = [len(np.unique(column)) < 2 for column in train.y.T]
    if all(one_sided):
        raise EvaluationError(f"a probe needs a finding both present and absent, found none in {len(train.y)} rows")
    for k, alone in enumerate(one_sided):
        if alone:
            given.append(np.full(num_test, (train.y[:, k].sum() + 1) / (len(train.y) + 2)))
            continue
        column = [replace(part, y=part.y[:, k].astype(np.int64)) for part in (train, val)]
        given.append(_tuned(spaces, column[0], column[1], _Logistic(2))[:, 1])
    return np.stack(given, axis=1)


def _row_space(space: Space, num_train: int) -> Space:
    """Return features in the basis of the span of the training rows, where that is the smaller.

    An l2-penalised linear model cannot tell the difference (Hastie et al., The Elements of Statistical Learning,
    2nd ed., section 18.3.5); fits with few labels become many times faster.
    """
    known, test = space
    if num_train >= known.shape[1]:
        return space
    basis = np.linalg.svd(known[:num_train], full_matrices=False)[2].T  # D n
    return known @ basis, test @ basis
