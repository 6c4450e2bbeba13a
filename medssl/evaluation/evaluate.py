"""Judge an encoder by transfer: trained on dev, tuned on val, reported on test, beside its baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation.draws import draw
from medssl.evaluation.gate import GateRule
from medssl.evaluation.judge import Judge
from medssl.evaluation.metrics import DEFAULT_METRIC, metric_named
from medssl.evaluation.panel import Panel, panel
from medssl.evaluation.problem import Fit, Floats, Kind, Problem, Rows
from medssl.evaluation.representation import feature_std, rankme
from medssl.evaluation.results import ENCODER, FEW, Evaluation, deciding
from medssl.evaluation.units import Level


@dataclass(frozen=True)
class Systems:
    """What is measured.

    Attributes:
        probes: by system (``encoder``, ``random``, ``pixels``, …) and probe: measured with all labels.
        learners: by system, ``encoder`` among them: compared with the few labels that ``GateRule.budget`` buys,
            drawn ``GateRule.draws`` times, since a learner from scratch shows what labels alone can do.
        features: ``N D`` of the encoder, to see a collapse.
    """

    probes: Mapping[str, Mapping[str, Fit]]
    features: NDArray[Any]
    learners: Mapping[str, Fit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for found in (self.probes, self.learners):
            if found and ENCODER not in found:
                raise EvaluationError(f"no system called {ENCODER!r} among {sorted(found)}")


def evaluate(
    problem: Problem,
    systems: Systems,
    *,
    rule: GateRule | None = None,
    metric: str | None = None,
    level: Level = "volume",
    seed: int = 0,
    num_resamples: int = 1000,
) -> Evaluation:
    """Measure every system and the paired differences of the encoder to each baseline.

    Args:
        problem: what is to be predicted.
        systems: what predicts it.
        rule: of the gate; its ``min_test_patients_per_class`` also says from when on there is a figure at all.
        metric: a name of ``METRICS``; the usual one of the kind of task without.
        level: who is judged.
        seed: of the fits, the draws and the bootstrap.
        num_resamples: of the bootstrap.

    Raises:
        EvaluationError: there is no dev row, or the metric is unknown, undefined, or of another kind of task.
    """
    rule, metric = rule or GateRule(), metric or DEFAULT_METRIC[problem.kind]
    metric_named(metric, problem.kind)
    dev = problem.roles == str(Role.DEV)
    if not dev.any():
        raise EvaluationError(f"none of {len(problem)} rows is of role dev; probes train on dev patients only")
    rows = {role: problem.rows(role) for role in Role}
    counts = {role: class_patients(problem, found) for role, found in rows.items()}
    figures, unit = _Figures(), 1.0
    if measurable(problem, counts, rule):
        judge = Judge(problem, metric, level, seed, num_resamples)
        figures = _judged(judge, systems, rule)
        unit = judge.score(judge.chance()).value if metric == "mae" else 1.0
    encoder = np.asarray(systems.features).reshape(len(problem), -1)[dev]
    return Evaluation(
        task=problem.task,
        metric=metric,
        classes=problem.names,
        num_train=len(rows[Role.DEV]),
        num_val=len(rows[Role.VAL]),
        num_test=len(rows[Role.TEST]),
        num_test_patients=len(np.unique(problem.patients[rows[Role.TEST]])),
        class_patients=counts,
        systems=figures.systems,
        differences=figures.differences,
        feature_std=feature_std(encoder),
        rankme=rankme(encoder),
        rule=rule,
        kind=problem.kind,
        unit=unit,
        draw_spreads=figures.draw_spreads,
        panels=figures.panels,
        probe_differences=figures.probe_differences,
    )


@dataclass(frozen=True)
class _Figures:
    """What of an ``Evaluation`` labels are needed for."""

    systems: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    differences: Mapping[str, Score] = field(default_factory=dict)
    draw_spreads: Mapping[str, float] = field(default_factory=dict)
    probe_differences: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    panels: Mapping[str, Panel] = field(default_factory=dict)


def _judged(judge: Judge, systems: Systems, rule: GateRule) -> _Figures:
    """Return scores by system and probe, encoder minus each baseline (``…_few``: both with few labels), and panels."""
    given = {
        name: {probe: judge.predicted(fit) for probe, fit in fits.items()} for name, fits in systems.probes.items()
    }
    few = {name: few_labels(judge.problem, fit, rule, judge.seed) for name, fit in systems.learners.items()}
    scores = {name: {probe: judge.score(p) for probe, p in found.items()} for name, found in given.items()}
    for name, predictions in few.items():
        scores.setdefault(name, {})[FEW] = judge.score(predictions)
    own = given[ENCODER]
    ours = own[deciding(own)]
    learnt = {f"{name}_{FEW}" if name in given else name: found for name, found in few.items() if name != ENCODER}
    differences = {
        name: judge.difference(ours, found[deciding(found)]) for name, found in given.items() if name != ENCODER
    } | {name: judge.difference(few[ENCODER], found, over_draws=True) for name, found in learnt.items()}
    spreads = {name: judge.draw_spread(few[ENCODER], found) for name, found in learnt.items()}
    by_probe = {
        name: {
            probe: judge.difference(own[probe], p)
            for probe, p in found.items()
            if probe in own and probe != deciding(own)
        }
        for name, found in given.items()
        if name != ENCODER
    }
    panels = {name: panel(judge, found[deciding(found)]) for name, found in given.items()}
    panels |= {f"{name}_{FEW}": panel(judge, predictions) for name, predictions in few.items()}
    return _Figures(scores, differences, spreads, {name: found for name, found in by_probe.items() if found}, panels)


def few_labels(problem: Problem, fit: Fit, rule: GateRule, seed: int) -> Floats:
    """Return ``S M K`` predictions for the labelled test rows, one for each draw of ``rule.budget`` dev patients.

    Labels to tune on cost as much: as many val patients as dev ones, in the proportion of the roles.
    """
    dev, val, test = (problem.rows(role) for role in (Role.DEV, Role.VAL, Role.TEST))
    share = rule.budget / max(len(np.unique(problem.patients[dev])), 1)
    num_val = round(share * len(np.unique(problem.patients[val])))
    draws = [
        fit(draw(problem, dev, rule.budget, seed + i), draw(problem, val, num_val, seed + i), test, seed + i)
        for i in range(rule.draws)
    ]
    return np.stack(draws)


def class_patients(problem: Problem, rows: Rows) -> dict[str, int]:
    """Return how many patients of each class ``rows`` hold: with and without each finding; in all, of a regression."""
    truth, patients = problem.truth[rows], problem.patients[rows]
    if problem.kind is Kind.REGRESSION:
        having = {"": np.ones(len(rows), np.bool_)}
    elif problem.kind is Kind.MULTILABEL:
        having = {name: truth[:, i] == 1 for i, name in enumerate(problem.names)}
        having |= {f"no {name}": truth[:, i] == 0 for i, name in enumerate(problem.names)}
    else:
        having = {name: truth == i for i, name in enumerate(problem.names)}
    return {name: len(np.unique(patients[found])) for name, found in having.items()}


def measurable(problem: Problem, counts: Mapping[Role, Mapping[str, int]], rule: GateRule) -> bool:
    """Return whether everything can be trained on and measured."""
    dev, test = counts[Role.DEV], counts[Role.TEST]
    has_choice = problem.kind is Kind.REGRESSION or len(dev) > 1
    return has_choice and all(dev[c] and test[c] >= rule.min_test_patients_per_class for c in dev)
