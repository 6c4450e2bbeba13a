"""What a label-efficiency grid found: points with both spreads, labels to a target, disagreements of rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import combinations
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import kendalltau

from medssl.core.errors import EvaluationError
from medssl.core.score import Score
from medssl.evaluation.bootstrap import sides, tails, weightings
from medssl.evaluation.judge import Judge
from medssl.evaluation.metrics import metric_named
from medssl.evaluation.problem import Floats

Predicted = Mapping[str, Mapping[float, Floats]]  # system, fraction -> seeds M K


class Use(StrEnum):
    """How a system builds on an encoder."""

    PROBE = "probe"  # its features stay as they are
    TUNED = "tuned"  # its weights learn
    OTHER = ""


@dataclass(frozen=True)
class Point:
    """One system at one fraction of the labels.

    ``patients``, ``images`` and those of val are means over the seeds. ``score`` is the mean of the seeds' metrics with
    its interval over test patients; ``by_seed`` are the metrics themselves: how much depends on which patients were
    labelled, and on chance in learning. ``difference`` is to the reference, with an interval over both. ``seconds`` a
    seed took, ``told`` what it chose.
    """

    fraction: float
    patients: float
    images: float
    val_patients: float
    val_images: float
    score: Score
    by_seed: tuple[float, ...]
    difference: Score | None
    seconds: float
    told: tuple[Mapping[str, Any], ...]

    @property
    def seed_deviation(self) -> float:
        """The standard deviation over seeds (of a sample); NaN for a single one."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else math.nan

    @property
    def seed_range(self) -> tuple[float, float]:
        """The lowest and the highest seed."""
        return min(self.by_seed), max(self.by_seed)


@dataclass(frozen=True)
class Line:
    """One system over the fractions, from few labels to all; the rest as in ``System``."""

    system: str
    points: tuple[Point, ...]
    encoder: str = ""
    use: Use = Use.OTHER
    baseline: bool = False


@dataclass(frozen=True)
class LabelsTo:
    """How many labelled patients take a system to the score that ``target`` has with most labels.

    The monotone (isotonic) curve through its points, over the logarithm of patients, meets that score at ``patients``,
    in ``low`` … ``high`` over resampled test patients; None is "not with the labels there are". ``fewest`` is the
    smallest number tried: a figure that equals it may be smaller still. ``share`` of the resamples reached it.
    """

    system: str
    target: str
    patients: float | None
    low: float | None
    high: float | None
    fewest: float
    share: float
    level: float = 0.95

    def __str__(self) -> str:
        if self.patients is None and self.low is None:
            return "not reached"
        return f"{self._text(self.patients)} [{self._text(self.low)}, {self._text(self.high)}]"

    def _text(self, patients: float | None) -> str:
        if patients is None:
            return "not reached"
        return f"≤ {self.fewest:.0f}" if patients <= self.fewest else f"{patients:.0f}"


@dataclass(frozen=True)
class Swap:
    """Two encoders of which probing puts ``a`` first and training puts ``b``; both differences are a minus b."""

    a: str
    b: str
    probing: Score
    training: Score

    @property
    def is_proven(self) -> bool:
        """Whether neither difference can be chance in the test patients, or in which patients were labelled."""
        return self.probing.low > 0 and self.training.high < 0


@dataclass(frozen=True)
class Disagreement:
    """How far the ranks of encoders by probe agree with those by training, at one fraction.

    ``tau`` is Kendall's (1: the same order, -1: the reverse; None where all are equal).
    """

    fraction: float
    encoders: tuple[str, ...]
    tau: float | None
    swaps: tuple[Swap, ...]


@dataclass(frozen=True)
class Curve:
    """A finished grid; ``reference`` and ``target`` are empty where no such system was in it."""

    task: str
    metric: str
    level: str
    seeds: int
    reference: str
    target: str
    lines: tuple[Line, ...]
    labels_to: tuple[LabelsTo, ...]
    disagreements: tuple[Disagreement, ...]

    def line(self, system: str) -> Line:
        """Return the line of ``system``.

        Raises:
            EvaluationError: it is not in the grid.
        """
        found = next((line for line in self.lines if line.system == system), None)
        if found is None:
            raise EvaluationError(
                f"no system {system!r} in this curve: {', '.join(line.system for line in self.lines)}"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Curve:
        """Return what ``to_json`` wrote."""
        lines = tuple(
            Line(**{**line, "points": tuple(map(_point, line["points"])), "use": Use(line["use"])})
            for line in data["lines"]
        )
        return cls(**{
            **data,
            "lines": lines,
            "labels_to": tuple(LabelsTo(**found) for found in data["labels_to"]),
            "disagreements": tuple(map(_disagreement, data["disagreements"])),
        })  # fmt: skip


def labels_to(judge: Judge, lines: Sequence[Line], predicted: Predicted, target: str) -> tuple[LabelsTo, ...]:
    """Return for every other line how many patients reach what ``target`` has with most labels.

    Each resample of test patients moves the curve and the target together.
    """
    values = {name: _resampled(judge, by) for name, by in predicted.items()}  # F R, the first column all patients
    goal = values[target][-1]
    low, high = tails(0.95, sides(judge.metric, judge.units.truth, judge.units.patients))
    rising = metric_named(judge.metric).higher_is_better
    found = []
    for line in lines:
        if line.system == target:
            continue
        patients = np.array([point.patients for point in line.points])
        both = np.isfinite(values[line.system]).all(0) & np.isfinite(goal)
        reached = [
            _reached(patients, scores, aim, rising=rising)
            for scores, aim in zip(values[line.system].T[both], goal[both], strict=True)
        ]
        ends = np.quantile(reached[1:], [low, high], method="inverted_cdf") if len(reached) > 1 else [np.inf] * 2
        point, lowest, highest = (None if np.isinf(n) else float(n) for n in (reached[0], *ends))
        share = float(np.isfinite(reached[1:]).mean()) if len(reached) > 1 else 0.0
        found.append(LabelsTo(line.system, target, point, lowest, highest, float(patients[0]), share))
    return tuple(found)


def _reached(patients: Floats, scores: Floats, aim: float, *, rising: bool) -> float:
    """Return where the monotone curve through ``scores`` over log ``patients`` meets ``aim``; inf where it does not."""
    fitted = isotonic_regression(scores, increasing=rising).x
    if not rising:
        fitted, aim = -fitted, -aim
    if fitted[-1] < aim:
        return math.inf
    if fitted[0] >= aim:
        return float(patients[0])
    above = int(np.argmax(fitted >= aim))  # a plateau is reached where it begins, and left where it ends
    around = slice(above - 1, above + 1)
    return float(np.exp(np.interp(aim, fitted[around], np.log(patients)[around])))


def _resampled(judge: Judge, by_fraction: Mapping[float, Floats]) -> Floats:
    """Return the mean metric of the seeds, ``F 1+R``: of all test patients, then of each resample."""
    units, measure = judge.units, metric_named(judge.metric)
    means = [units.mean(predictions) for predictions in by_fraction.values()]
    parts = [np.ones((1, len(units.first)))]
    parts += list(weightings(units.patients, seed=judge.seed, num=judge.num_resamples))
    columns = [
        [np.mean([measure(units.truth, one, weights) for one in seeds], axis=0) for seeds in means] for weights in parts
    ]
    return np.concatenate([np.stack(column) for column in columns], axis=1)


def disagreements(judge: Judge, lines: Sequence[Line], predicted: Predicted) -> tuple[Disagreement, ...]:
    """Compare the order of encoders by probe with that by training, at each fraction; nothing below two encoders."""
    used = {use: {line.encoder: line for line in lines if line.use is use} for use in (Use.PROBE, Use.TUNED)}
    learnt = {line.encoder for line in lines if not line.baseline}  # how training ranks an untrained one is no question
    encoders = tuple(name for name in used[Use.PROBE] if name in used[Use.TUNED] and name in learnt)
    if len(encoders) < 2:
        return ()
    sign = 1 if metric_named(judge.metric).higher_is_better else -1
    found = []
    for i, point in enumerate(next(iter(used[Use.PROBE].values())).points):
        scores = {
            use: np.array([sign * by[name].points[i].score.value for name in encoders]) for use, by in used.items()
        }
        tau = float(kendalltau(scores[Use.PROBE], scores[Use.TUNED]).statistic)
        swaps = []
        for j, k in combinations(range(len(encoders)), 2):
            probing, training = (scores[use][j] - scores[use][k] for use in (Use.PROBE, Use.TUNED))
            if probing * training < 0:
                a, b = (encoders[n] for n in ((j, k) if probing > 0 else (k, j)))
                both = (
                    judge.difference(
                        *(predicted[used[use][name].system][point.fraction] for name in (a, b)), over_draws=True
                    )
                    for use in (Use.PROBE, Use.TUNED)
                )
                swaps.append(Swap(a, b, *both))
        found.append(Disagreement(point.fraction, encoders, None if math.isnan(tau) else tau, tuple(swaps)))
    return tuple(found)


def _finite(value: Any) -> Any:
    """Return ``value`` with None for NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _point(data: Mapping[str, Any]) -> Point:
    difference = None if data["difference"] is None else Score(**data["difference"])
    changed = {"score": Score(**data["score"]), "difference": difference}
    return Point(**{**data, **changed, "by_seed": tuple(data["by_seed"]), "told": tuple(data["told"])})


def _disagreement(data: Mapping[str, Any]) -> Disagreement:
    swaps = tuple(Swap(s["a"], s["b"], Score(**s["probing"]), Score(**s["training"])) for s in data["swaps"])
    return Disagreement(data["fraction"], tuple(data["encoders"]), data["tau"], swaps)
