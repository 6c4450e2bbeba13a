"""Likeness: a perceptual hash of 64 bits an image, and which of a million hashes differ in few bits."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

SIDE, FREQUENCIES = 32, 8  # of the image that is transformed, and of what is kept of it


def perceptual_hash(image: NDArray[Any]) -> int:
    """Return the signs of the 64 lowest frequencies (but the mean) of ``image`` (``Y X``) as a signed integer.

    Resizing, recoding, brightness and contrast leave most bits as they are. Intensities are clipped to their 1st and
    99th percentile first. Source: Zauner, Implementation and benchmarking of perceptual image hash functions, 2010.
    """
    step = -(-max(image.shape) // (16 * SIDE))
    sample = np.asarray(image[::step, ::step], np.float64)
    low, high = np.percentile(sample, [1, 99])
    shown = (np.clip(sample, low, high) - low) / ((high - low) or 1)
    small = Image.fromarray(shown.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX)
    found = dctn(np.asarray(small), norm="ortho")
    lowest = np.concatenate([found[:FREQUENCIES, :FREQUENCIES].ravel()[1:], found[:1, FREQUENCIES]])
    bits = np.packbits(lowest > np.median(lowest))
    return int(bits.view(">i8")[0])


def near(hashes: NDArray[np.int64], owners: NDArray[Any], most_bits: int) -> NDArray[np.bool_]:
    """Say for each hash whether another owner has one that differs in at most ``most_bits`` bits.

    Two such hashes agree in at least two of ``most_bits`` + 2 blocks of bits, so only those are compared that share two
    blocks: about a second for a million hashes.
    """
    unique, which = np.unique(hashes, return_inverse=True)
    owner = np.unique(owners, return_inverse=True)[1]
    first, last = np.full(len(unique), len(owner)), np.full(len(unique), -1)  # several owners: first < last
    np.minimum.at(first, which, owner)
    np.maximum.at(last, which, owner)
    found = first < last
    edges = np.linspace(0, 64, most_bits + 3).astype(int)
    blocks = [((1 << int(b)) - (1 << int(a))) for a, b in pairwise(edges)]
    bits = unique.view(np.uint64)
    for one, other in combinations(blocks, 2):
        shared = bits & np.uint64(one | other)
        order = np.argsort(shared)
        shared, step = shared[order], 1
        begins = np.arange(len(order))
        while len(begins := begins[begins + step < len(order)]):
            begins = begins[shared[begins] == shared[begins + step]]
            a, b = order[begins], order[begins + step]
            differs = (first[a] != first[b]) | (last[a] != last[b])
            is_near = differs & (np.bitwise_count(bits[a] ^ bits[b]) <= most_bits)
            found[a[is_near]] = found[b[is_near]] = True
            step += 1
    return found[which]
