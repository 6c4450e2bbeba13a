"""PT4AL: rank by pretext loss once, then label one batch of the ranking a round.

Yi et al., Using Self-Supervised Pretext Tasks for Active Learning, ECCV 2022, section 3 and algorithm 1.
The unit is a study, not an image; departures:

- losses are compared as float64 numbers (the released code sorts their text, which puts 9.9e-05 above 4.41);
- losses are made comparable within strata first (``standardise``), which changes nothing where there is one stratum;
- ties break by study id; the order of round 0 is kept and later arrivals wait for the next full ranking;
- a patient cap thins the batch before the picks; studies labelled or excluded meanwhile shrink it, and a batch that
  cannot serve the budget is an error, never filled from elsewhere.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import SelectionError
from medssl.core.types import Signal
from medssl.selection.aggregate import Standardise, standardise
from medssl.selection.strategies.base import FrozenOrder, Ranking, SelectionPool, Strategy, StrategyConfig


class PT4ALConfig(StrategyConfig):
    """How pretext losses of several strata become one ranking."""

    standardise: Standardise = "rank"


class PT4AL(Strategy[PT4ALConfig]):
    """Round 0 spreads over the hardest batch; round ``n`` takes what the task model is least sure of in batch ``n``."""

    paper: ClassVar[str] = "Yi et al., ECCV 2022"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PRETEXT_LOSSES, Signal.PROBABILITIES})
    config_class: ClassVar[type[StrategyConfig]] = PT4ALConfig

    @classmethod
    def needs_in(cls, round: int) -> frozenset[Signal]:
        """Return losses in round 0, the task model's probabilities later."""
        return frozenset({Signal.PRETEXT_LOSSES if round == 0 else Signal.PROBABILITIES})

    @classmethod
    def most(cls, num_candidates: int, round: int, num_rounds: int) -> int:
        """Return the size of the smallest batch in round 0; later batches are frozen and checked when picking."""
        return num_candidates // num_rounds if round == 0 else num_candidates

    def pick(self, pool: SelectionPool, budget: int, rng: np.random.Generator) -> Ranking:
        """Pick inside the batch of this round."""
        frozen = pool.frozen
        if pool.round == 0:
            frozen = self.freeze(pool)
        if frozen is None:
            raise SelectionError(f"round {pool.round} needs the ranking that was kept in round 0, there is none")
        if pool.round >= frozen.num_batches:
            raise SelectionError(f"round {pool.round}: all {frozen.num_batches} batches are used; rank the pool anew")
        batch = pool.rows(frozen.batch(pool.round))
        place = f"batch {pool.round + 1} of {frozen.num_batches}"
        self.check_budget(pool, batch, budget, f" in {place}")
        return self._first(pool, batch, budget, frozen) if pool.round == 0 else self._later(pool, batch, budget, place)

    def freeze(self, pool: SelectionPool) -> FrozenOrder:
        """Rank the pool by pretext loss, hardest first, and cut the ranking into equal batches."""
        scores = standardise(pool.signal(Signal.PRETEXT_LOSSES), pool.strata, self.config.standardise)
        order = np.argsort(-scores, kind="stable")  # studies are in order of id: ties keep it
        batches = np.concatenate([np.full(len(b), i) for i, b in enumerate(np.array_split(order, pool.num_rounds))])
        return FrozenOrder(
            tuple(str(s) for s in pool.studies[order]),
            tuple(float(s) for s in scores[order]),
            tuple(int(b) for b in batches),
        )

    def _first(self, pool: SelectionPool, batch: NDArray[np.int64], budget: int, frozen: FrozenOrder) -> Ranking:
        """No task model yet: evenly spaced picks through the hardest batch."""
        batch = pool.capped(batch, self.config.max_per_patient)
        rows = batch[np.arange(budget) * len(batch) // budget]
        score = dict(zip(frozen.studies, frozen.scores, strict=True))
        rank = {study: i + 1 for i, study in enumerate(frozen.studies)}
        studies = tuple(str(s) for s in pool.studies[rows])
        reasons = [
            f"pretext loss {loss:.4g}, rank {rank[s]} of {len(rank)} (1 is hardest); evenly spaced in batch 1 of "
            f"{frozen.num_batches}"
            for s, loss in zip(studies, pool.signal(Signal.PRETEXT_LOSSES)[rows], strict=True)
        ]
        return Ranking(studies, tuple(score[s] for s in studies), tuple(reasons), frozen)

    def _later(self, pool: SelectionPool, batch: NDArray[np.int64], budget: int, place: str) -> Ranking:
        """Take the lowest top-1 probability; ties by study id."""
        top = pool.signal(Signal.PROBABILITIES).max(axis=1)
        by_id = np.sort(batch)
        order = by_id[np.argsort(top[by_id], kind="stable")]
        rows = pool.capped(order, self.config.max_per_patient)[:budget]
        return Ranking(
            tuple(str(s) for s in pool.studies[rows]),
            tuple(float(t) for t in top[rows]),
            tuple(f"the model is {t:.1%} sure of its answer, among the least sure in {place}" for t in top[rows]),
            pool.frozen,
        )
