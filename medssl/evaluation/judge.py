"""One way to judge: every figure of an evaluation and its audits has the same test units and the same resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation.bootstrap import (
    draw_spread,
    mean_of,
    over_other_draws,
    paired_difference,
    patient_bootstrap,
    score_of,
    sides,
)
from medssl.evaluation.metrics import metric_named
from medssl.evaluation.problem import Fit, Floats, Kind, Problem, Rows
from medssl.evaluation.units import Level, Units


def surely_above(score: Score, bound: float, num: int = 1) -> bool:
    """Return whether a figure is proven to be above ``bound``, were ``num`` such questions asked.

    The interval is widened by Bonferroni's rule, for tails that are about normal: with ``num`` questions, as many false
    answers as a single one has.
    """
    return bool(score.value - widened(num, score.level) * (score.value - score.low) > bound)


def widened(num: int, level: float = 0.95) -> float:
    """Return by what factor Bonferroni's rule for ``num`` questions widens an interval."""
    tail = (1 - level) / 2
    return float(norm.ppf(1 - tail / num) / norm.ppf(1 - tail))


@dataclass(frozen=True)
class Judge:
    """Measures predictions for the labelled test rows of a problem, ``M K`` or ``S M K``.

    ``rows`` of the problem are judged instead of all labelled test rows, where given.
    """

    problem: Problem
    metric: str
    level: Level = "volume"
    seed: int = 0
    num_resamples: int = 1000
    rows: Rows | None = None

    @cached_property
    def test(self) -> Rows:
        """The rows of the problem that predictions are for."""
        return self.problem.rows(Role.TEST) if self.rows is None else self.rows

    @cached_property
    def units(self) -> Units:
        """Who is judged."""
        return Units.of(self.problem, self.test, self.level)

    def only(self, kept: NDArray[np.bool_]) -> Judge:
        """Judge these of the rows alone."""
        return replace(self, rows=self.test[kept])

    def predicted(self, fit: Fit) -> Floats:
        """Return what ``fit`` predicts, having learnt from all labelled dev rows."""
        return fit(self.problem.rows(Role.DEV), self.problem.rows(Role.VAL), self.test, self.seed)

    def score(self, predictions: Floats) -> Score:
        """Return the metric."""
        return patient_bootstrap(self.metric, self.units.truth, self.units.mean(predictions), **self._how)

    def difference(self, a: Floats, b: Floats, *, over_draws: bool = False) -> Score:
        """Return by how much ``a`` is better than ``b``, by one paired bootstrap; see ``paired_difference``."""
        given = map(self.units.mean, (a, b))
        return paired_difference(self.metric, self.units.truth, *given, **self._how, over_draws=over_draws)

    def draw_spread(self, a: Floats, b: Floats) -> float:
        """Return the standard deviation of the difference between draws of training labels."""
        return draw_spread(self.metric, self.units.truth, *map(self.units.mean, (a, b)))

    def lost(self, a: Floats, b: Floats, later_a: Floats, later_b: Floats, *, over_draws: bool = False) -> Score:
        """Return by how much the lead of ``a`` over ``b`` is larger than that of ``later_a`` over ``later_b``.

        With ``over_draws`` all are ``S M K``, and the interval is for other draws too, as that of ``difference``.
        """
        measure = metric_named(self.metric)
        sign = 1 if measure.higher_is_better else -1
        given = [self.units.mean(one) for one in (a, b, later_a, later_b)]

        def figure(weights: Floats, parts: Sequence[Floats] = given) -> Floats:
            signed = zip((sign, -sign, -sign, sign), parts, strict=True)
            return np.asarray(sum(each * mean_of(measure, self.units.truth, p, weights) for each, p in signed))

        rests_on = sides(self.metric, self.units.truth, self.units.patients)
        score = score_of(f"{self.metric} lead lost", figure, **self._how, sides=rests_on)
        if not over_draws:
            return score
        whole = np.ones((1, len(self.units.truth)))
        each = [figure(whole, parts)[0] for parts in zip(*given, strict=True)]
        return over_other_draws(score, float(np.std(each, ddof=1)) if len(each) > 1 else 0.0, len(each))

    def chance(self) -> Floats:
        """Return the same prediction for everyone, ``M K``: the shares of the classes of dev, or its mean number."""
        truth = self.problem.truth[self.problem.rows(Role.DEV)]
        if self.problem.kind in (Kind.CLASSES, Kind.ORDINAL):
            known = np.bincount(truth.astype(np.int64), minlength=self.problem.num_outputs) / len(truth)
        else:
            known = truth.reshape(len(truth), -1).mean(0)
        return np.tile(known, (len(self.test), 1))

    @property
    def _how(self) -> dict[str, Any]:
        return {"patients": self.units.patients, "seed": self.seed, "num": self.num_resamples}
