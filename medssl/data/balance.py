"""The order of an epoch that makes groups equally frequent: every group once a round, its volumes in even use.

Nothing is listed: the row at a place is computed from it, through permutations that are evaluated pointwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medssl.core.keys import hash_words, mix

Words = NDArray[np.uint64]
Rows = NDArray[np.int64]

PAGE = 4096  # reads computed at a time
SALTS = mix(np.arange(8))  # one a double round; with fewer, permutations of four or five are unevenly frequent


@dataclass(frozen=True, eq=False)
class Balance:
    """Groups of rows: those of group ``g`` are ``members[starts[g] : starts[g + 1]]``; ``length``: reads an epoch.

    Each round of reads takes every group once, in keyed order. The last round of an epoch may be short: which groups
    it takes rotates, so that after any number of epochs the counts of two groups differ by one at most. A group goes
    through a keyed permutation of its volumes before any comes again. Neighbours on disk are not read together.
    """

    members: NDArray[np.int32]
    starts: NDArray[np.int64]
    length: int

    @classmethod
    def of(cls, labels: Sequence[Any], length: int) -> Self:
        """Return the groups of rows with equal labels; rows without one (None) are a group of their own."""
        names = sorted(set(labels), key=lambda name: (name is not None, name))
        index = {name: i for i, name in enumerate(names)}
        groups = np.array([index[label] for label in labels], np.int32)
        starts = np.concatenate([[0], np.cumsum(np.bincount(groups, minlength=len(names)))])
        return cls(np.argsort(groups, kind="stable").astype(np.int32), starts, length)

    def rows(self, seed: int, epoch: int, start: int, stop: int) -> tuple[Rows, Rows]:
        """Return the rows at places ``start … stop - 1`` of an epoch, and how often each group had been used up."""
        first, last = start // PAGE, (max(start, stop - 1)) // PAGE
        pages = np.concatenate([_page(self, seed, epoch, page) for page in range(first, last + 1)], axis=1)
        rows, visits = pages[:, start - first * PAGE : stop - first * PAGE]
        return rows, visits


@lru_cache(maxsize=2)
def _page(balance: Balance, seed: int, epoch: int, page: int) -> Rows:
    """Return rows and visits, ``2 PAGE``."""
    length, starts = balance.length, balance.starts
    num_groups = len(starts) - 1
    turn, place = np.divmod(np.arange(page * PAGE, min((page + 1) * PAGE, length)), num_groups)
    whole, rest = divmod(length, num_groups)
    size = np.where(turn < whole, num_groups, rest)
    drawn = shuffled(place, size, _keys(turn, "round", seed, epoch)).astype(np.int64)
    extra = (num_groups - rest - epoch * length + drawn) % num_groups  # the groups of a short round
    group = np.where(turn < whole, drawn, extra)
    # Hermite: floor((x + g) / G), summed over g = 0 … G - 1, is x: these are whole shares of all reads before.
    before = (epoch * length + group) // num_groups
    sizes = starts[group + 1] - starts[group]
    past, slot = np.divmod(before + turn, sizes)
    member = shuffled(slot, sizes, mix(_keys(past, "pass", seed) ^ group.astype(np.uint64)))
    rows = balance.members[starts[group] + member.astype(np.int64)]
    return np.stack([rows, past - before // sizes])


def _keys(numbers: Rows, *words: Any) -> Words:
    return mix(numbers.astype(np.uint64) ^ np.uint64(hash_words(*words) & (2**64 - 1)))


def shuffled(places: Rows, sizes: Rows, keys: Words) -> Words:
    """Return where ``places`` go under a keyed permutation of ``range(sizes)``, elementwise.

    A Feistel network over just enough bits, repeated while it leads outside (cycle walking: Black and Rogaway,
    "Ciphers with Arbitrary Finite Domains", CT-RSA 2002).
    """
    bits = np.frexp(np.maximum(sizes - 1, 1).astype(np.float64))[1].astype(np.uint64)  # exact below 2 ** 53
    one, low = np.uint64(1), (bits + np.uint64(1)) >> np.uint64(1)
    masks = (one << low) - one, (one << (bits - low)) - one
    found, limit = places.astype(np.uint64), sizes.astype(np.uint64)
    walking = np.arange(len(found))
    while len(walking):
        shift, key, below, above = (a[walking] for a in (low, keys, *masks))
        left, right = found[walking] >> shift, found[walking] & below
        for salt in SALTS:
            left ^= mix(right ^ key ^ salt) & above
            right ^= mix(left ^ key ^ ~salt) & below
        found[walking] = (left << shift) | right
        walking = walking[found[walking] >= limit[walking]]
    return found
