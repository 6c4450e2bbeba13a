"""The order of an epoch that keeps reads local: blocks of neighbours on disk, permuted, then shuffled in windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medssl.core.keys import permutation

Rows = NDArray[np.int64]

BLOCK_BYTES = 2 * 2**20  # read at nearly full speed from disks and network file systems
MAX_BLOCK = 256  # rows, however small
WINDOW = 128  # blocks: 256 MiB that the page cache can hold, from up to 128 shards


@dataclass(frozen=True, eq=False)
class Layout:
    """Where rows lie: ``order`` ``N`` int32, rows as they follow each other on disk; block ``i`` is
    ``order[starts[i] : starts[i + 1]]`` and lies in one shard.

    An epoch permutes the blocks and shuffles the rows of every ``WINDOW`` of them, so a batch mixes that many places
    while each block is read in one go, once an epoch. A volume larger than ``BLOCK_BYTES`` is a block of its own, and
    the shuffle is then a plain permutation.
    """

    order: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, volumes: pl.DataFrame) -> Self:
        """Return the layout of a catalog's table (``shard, offset, length``)."""
        shards, offsets = volumes["shard"].to_numpy(), volumes["offset"].to_numpy()
        order = np.arange(len(shards), dtype=np.int32)
        step = np.diff(shards)
        if not ((step > 0) | ((step == 0) & (np.diff(offsets) >= 0))).all():
            order = np.lexsort((offsets, shards)).astype(np.int32)
        firsts = np.flatnonzero(np.diff(shards[order], prepend=-1))
        return cls(order, _cut(firsts, len(order), float(volumes["length"].mean() or 1)))  # type: ignore[arg-type]

    @classmethod
    def consecutive(cls, num: int) -> Self:
        """Return the layout of ``num`` rows that lie in memory."""
        return cls(np.arange(num, dtype=np.int32), _cut(np.zeros(1, np.int64), num, 1.0))

    def rows(self, seed: int, epoch: int, start: int, stop: int) -> tuple[Rows, Rows]:
        """Return the rows at places ``start … stop - 1`` of an epoch; each is visited once, visit 0."""
        _, begins = _blocks(self, seed, epoch)
        first, last = np.searchsorted(begins[:-1:WINDOW], [start, max(start, stop - 1)], "right") - 1
        parts = [_window(self, seed, epoch, window) for window in range(first, last + 1)]
        offset = start - int(begins[first * WINDOW])
        rows = np.concatenate(parts)[offset : offset + stop - start].astype(np.int64)
        return rows, np.zeros_like(rows)


def _cut(firsts: Rows, num: int, mean_bytes: float) -> Rows:
    """Return where blocks start, and ``num``; ``firsts`` are the starts of shards."""
    size = int(min(max(BLOCK_BYTES / mean_bytes, 1), MAX_BLOCK))
    ends = np.append(firsts[1:], num)
    return np.concatenate([*(np.arange(a, b, size) for a, b in zip(firsts, ends, strict=True)), [num]])


@lru_cache(maxsize=2)
def _blocks(layout: Layout, seed: int, epoch: int) -> tuple[Rows, Rows]:
    """Return the blocks in the epoch's order, and the place at which each begins, with the end."""
    blocks = permutation(len(layout.starts) - 1, "blocks", seed, epoch)
    return blocks, np.concatenate([[0], np.cumsum(np.diff(layout.starts)[blocks])])


@lru_cache(maxsize=4)
def _window(layout: Layout, seed: int, epoch: int, window: int) -> NDArray[np.int32]:
    blocks = _blocks(layout, seed, epoch)[0][window * WINDOW : (window + 1) * WINDOW]
    rows = np.concatenate([layout.order[layout.starts[b] : layout.starts[b + 1]] for b in blocks])
    return rows[permutation(len(rows), "window", seed, epoch, window)]
