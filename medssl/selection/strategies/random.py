"""Uniformly random studies: the control that every strategy is measured against."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from medssl.selection.strategies.base import Ranking, SelectionPool, Strategy, StrategyConfig


class Random(Strategy[StrategyConfig]):
    """Draw one number a candidate and take the smallest."""

    paper: ClassVar[str] = "simple random sampling"

    def pick(self, pool: SelectionPool, budget: int, rng: np.random.Generator) -> Ranking:
        """Return a random sample; the score is the draw."""
        draws = rng.random(len(pool))
        rows = pool.capped(np.argsort(draws, kind="stable"), self.config.max_per_patient)[:budget]
        return Ranking(
            studies=tuple(str(s) for s in pool.studies[rows]),
            scores=tuple(float(d) for d in draws[rows]),
            reasons=(f"drawn at random from {len(pool)} candidates",) * budget,
        )
