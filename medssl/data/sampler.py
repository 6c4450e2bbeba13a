"""Which volumes stand in which batch: a pure function of (seed, epoch, step), so resuming needs no state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import StudyError
from medssl.data.balance import Balance
from medssl.data.layout import Layout
from medssl.data.prepared import Prepared
from medssl.pool.remote import bounded

Rows = NDArray[np.int64]


class Order(Protocol):
    """An endless order of rows that can be entered anywhere."""

    def rows(self, seed: int, epoch: int, start: int, stop: int) -> tuple[Rows, Rows]:
        """Return the rows at places ``start … stop - 1`` of an epoch, and which visit of the epoch each one is."""


@dataclass(frozen=True)
class MicroBatch:
    """What to read for one micro-batch: ``rows`` of the catalog; ``visits`` tells two reads of one row apart."""

    step: int
    epoch: int
    rows: Rows
    visits: Rows


@dataclass(frozen=True)
class Sampler:
    """Orders ``num`` rows anew each epoch and cuts them into steps of ``accumulate`` micro-batches.

    A micro-batch of ``batch_size`` images is ``batch_size / crops`` reads. An epoch is ``steps_per_epoch`` whole steps;
    rows that do not fill one wait for the next epoch. A pool smaller than one step is one step of what there is.

    Raises:
        StudyError: ``crops`` does not divide ``batch_size``.
    """

    num: int
    batch_size: int
    accumulate: int
    seed: int
    crops: int = 1
    order: Order | None = None

    def __post_init__(self) -> None:
        if self.batch_size % self.crops:
            near = max(self.batch_size // self.crops, 1) * self.crops
            raise StudyError(
                f"loop.batch_size: {self.batch_size} is not a multiple of loop.crops {self.crops}; take {near}"
            )

    @classmethod
    def of(
        cls,
        data: Prepared,
        batch_size: int,
        accumulate: int,
        seed: int,
        crops: int = 1,
        balance: Literal["modality", "site", "patient"] | None = None,
    ) -> Self:
        """Return the sampler of prepared volumes: local reads, or groups of ``balance`` equally frequent."""
        plain = cls(len(data), batch_size, accumulate, seed, crops)
        if balance is None:
            order: Order = Layout.of(data.catalog.volumes, bounded(data.shards.parent))
        else:
            order = Balance.of(data.catalog.volumes[balance].to_list(), plain.reads_per_epoch)
        return cls(len(data), batch_size, accumulate, seed, crops, order)

    @property
    def reads(self) -> int:
        """Reads a full micro-batch."""
        return self.batch_size // self.crops

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""
        return max(1, self.num // (self.reads * self.accumulate))

    @property
    def reads_per_epoch(self) -> int:
        """Rows read an epoch."""
        return min(self.num, self.steps_per_epoch * self.reads * self.accumulate)

    @property
    def reads_per_step(self) -> int:
        """Rows read an optimiser step."""
        return min(self.num, self.reads * self.accumulate)

    @property
    def micro_batches(self) -> int:
        """Micro-batches a step."""
        return -(-self.reads_per_step // self.reads)

    @property
    def fewest_reads(self) -> int:
        """Reads of a step's last micro-batch, which a small pool leaves short."""
        return self.reads_per_step - (self.micro_batches - 1) * self.reads

    def micro_batch(self, index: int) -> MicroBatch:
        """Return micro-batch ``index`` of the run, counted over all steps."""
        step, micro = divmod(index, self.micro_batches)
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.reads_per_step + micro * self.reads
        stop = min(start + self.reads, (place + 1) * self.reads_per_step)
        return MicroBatch(step, epoch, *self._order.rows(self.seed, epoch, start, stop))

    def step(self, step: int) -> tuple[int, list[Rows]]:
        """Return the epoch of optimiser step ``step`` and the rows of its micro-batches."""
        found = [self.micro_batch(step * self.micro_batches + i) for i in range(self.micro_batches)]
        return found[0].epoch, [batch.rows for batch in found]

    @cached_property
    def _order(self) -> Order:
        return self.order or Layout.consecutive(self.num)
