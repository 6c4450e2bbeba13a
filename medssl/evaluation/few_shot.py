"""Few shots: what 1, 5 or 10 labelled patients a class are worth, over many draws of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from medssl.core.errors import EvaluationError
from medssl.core.keys import generator
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation.bootstrap import draw_spread, paired_difference, patient_bootstrap
from medssl.evaluation.fits import finite
from medssl.evaluation.metrics import DEFAULT_METRIC, metric_named
from medssl.evaluation.problem import Floats, Problem, Rows
from medssl.evaluation.representation import directions
from medssl.evaluation.results import ENCODER
from medssl.evaluation.solvers import Labelled, solve
from medssl.evaluation.units import Level, Units

SHOTS = (1, 5, 10)
DRAWS = 20


@dataclass(frozen=True)
class Shot:
    """A system and a probe with ``shots`` labelled patients a class.

    Attributes:
        system: name.
        probe: ``nearest_mean`` or ``logistic``.
        shots: patients a class.
        score: mean of the metric over the draws; its interval is that of test patients.
        draw_spread: standard deviation of the metric over the draws: what another choice of patients would change.
        difference: by how much the encoder is better with the same probe and draws, with an interval over test patients
            and draws; None for the encoder itself.
        difference_spread: standard deviation of that over the draws; None for the encoder itself.
    """

    system: str
    probe: str
    shots: int
    score: Score
    draw_spread: float
    difference: Score | None
    difference_spread: float | None = None


@dataclass(frozen=True)
class FewShot:
    """All of them, and the numbers of shots for which there are too few patients, with the reason."""

    metric: str
    draws: int
    measured: tuple[Shot, ...]
    skipped: Mapping[int, str]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "metric": self.metric,
            "draws": self.draws,
            "measured": [asdict(shot) for shot in self.measured],
            "skipped": {str(shots): reason for shots, reason in self.skipped.items()},
        }


def few_shot(
    problem: Problem,
    systems: Mapping[str, NDArray[Any]],
    *,
    metric: str | None = None,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    level: Level = "volume",
    seed: int = 0,
    num_resamples: int = 1000,
) -> FewShot:
    """Measure nearest class mean and logistic regression on the same few labels, system by system.

    Nearest class mean: softmax of minus the squared distance to the mean of each class (Snell et al., NeurIPS 2017,
    equation 2), of directions from the mean of all dev images. The logistic regression sees features standardised by
    all dev images and is tuned by the rule of ``solvers`` on the drawn labels alone, since labels to tune on cost
    as much as labels to train on.

    Args:
        problem: of classes, ordered or not.
        systems: ``N D`` features by name; ``encoder`` is the one that differences are taken of.
        metric: a name of ``METRICS``; the default of the kind where not given.
        shots: dev patients of each class.
        draws: of patients; a draw's larger number of shots holds its smaller ones.
        level: who is judged.
        seed: of the draws and of the bootstrap.
        num_resamples: of the bootstrap.

    Raises:
        EvaluationError: a regression or findings, no system, or the metric is undefined on the test rows.
    """
    if not problem.kind.exclusive:
        raise EvaluationError(f"shots are counted a class; a {problem.kind} task has none")
    if not systems:
        raise EvaluationError("no system to measure: expected features by name, the encoder's first")
    metric = metric or DEFAULT_METRIC[problem.kind]
    metric_named(metric, problem.kind)
    spaces = {name: finite(name, x, len(problem)) for name, x in systems.items()}
    test, skipped, measured = problem.rows(Role.TEST), dict[int, str](), list[Shot]()
    units = Units.of(problem, test, level)
    for number in shots:
        lacking = _lacking(problem, number)
        if lacking:
            skipped[number] = lacking
            continue
        chosen = [shot_rows(problem, number, seed + i) for i in range(draws)]
        given = {name: _predictions(problem, x, chosen, test, units) for name, x in spaces.items()}
        measured += _compared(given, metric, number, units, seed, num_resamples)
    return FewShot(metric, draws, tuple(measured), skipped)


def shot_rows(problem: Problem, shots: int, seed: int) -> Rows:
    """Return the dev rows of ``shots`` patients of each class, only those of that class; more shots hold fewer."""
    dev = problem.rows(Role.DEV)
    chosen = []
    for c in range(len(problem.names)):
        of_class = dev[problem.truth[dev] == c]
        order = generator("shots", c, seed).permutation(np.unique(problem.patients[of_class]))
        chosen.append(of_class[np.isin(problem.patients[of_class], order[:shots])])
    return np.concatenate(chosen)


def _lacking(problem: Problem, shots: int) -> str:
    dev = problem.rows(Role.DEV)
    for c, name in enumerate(problem.names):
        num = len(np.unique(problem.patients[dev[problem.truth[dev] == c]]))
        if num < shots:
            return f"class {name!r} has {num} labelled dev patients of {shots}"
    return ""


def _predictions(
    problem: Problem, x: NDArray[Any], chosen: Sequence[Rows], test: Rows, units: Units
) -> dict[str, Floats]:
    """Return ``S U K`` of each probe, one for each draw."""
    dev = np.flatnonzero(problem.roles == str(Role.DEV))
    turned = directions(x, dev)
    scaled = StandardScaler().fit(x[dev].astype(np.float64)).transform(x.astype(np.float64))
    found: dict[str, list[Floats]] = {"nearest_mean": [], "logistic": []}
    for rows in chosen:
        train, nothing = Labelled.of(problem, scaled, rows), Labelled.of(problem, scaled, rows[:0])
        found["nearest_mean"].append(_nearest_mean(turned[rows], train.y, turned[test], len(problem.names)))
        space = scaled[rows], scaled[test]
        found["logistic"].append(solve([space], train, nothing, kind=problem.kind, num_classes=len(problem.names)))
    return {probe: units.mean(np.stack(draws)) for probe, draws in found.items()}


def _nearest_mean(x: Floats, y: NDArray[np.int64], test_x: Floats, num_classes: int) -> Floats:
    means = np.stack([x[y == c].mean(axis=0) for c in range(num_classes)])
    logits = 2 * test_x @ means.T - (means**2).sum(axis=1)  # minus the squared distance, but for what all share
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _compared(
    given: Mapping[str, Mapping[str, Floats]], metric: str, shots: int, units: Units, seed: int, num: int
) -> list[Shot]:
    measure, one, found = metric_named(metric), np.ones((1, len(units.truth))), []
    how: dict[str, Any] = {"seed": seed, "num": num}
    for system, probes in given.items():
        for probe, draws in probes.items():
            score = patient_bootstrap(metric, units.truth, draws, units.patients, **how)
            spread = float(np.std([measure(units.truth, p, one)[0] for p in draws], ddof=1)) if len(draws) > 1 else 0.0
            difference, differing = None, None
            if system != ENCODER and ENCODER in given:
                ours = given[ENCODER][probe]
                difference = paired_difference(metric, units.truth, ours, draws, units.patients, **how, over_draws=True)
                differing = draw_spread(metric, units.truth, ours, draws)
            found.append(Shot(system, probe, shots, score, spread, difference, differing))
    return found
