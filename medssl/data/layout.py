"""The order of an epoch that keeps reads local: blocks of neighbours on disk, permuted, then shuffled in windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medssl.core.keys import permutation
from medssl.pool.remote import Copy
from medssl.pool.shards import shard_path

Rows = NDArray[np.int64]

BLOCK_BYTES = 2 * 2**20  # read at nearly full speed from disks and network file systems
MAX_BLOCK = 256  # rows, however small
WINDOW = 128  # blocks: 256 MiB that the page cache can hold, from up to 128 shards


@dataclass(frozen=True, eq=False)
class Fetched:
    """Shards that come and go: shard ``i`` begins at block ``starts[i]`` and takes ``sizes[i]`` bytes of the cache.

    As many as fit ``together`` are read out before the next ones are.
    """

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    together: int


@dataclass(frozen=True, eq=False)
class Layout:
    """Where rows lie: ``order`` ``N`` int32, rows as they follow each other on disk; block ``i`` is
    ``order[starts[i] : starts[i + 1]]`` and lies in one shard.

    An epoch permutes the blocks and shuffles the rows of every ``WINDOW`` of them, so a batch mixes that many places
    while each block is read in one go, once an epoch. A volume larger than ``BLOCK_BYTES`` is a block of its own, and
    the shuffle is then a plain permutation. Of ``fetched`` shards it permutes the shards first, and then the blocks of
    as many as half of the cache holds: each is downloaded about once an epoch, and the next ones find room.
    """

    order: NDArray[np.int32]
    starts: NDArray[np.int64]
    fetched: Fetched | None = None

    @classmethod
    def of(cls, volumes: pl.DataFrame, copy: Copy | None = None) -> Self:
        """Return the layout of a catalog's table (``shard, offset, length``); ``copy``: of shards that come and go."""
        shards, offsets = volumes["shard"].to_numpy(), volumes["offset"].to_numpy()
        order = np.arange(len(shards), dtype=np.int32)
        step = np.diff(shards)
        if not ((step > 0) | ((step == 0) & (np.diff(offsets) >= 0))).all():
            order = np.lexsort((offsets, shards)).astype(np.int32)
        firsts = np.flatnonzero(np.diff(shards[order], prepend=-1))
        starts = _cut(firsts, len(order), float(volumes["length"].mean() or 1))  # type: ignore[arg-type]
        if copy is None or copy.most_bytes is None:
            return cls(order, starts)
        names = [shard_path(Path(), int(shard)).name for shard in shards[order[firsts]]]
        sizes = np.array([copy.shards.get(name, 0) for name in names])  # one that was added here never goes
        return cls(order, starts, Fetched(np.searchsorted(starts, [*firsts, len(order)]), sizes, copy.most_bytes // 2))

    @classmethod
    def consecutive(cls, num: int) -> Self:
        """Return the layout of ``num`` rows that lie in memory."""
        return cls(np.arange(num, dtype=np.int32), _cut(np.zeros(1, np.int64), num, 1.0))

    def rows(self, seed: int, epoch: int, start: int, stop: int) -> tuple[Rows, Rows]:
        """Return the rows at places ``start … stop - 1`` of an epoch; each is visited once, visit 0."""
        begins = _plan(self, seed, epoch).begins
        first, last = np.searchsorted(begins[:-1], [start, max(start, stop - 1)], "right") - 1
        parts = [_window(self, seed, epoch, window) for window in range(first, last + 1)]
        offset = start - int(begins[first])
        rows = np.concatenate(parts)[offset : offset + stop - start].astype(np.int64)
        return rows, np.zeros_like(rows)


@dataclass(frozen=True)
class _Plan:
    """An epoch's ``blocks`` in order; window ``i`` is ``blocks[windows[i] : windows[i + 1]]``, from ``begins[i]`` on.

    ``windows`` and ``begins``, the place of its first row, also hold the end.
    """

    blocks: Rows
    windows: Rows
    begins: Rows


def _cut(firsts: Rows, num: int, mean_bytes: float) -> Rows:
    """Return where blocks start, and ``num``; ``firsts`` are the starts of shards."""
    size = int(min(max(BLOCK_BYTES / mean_bytes, 1), MAX_BLOCK))
    ends = np.append(firsts[1:], num)
    return np.concatenate([*(np.arange(a, b, size) for a, b in zip(firsts, ends, strict=True)), [num]])


@lru_cache(maxsize=2)
def _plan(layout: Layout, seed: int, epoch: int) -> _Plan:
    num = len(layout.starts) - 1
    if layout.fetched is None:
        blocks, ends = permutation(num, "blocks", seed, epoch), [num]
    else:
        groups = _together(layout.fetched, seed, epoch)
        blocks, ends = np.concatenate(groups), np.cumsum([len(group) for group in groups]).tolist()
    cuts = [np.arange(a, b, WINDOW) for a, b in zip([0, *ends], ends, strict=False)]
    windows = np.concatenate([*cuts, [num]])
    return _Plan(blocks, windows, np.concatenate([[0], np.cumsum(np.diff(layout.starts)[blocks])])[windows])


def _together(fetched: Fetched, seed: int, epoch: int) -> list[Rows]:
    """Return the blocks of an epoch, those of the shards that are read together in one array, permuted."""
    groups: list[list[Rows]] = []
    taken = 0
    for shard in permutation(len(fetched.sizes), "shards", seed, epoch):
        size = int(fetched.sizes[shard])
        if not groups or taken + size > fetched.together:
            groups.append([])
            taken = 0
        groups[-1].append(np.arange(fetched.starts[shard], fetched.starts[shard + 1]))
        taken += size
    whole = [np.concatenate(group) for group in groups]
    return [blocks[permutation(len(blocks), "blocks", seed, epoch, at)] for at, blocks in enumerate(whole)]


@lru_cache(maxsize=4)
def _window(layout: Layout, seed: int, epoch: int, window: int) -> NDArray[np.int32]:
    plan = _plan(layout, seed, epoch)
    blocks = plan.blocks[plan.windows[window] : plan.windows[window + 1]]
    rows = np.concatenate([layout.order[layout.starts[b] : layout.starts[b + 1]] for b in blocks])
    return rows[permutation(len(rows), "window", seed, epoch, window)]
