"""Who is served worse: the score within each site, scanner, sex, age band or view, and the widest gap between two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError
from medssl.core.score import Score
from medssl.evaluation.bootstrap import Figure, patient_bootstrap, score_of, sides
from medssl.evaluation.metrics import metric_named
from medssl.evaluation.problem import Floats, Kind, Problem
from medssl.evaluation.units import Units

AGE = "age"  # the group whose text is a number of years
BANDS = ((0, 17), (18, 39), (40, 64), (65, 200))
NOT_KNOWN = "not known"
MIN_PATIENTS = 5  # of each class, on either side of a finding, or of a regression


@dataclass(frozen=True)
class Subgroup:
    """The units of one value of a group: scored, or why not. ``score.n`` and ``num_patients`` count patients."""

    group: str
    value: str
    num_patients: int
    score: Score | None
    reason: str = ""


@dataclass(frozen=True)
class Gap:
    """The two values of a group that lie furthest apart; ``difference`` says by how much ``best`` is better.

    Its interval is simultaneous over all pairs of values, since the pair was picked for its distance: where it leaves
    out 0, patients of different values are served differently.
    """

    group: str
    best: str
    worst: str
    difference: Score


@dataclass(frozen=True)
class Subgroups:
    """The table of every group, and the gap of each with two values or more that could be scored."""

    metric: str
    table: tuple[Subgroup, ...]
    gaps: tuple[Gap, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "metric": self.metric,
            "table": [asdict(row) for row in self.table],
            "gaps": [asdict(gap) for gap in self.gaps],
        }


def subgroups(
    problem: Problem,
    units: Units,
    predictions: Floats,
    *,
    metric: str,
    seed: int,
    num_resamples: int = 1000,
    min_patients: int = MIN_PATIENTS,
) -> Subgroups:
    """Score predictions within each value of each group of ``problem.groups``.

    Args:
        problem: whose groups are asked; ages are taken in bands of 0-17, 18-39, 40-64 and 65 years or more.
        units: of the rows that are judged.
        predictions: ``[S] U K``, as ``units.mean`` gives them.
        metric: a name of ``METRICS``.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
        min_patients: of each class (with and without each finding; of a regression), else a value is not scored.

    Raises:
        EvaluationError: the metric is unknown, or does not judge tasks of this kind.
    """
    metric_named(metric, problem.kind)
    table: list[Subgroup] = []
    gaps: list[Gap] = []
    for group, column in problem.groups.items():
        values = _values(group, column[units.first])
        scored: dict[str, NDArray[np.bool_]] = {}
        for value in sorted({*values.tolist()} - {NOT_KNOWN}) + [NOT_KNOWN] * (NOT_KNOWN in values):
            member = values == value
            lacking = _lacking(problem, units, member, min_patients)
            score = None
            if not lacking:
                given = predictions[..., member, :]
                patients = units.patients[member]
                try:
                    truth = units.truth[member]
                    score = patient_bootstrap(metric, truth, given, patients, seed=seed, num=num_resamples)
                    scored[value] = member
                except EvaluationError as error:
                    lacking = str(error)
            table.append(Subgroup(group, value, len(np.unique(units.patients[member])), score, lacking))
        scored.pop(NOT_KNOWN, None)
        if len(scored) > 1:
            gaps.append(_gap(group, scored, metric, units, predictions, seed, num_resamples))
    return Subgroups(metric, tuple(table), tuple(gaps))


def age_band(years: str) -> str:
    """Return the band of an age given as text of years, ``""`` where it is none."""
    try:
        age = float(years)
    except ValueError:
        return ""
    found = next(((low, high) for low, high in BANDS if low <= age < high + 1), None)
    if found is None:
        return ""
    return f"{found[0]}+" if found == BANDS[-1] else f"{found[0]}-{found[1]}"


def _values(group: str, column: NDArray[np.str_]) -> NDArray[Any]:
    bands = [age_band(text) for text in column.tolist()] if group == AGE else column.tolist()
    return np.array([text or NOT_KNOWN for text in bands], dtype=object)


def _lacking(problem: Problem, units: Units, member: NDArray[np.bool_], min_patients: int) -> str:
    truth, patients = units.truth[member], units.patients[member]
    if problem.kind is Kind.REGRESSION:
        having: Mapping[str, NDArray[np.bool_]] = {"": np.ones(len(truth), np.bool_)}
    elif problem.kind is Kind.MULTILABEL:
        columns = dict(zip(problem.names, truth.T, strict=True))
        having = {f"with {n}": c == 1 for n, c in columns.items()} | {
            f"without {n}": c == 0 for n, c in columns.items()
        }
    else:
        having = {f"of class {name!r}": truth == i for i, name in enumerate(problem.names)}
    for name, rows in having.items():
        num = len(np.unique(patients[rows]))
        if num < min_patients:
            return " ".join(filter(None, (f"{num} patients", name, f"of {min_patients} needed")))
    return ""


def _gap(
    group: str,
    scored: Mapping[str, NDArray[np.bool_]],
    metric: str,
    units: Units,
    predictions: Floats,
    seed: int,
    num: int,
) -> Gap:
    measure = metric_named(metric)
    sign = 1 if measure.higher_is_better else -1
    draws = predictions if predictions.ndim == 3 else predictions[None]

    def within(value: str) -> Figure:
        member = scored[value]
        truth = units.truth[member]
        return lambda w: sign * np.mean([measure(truth, p[member], w[:, member]) for p in draws], axis=0)

    def of_group(value: str) -> tuple[int, ...]:
        return sides(metric, units.truth[scored[value]], units.patients[scored[value]])

    one = np.ones((1, len(units.patients)))
    ranked = sorted(scored, key=lambda value: float(within(value)(one)[0]))
    worst, best = within(ranked[0]), within(ranked[-1])
    num_pairs = len(list(combinations(scored, 2)))
    difference = score_of(
        f"{metric} gap",
        lambda weights: best(weights) - worst(weights),
        units.patients,
        seed=seed,
        num=num,
        comparisons=num_pairs,
        sides=[num for value in (ranked[-1], ranked[0]) for num in of_group(value)],
    )
    return Gap(group, ranked[-1], ranked[0], difference)
