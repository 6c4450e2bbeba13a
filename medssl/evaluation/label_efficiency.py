"""Score against labels: nested draws of labelled patients, several seeds, every system on the same draws.

A finished cell of the grid is kept (see ``Kept``), so a grid that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le, Len
from pydantic import Field

from medssl.core.config import Config
from medssl.core.errors import EvaluationError
from medssl.core.plugins import did_you_mean
from medssl.core.types import Role
from medssl.evaluation.choosing import Tuning
from medssl.evaluation.curve import Curve, Line, Point, Use, disagreements, labels_to
from medssl.evaluation.draws import draw
from medssl.evaluation.judge import Judge
from medssl.evaluation.kept import Kept
from medssl.evaluation.metrics import DEFAULT_METRIC, metric_named
from medssl.evaluation.problem import Fit, Floats, Problem, Rows
from medssl.evaluation.units import Level


class CurveConfig(Config):
    """The grid of a label-efficiency curve.

    ``fractions`` of the labelled dev patients (and as large a share of the val patients), each drawn ``seeds`` times.
    ``systems``: those wanted, by name; without, all. Differences are to ``reference``; how many labels reach what
    another has with most of them is asked of ``target``. ``tuning``: what networks may try, here and at the gate.
    """

    fractions: Annotated[tuple[Annotated[float, Gt(0), Le(1)], ...], Len(1)] = (0.01, 0.05, 0.1, 0.3, 1.0)
    seeds: Annotated[int, Ge(1)] = 5
    systems: tuple[str, ...] = ()
    reference: str = "pixels"
    target: str = "small_resnet"
    tuning: Tuning = Field(default_factory=Tuning)


@dataclass(frozen=True)
class System:
    """What learns, for a grid.

    Attributes:
        fit: see ``Fit``.
        mark: changes with all that ``fit`` depends on beside rows and seed: features, weights, settings.
        seeded: whether the seed changes what ``fit`` learns from the same rows.
        encoder: whose features or weights it builds on; empty where it has no encoder.
        use: whether it probes them or trains them.
        baseline: whether it is there to be beaten.
    """

    fit: Fit
    mark: str
    seeded: bool = True
    encoder: str = ""
    use: Use = Use.OTHER
    baseline: bool = False


@dataclass(frozen=True)
class Cell:
    """What one system predicted for the test rows from one draw; ``told`` is what it chose."""

    predictions: Floats
    seconds: float
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """The labels that a fraction buys under one seed."""

    fraction: float
    seed: int
    train: Rows
    val: Rows


def label_efficiency(
    problem: Problem,
    systems: Mapping[str, System],
    config: CurveConfig,
    folder: Path,
    *,
    metric: str | None = None,
    level: Level = "volume",
    seed: int = 0,
    num_resamples: int = 1000,
    advance: Callable[[str], None] = lambda text: None,
) -> Curve:
    """Measure every system at every fraction under every seed, all on the same draws and the same test patients.

    Args:
        problem: what is to be predicted.
        systems: what predicts it, by name.
        config: the grid.
        folder: where finished cells are kept.
        metric: a name of ``METRICS``; the usual one of the kind of task without.
        level: who is judged.
        seed: of the draws, the fits and the bootstrap.
        num_resamples: of the bootstrap.
        advance: told of every cell before it is computed, and once in the end.

    Raises:
        EvaluationError: a wanted system is not there, a role has no labelled row, or the test labels cannot be judged;
            all of it before anything learns.
    """
    wanted = _wanted(systems, config)
    judge = Judge(problem, metric or DEFAULT_METRIC[problem.kind], level, seed, num_resamples)
    grid = draws(problem, config, seed)
    metric_named(judge.metric, problem.kind)
    judge.score(judge.chance())
    cells = {name: dict[float, list[Cell]]() for name in wanted}
    for one in grid:
        for name, system in wanted.items():
            advance(f"{one.fraction:.3g} of labels, {name}")
            fit = Kept(system.fit, problem, folder, system.mark, system.seeded)
            predictions = fit(one.train, one.val, judge.test, one.seed)
            cells[name].setdefault(one.fraction, []).append(Cell(predictions, fit.seconds, fit.told))
    advance("bootstrap")
    return _curve(problem, judge, wanted, config, grid, cells)


def num_cells(systems: Mapping[str, System], config: CurveConfig, problem: Problem) -> int:
    """Return how often ``label_efficiency`` calls ``advance``."""
    return len(_wanted(systems, config)) * len(draws(problem, config, 0)) + 1


def draws(problem: Problem, config: CurveConfig, seed: int) -> list[Draw]:
    """Return the draws from the smallest fraction on: of one seed each holds the one before.

    A fraction buys at least as many patients as there may be needed to see every class, and is then the fraction that
    these are; fractions that buy equally many are one. Labels to tune on cost as much as others: val is drawn in the
    same proportion.

    Raises:
        EvaluationError: no labelled dev or test row.
    """
    dev, val, test = (problem.rows(role) for role in (Role.DEV, Role.VAL, Role.TEST))
    if not len(dev) or not len(test):
        raise EvaluationError(f"{len(dev)} labelled dev and {len(test)} test rows: a curve needs both")
    columns = problem.truth.reshape(len(problem), -1)[dev].T
    least = sum(len(np.unique(column)) for column in columns) if problem.names else 2
    patients, val_patients = (len(np.unique(problem.patients[rows])) for rows in (dev, val))
    least = min(least, patients)
    bought = {least: least / patients} if round(min(config.fractions) * patients) < least else {}
    bought |= {num: f for f in sorted(config.fractions) if (num := round(f * patients)) >= least}
    return [
        Draw(
            fraction,
            seed + i,
            draw(problem, dev, num, seed + i),
            draw(problem, val, round(fraction * val_patients), seed + i) if len(val) else val,
        )
        for num, fraction in sorted(bought.items())
        for i in range(config.seeds)
    ]


def _wanted(systems: Mapping[str, System], config: CurveConfig) -> dict[str, System]:
    for name in config.systems:
        if name not in systems:
            raise EvaluationError(f"evaluation.curve.systems: unknown {name!r}: {did_you_mean(name, systems)}")
    for role in ("reference", "target"):
        name = getattr(config, role)
        if name not in systems and name != CurveConfig.model_fields[role].default:
            raise EvaluationError(f"evaluation.curve.{role}: unknown {name!r}: {did_you_mean(name, systems)}")
    return {name: system for name, system in systems.items() if not config.systems or name in config.systems}


def _curve(
    problem: Problem,
    judge: Judge,
    systems: Mapping[str, System],
    config: CurveConfig,
    grid: list[Draw],
    cells: Mapping[str, Mapping[float, list[Cell]]],
) -> Curve:
    predicted = {
        name: {fraction: np.stack([cell.predictions for cell in found]) for fraction, found in by.items()}
        for name, by in cells.items()
    }
    reference = predicted.get(config.reference, {})

    def point(name: str, fraction: float) -> Point:
        ours, found = predicted[name][fraction], cells[name][fraction]
        theirs = None if name == config.reference else reference.get(fraction)
        return Point(
            **_counted(problem, [one for one in grid if one.fraction == fraction]),
            fraction=fraction,
            score=judge.score(ours),
            by_seed=tuple(_values(judge, ours)),
            difference=None if theirs is None else judge.difference(ours, theirs, over_draws=True),
            seconds=float(np.mean([cell.seconds for cell in found])),
            told=tuple(cell.told for cell in found),
        )

    lines = [
        Line(name, tuple(point(name, fraction) for fraction in cells[name]), one.encoder, one.use, one.baseline)
        for name, one in systems.items()
    ]
    return Curve(
        task=problem.task,
        metric=judge.metric,
        level=judge.level,
        seeds=config.seeds,
        reference=config.reference if reference else "",
        target=config.target if config.target in predicted else "",
        lines=tuple(lines),
        labels_to=labels_to(judge, lines, predicted, config.target) if config.target in predicted else (),
        disagreements=disagreements(judge, lines, predicted),
    )


def _counted(problem: Problem, found: list[Draw]) -> dict[str, float]:
    def mean_patients(which: list[Rows]) -> float:
        return float(np.mean([len(np.unique(problem.patients[rows])) for rows in which]))

    train, val = [one.train for one in found], [one.val for one in found]
    return {
        "patients": mean_patients(train),
        "images": float(np.mean([len(rows) for rows in train])),
        "val_patients": mean_patients(val),
        "val_images": float(np.mean([len(rows) for rows in val])),
    }


def _values(judge: Judge, predictions: Floats) -> Iterator[float]:
    for one in judge.units.mean(predictions):
        weights = np.ones((1, len(judge.units.first)))
        yield float(metric_named(judge.metric)(judge.units.truth, one, weights)[0])
