"""Every metric of a kind of task, and one of each class or finding, from the same predictions and resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError
from medssl.core.score import Score
from medssl.evaluation.bootstrap import score_of, sides, weightings
from medssl.evaluation.discrimination import curves
from medssl.evaluation.judge import Judge
from medssl.evaluation.metrics import METRICS, metrics_of
from medssl.evaluation.problem import Floats


@dataclass(frozen=True)
class Panel:
    """Scores by metric, and by class or finding against the rest; what is not defined on the judged rows is left out.

    ``by_class`` has the metric that is judged by, AUROC where that is none of a single class; it is empty of two
    classes, of a single finding and of numbers.
    """

    metrics: Mapping[str, Score]
    by_class: Mapping[str, Score]


def panel(judge: Judge, predictions: Floats) -> Panel:
    """Measure predictions for the judged rows, ``M K`` or ``S M K``, as ``Judge.score`` does by one metric."""
    units, names, classes = judge.units, metrics_of(judge.problem.kind), judge.problem.names
    given = units.mean(predictions)
    draws = given if given.ndim == 3 else given[None]
    everyone = np.ones((1, len(units.patients)))
    drawn = chain([everyone], weightings(units.patients, seed=judge.seed, num=judge.num_resamples))
    parts = [_mean([_measured(names, units.truth, one, weights) for one in draws]) for weights in drawn]
    values = {name: np.concatenate([part[name] for part in parts], axis=1) for name in names}  # K R + 1
    metrics = {name: _score(judge, name, found.mean(0), units.truth) for name, found in values.items()}
    single = judge.metric if METRICS[judge.metric].of_curve else "auroc"
    by_class = {}
    if 1 < len(classes) == len(values.get(single, ())):
        member = units.truth.T if units.truth.ndim == 2 else units.truth == np.arange(len(classes))[:, None]  # K U
        found = zip(classes, values[single], member, strict=True)
        by_class = {name: _score(judge, single, of_each, truth) for name, of_each, truth in found}
    return Panel(_defined(metrics), _defined(by_class))


def _measured(names: Sequence[str], truth: NDArray[Any], predictions: Floats, weights: Floats) -> dict[str, Floats]:
    """Return ``K R`` values of each metric, one a ROC curve where it is read off them all, else one."""
    of_curve = {name: METRICS[name].of_curve for name in names}
    found = {name: METRICS[name](truth, predictions, weights)[None] for name, read in of_curve.items() if not read}
    read_off = {name: read for name, read in of_curve.items() if read}
    if read_off:
        each = [
            {name: read(*curve) for name, read in read_off.items()} for curve in curves(truth, predictions, weights)
        ]
        found |= {name: np.stack([one[name] for one in each]) for name in read_off}
    return found


def _mean(several: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {name: np.mean([one[name] for one in several], axis=0) for name in several[0]}


def _score(judge: Judge, metric: str, values: Floats, truth: NDArray[Any]) -> Score | None:
    """Return the score of which all rows, then each resample, have these ``values``, if it is defined."""
    patients, known = judge.units.patients, iter(values)
    kind = METRICS[metric]
    try:
        return score_of(
            metric,
            lambda weights: np.array(list(islice(known, len(weights)))),
            np.unique(patients),
            seed=judge.seed,
            num=judge.num_resamples,
            fraction=kind.fraction,
            share=kind.share,
            sides=sides(metric, truth, patients),
        )
    except EvaluationError:
        return None


def _defined(scores: Mapping[str, Score | None]) -> dict[str, Score]:
    return {name: score for name, score in scores.items() if score is not None}
