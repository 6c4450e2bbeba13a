"""Keyed randomness: a draw depends on its key alone, never on worker count, rank, device or resume.

The generator is counter-based: SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) over ``key + counter``.
Torch has no unsigned 64-bit arithmetic, so the torch half works on int64 with wrap-around and masked shifts;
both halves give the same bits.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def hash_words(*words: Any) -> int:
    """Return a signed 64-bit hash of any printable words; stable across runs and machines."""
    text = "\x1f".join(map(str, words)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def generator(*words: Any) -> np.random.Generator:
    """Return a numpy generator seeded by ``words`` (for host-side draws: rankings, bootstraps, splits)."""
    return np.random.default_rng(hash_words(*words) & (2**64 - 1))


def mix(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Apply SplitMix64's finaliser elementwise."""
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
        return z ^ (z >> np.uint64(31))


def view_keys(seed: int, epoch: int, volumes: NDArray[np.int64], num_views: int) -> NDArray[np.int64]:
    """Return ``B V`` int64 keys: hash(seed, epoch, volume, view). ``volumes`` holds stable volume hashes, ``B``."""
    base = np.uint64(hash_words("view", seed, epoch) & (2**64 - 1))
    mixed = mix(volumes.astype(np.int64).view(np.uint64) ^ base)[:, None]
    return mix(mixed ^ mix(np.arange(num_views, dtype=np.uint64))[None, :]).view(np.int64)


def permutation(num: int, *words: Any) -> NDArray[np.int64]:
    """Return a permutation of ``range(num)`` that depends on ``words`` alone."""
    return generator("permutation", *words).permutation(num)


def uniform(keys: Tensor, num: int, stream: int) -> Tensor:
    """Return float32 draws in [0, 1), shape ``*keys.shape num``; same on CPU and CUDA.

    Args:
        keys: int64, any shape.
        num: draws per key.
        stream: names the purpose (crop, mask, angle …); other streams are independent.
    """
    import torch

    counter = torch.arange(num, dtype=torch.int64, device=keys.device)
    offset = _signed((stream + 1) * MIX_1)
    z = _mix_torch(keys.unsqueeze(-1) ^ offset) + counter * _signed(GOLDEN)
    return (_shift(_mix_torch(z), 40)).to(torch.float32) * 2.0**-24


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix_torch(z: Tensor) -> Tensor:
    z = z + _signed(GOLDEN)
    z = (z ^ _shift(z, 30)) * _signed(MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(MIX_2)
    return z ^ _shift(z, 31)
