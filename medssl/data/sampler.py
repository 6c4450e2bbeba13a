"""Which volumes stand in which batch: a pure function of (seed, epoch, step), so resuming needs no state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medssl.core.keys import permutation


@dataclass(frozen=True)
class Sampler:
    """Shuffles ``num`` rows anew each epoch and cuts them into steps of ``accumulate`` micro-batches.

    An epoch is ``steps_per_epoch`` whole steps; rows that do not fill one wait for the next epoch's shuffle. A pool
    smaller than one step is one step of what there is.
    """

    num: int
    batch_size: int
    accumulate: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""
        return max(1, self.num // (self.batch_size * self.accumulate))

    def step(self, step: int) -> tuple[int, list[NDArray[np.int64]]]:
        """Return the epoch of optimiser step ``step`` and the rows of its micro-batches."""
        epoch, offset = divmod(step, self.steps_per_epoch)
        size = self.batch_size * self.accumulate
        rows = _order(self.num, self.seed, epoch)[offset * size : (offset + 1) * size]
        return epoch, [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]

    def micro_batches(self, first: int, total: int) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """Yield ``(step, epoch, rows)`` for every micro-batch of steps ``first … total - 1``."""
        for step in range(first, total):
            epoch, batches = self.step(step)
            for rows in batches:
                yield step, epoch, rows


@lru_cache(maxsize=2)
def _order(num: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return permutation(num, seed, epoch)
