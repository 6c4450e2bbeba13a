"""Choosing between what was learnt, by labels it was not learnt from: val, or folds of train where val is small.

One rule for penalties of probes, for rates and moments of networks, and for which of several to take. Measured on
PneumoniaMNIST (25 draws): with 42 labels and 5 in val, folds of train choose a penalty that is better by .007 AUROC
than val's; with 100 and 12 by .005, with 212 and 23 as good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge, Gt, Len
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from medssl.core.config import Config
from medssl.evaluation.metrics import metric_named
from medssl.evaluation.problem import Fit, Floats, Problem, Rows

ENOUGH = 5  # patients of each class of train that val needs to choose by
FOLDS = 3

Known = tuple[NDArray[Any], NDArray[Any]]  # the labels of rows and whose they are


class Tuning(Config):
    """What every network that learns from labels may try, and for how long; the same for all of them.

    It trains once with each of ``rates`` (the peak of the schedule) and is looked at in ``moments`` even moments; where
    val cannot choose, once more with each for every one of ``folds``. The optimiser steps are those of the task's
    epochs, but at least ``least`` where there are few images, and at most ``most``, or one epoch, where there are many.

    Measured on PneumoniaMNIST: a ResNet of width 16 needs 100 steps whatever the labels, a small vision transformer
    from scratch 600 at 1 % of them (AUROC .94; tuned within 200, .84) and 1,000 at 10 % (.98; after 400, .94).
    """

    rates: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(1)] = (1e-3, 3e-3)
    weight_decay: Annotated[float, Ge(0)] = 0.05
    moments: Annotated[int, Ge(1)] = 4
    folds: Annotated[int, Ge(2)] = 2
    least: Annotated[int, Ge(1)] = 800
    most: Annotated[int, Ge(1)] = 2000

    def epochs(self, epochs: int, steps_per_epoch: int) -> int:
        """Return how often to go through the images, of which one pass is ``steps_per_epoch``."""
        steps = min(max(epochs * steps_per_epoch, self.least), self.most)
        return ceil(steps / steps_per_epoch)


@dataclass(frozen=True)
class Holdout:
    """Rows to learn from, and rows to choose by: those of val, or a fold of train."""

    fit: Rows
    held: Rows
    is_val: bool = False


@runtime_checkable
class Telling(Protocol):
    """A ``Fit`` that can say what it chose the last time; plain JSON."""

    @property
    def told(self) -> Mapping[str, Any]:
        """What was chosen, of what, by how much."""


def holdouts(problem: Problem, train: Rows, val: Rows, folds: int = FOLDS) -> list[Holdout]:
    """Return the ``splits`` of rows of a problem."""
    rows = np.concatenate([train, val])
    known, held = ((problem.truth[some], problem.patients[some]) for some in (train, val))
    ways = splits(known, held, folds, exclusive=problem.kind.exclusive)
    return [replace(way, fit=rows[way.fit], held=rows[way.held]) for way in ways]


def splits(train: Known, val: Known, folds: int, *, exclusive: bool) -> list[Holdout]:
    """Return ``(train, val)`` alone where val has ``ENOUGH`` patients of each class of train, else ``folds`` of train.

    Rows are counted through [train; val]; ``exclusive``: labels are classes.

    A patient is on one side of a fold, so one with images of two classes can leave a fold without a class to learn;
    such a fold is left out. Fewer than two are none: nothing can be held out, and nothing chosen. Findings and numbers
    have no classes; there patients are counted.
    """
    truth, patients = train
    classes = np.unique(truth) if exclusive else None
    rows = np.arange(len(truth))
    if _fewest_patients(*val, classes) >= ENOUGH:
        return [Holdout(rows, len(rows) + np.arange(len(val[0])), is_val=True)]
    num = min(folds, _fewest_patients(truth, patients, classes))
    if num < 2:
        return []
    split = StratifiedGroupKFold(num) if exclusive else GroupKFold(num)
    made = [Holdout(*sides) for sides in split.split(rows, truth if exclusive else None, patients)]
    usable = [h for h in made if len(h.held) and _fewest_patients(truth[h.fit], patients[h.fit], classes)]
    return usable if len(usable) > 1 else []


def chosen_by(ways: Sequence[Holdout]) -> str:
    """Return what ``holdouts`` lets choose, in words; empty where nothing can."""
    return "val" if ways and ways[0].is_val else f"{len(ways)} folds" if ways else ""


def standing(problem: Problem, rows: Rows, predictions: Floats, metric: str) -> tuple[float, float]:
    """Return what candidates are ranked by: the metric, and where it ties minus the log loss; the larger the better.

    On few rows a metric of ranks has few values and ties often. One that is undefined stands below all others.
    """
    truth, weight = problem.truth[rows], np.ones((1, len(rows)))
    truth = truth.astype(np.int64) if problem.names else truth
    measure = metric_named(metric, problem.kind)
    value = float(measure(truth, predictions, weight)[0]) * (1 if measure.higher_is_better else -1)
    loss = float(metric_named("log_loss")(truth, predictions, weight)[0]) if problem.kind.exclusive else 0.0
    return (-np.inf if np.isnan(value) else value), -loss


def _fewest_patients(truth: NDArray[Any], patients: NDArray[Any], classes: NDArray[Any] | None) -> int:
    """Return how many patients there are of the one of ``classes`` that has fewest; of all, without classes."""
    if classes is None:
        return len(np.unique(patients))
    return min((len(np.unique(patients[truth == c])) for c in classes), default=0)


@dataclass
class BestOf:
    """The one of several ``Fit``s that predicts held-out labels best: chosen anew for every draw, never on test.

    All are judged by the labels that they are tuned on, val or what each fold holds out, so one that tries more is
    flattered a little more; a fold's labels are not learnt from.

    Attributes:
        problem: what is to be predicted.
        fits: by name; the first stands where nothing can be held out, or two are equal.
        metric: a name of ``METRICS``.
        told: what was chosen the last time, and the figures that it was chosen by.
    """

    problem: Problem
    fits: Mapping[str, Fit]
    metric: str
    told: Mapping[str, Any] = field(default_factory=dict, init=False)

    def __call__(self, train: Rows, val: Rows, test: Rows, seed: int) -> Floats:
        """Return the predictions of the best; each learns once where val can judge, else once for every fold."""
        ways = holdouts(self.problem, train, val)
        by_val = bool(ways) and ways[0].is_val
        if not ways:
            name = next(iter(self.fits))
            self.told = {"chosen": name, "because": "no label can be held out"}
            return self.fits[name](train, val, test, seed)
        at_once = test if by_val else test[:0]  # val judges the very fit that predicts test
        predicted = {
            name: [fit(way.fit, way.held, np.concatenate([way.held, at_once]), seed) for way in ways]
            for name, fit in self.fits.items()
        }
        held = np.concatenate([way.held for way in ways])
        standings = {
            name: standing(
                self.problem,
                held,
                np.concatenate([part[: len(way.held)] for part, way in zip(parts, ways, strict=True)]),
                self.metric,
            )
            for name, parts in predicted.items()
        }
        name = max(standings, key=lambda known: standings[known])
        figures = {known: value if np.isfinite(value) else None for known, (value, _) in standings.items()}
        self.told = {"chosen": name, "because": chosen_by(ways), self.metric: figures}
        return predicted[name][0][len(held) :] if by_val else self.fits[name](train, val, test, seed)
