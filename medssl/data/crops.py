"""Boxes of volumes that are larger than what an encoder sees: keyed ones for training, a cover for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.core.keys import uniform
from medssl.data.memory import empty, lent
from medssl.pool.reader import Box, VolumeReader

Ints = NDArray[np.int64]

# How often a box must contain tissue. Air teaches little, yet an encoder that never saw any is lost at its border;
# with a tenth of free boxes every voxel keeps its chance.
FOREGROUND_CHANCE = 0.9
# A block that several crops are cut from, an axis: 3.4 crops' worth of voxels in 3D, of which 8 crops use most.
BLOCK_FACTOR = 1.5


def block_shape(shape: tuple[int, ...], crops: int) -> tuple[int, ...]:
    """Return what to read at once so that ``crops`` different boxes of ``shape`` can be cut from it."""
    return shape if crops == 1 else tuple(round(BLOCK_FACTOR * size) for size in shape)


def starts(keys: Ints, stream: int, extents: Ints, sizes: Ints, points: Ints | None = None) -> Ints:
    """Draw where boxes begin, ``B ndim``: inside their volume, mostly around tissue.

    Args:
        keys: ``B``.
        stream: what the draw is for, a `Stream`.
        extents: of the volumes, ``B ndim``.
        sizes: of the boxes, ``B ndim``, at most the extents.
        points: places in tissue, ``B P ndim``; those outside the volume do not count. None: anywhere.
    """
    ndim = extents.shape[1]
    u = uniform(torch.from_numpy(keys), ndim + 2, stream).numpy().astype(np.float64)
    low, high = np.zeros_like(extents), extents - sizes
    if points is not None:
        known = ((points >= 0) & (points < extents[:, None])).all(2)  # B P
        count = known.sum(1)
        ranked = np.argsort(~known, axis=1, kind="stable")  # the known ones first
        point = points[np.arange(len(keys)), ranked[np.arange(len(keys)), (u[:, ndim + 1] * count).astype(np.int64)]]
        around = ((u[:, ndim] < FOREGROUND_CHANCE) & (count > 0))[:, None]
        low, high = (
            np.where(around, np.maximum(point - sizes + 1, low), low),
            np.where(around, np.minimum(point, high), high),
        )
    return low + (u[:, :ndim] * (high - low + 1)).astype(np.int64)


def boxes(first: Ints, sizes: Ints) -> list[Box]:
    """Return the slices of boxes (``B ndim`` starts and sizes) of arrays ``C *S``."""
    ends = first + sizes
    return [
        (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
        for low, high in zip(first.tolist(), ends.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Stored:
    """Whole float16 images where they lie in mapped files, to be cut from: ``rows`` ``B`` of a reader.

    ``shape`` is that of the tensor ``B C *S`` that reading all of them would make; a box is copied straight out of the
    page cache instead, by as many threads as torch has.
    """

    reader: VolumeReader
    rows: Ints
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int, box: Box) -> Tensor:
        """Return a box of one image, to be read only."""
        return lent(self.reader.lying(int(self.rows[index]))[box])


def cut(
    blocks: Tensor | Stored,
    which: Tensor,
    first: Tensor,
    shape: tuple[int, ...],
    mirrored: Tensor | None = None,
) -> Tensor:
    """Return boxes of ``shape``, ``B C *S``, from ``blocks`` ``R C *T``: exact slices, float16 as float32.

    Args:
        blocks: what to cut from.
        which: the block of each box, ``B``.
        first: where each box begins, ``B ndim``; on the blocks' device, so that nothing waits for it.
        shape: of the boxes.
        mirrored: which boxes to flip along the last axis, ``B`` bool.
    """
    if isinstance(blocks, Stored) or blocks.device.type == "cpu":
        return _copied(blocks, which.tolist(), first.tolist(), shape, mirrored)
    dtype = torch.float32 if blocks.dtype == torch.float16 else blocks.dtype
    for axis, size in enumerate(shape):
        blocks = blocks.unfold(2 + axis, size, 1)  # a view: R C *places *S
    places: tuple[Tensor | slice, ...] = (which, slice(None), *first.unbind(1))
    found = blocks[places].to(dtype)
    if mirrored is None:
        return found
    return torch.where(mirrored.view(-1, *(1,) * (found.ndim - 1)), found.flip(-1), found)


def _copied(
    blocks: Tensor | Stored,
    which: Sequence[int],
    first: Sequence[Sequence[int]],
    shape: tuple[int, ...],
    mirrored: Tensor | None,
) -> Tensor:
    """Cut in one pass of copies."""
    dtype = torch.float16 if isinstance(blocks, Stored) else blocks.dtype
    out = empty((len(which), blocks.shape[1], *shape), torch.float32 if dtype == torch.float16 else dtype)
    flips = [False] * len(which) if mirrored is None else mirrored.tolist()
    for made, block, at, flip in zip(out, which, first, flips, strict=True):
        box: Box = (slice(None), *(slice(a, a + size) for a, size in zip(at, shape, strict=True)))
        found = blocks.read(block, box) if isinstance(blocks, Stored) else blocks[block][box]
        made.copy_(_flipped(found) if flip else found.contiguous())  # float16 in rows converts eight times faster
    return out


def _flipped(images: Tensor) -> Tensor:
    """Mirror the last axis; torch does so to float16 half as fast as to integers of two bytes."""
    if images.dtype != torch.float16:
        return images.flip(-1)
    return images.view(torch.int16).flip(-1).view(torch.float16)


def windows(shape: tuple[int, ...], window: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return the fewest boxes of ``window`` that cover ``shape``, evenly spread, in raster order.

    Raises:
        ValueError: a window is larger than the volume.
    """
    if any(size > extent for size, extent in zip(window, shape, strict=True)):
        raise ValueError(f"windows of {window} do not fit into {shape}; expected at most its extent an axis")
    axes = []
    for extent, size in zip(shape, window, strict=True):
        num = -(-extent // size)
        axes.append([slice(a, a + size) for a in np.linspace(0, extent - size, num).round().astype(int).tolist()])
    return list(product(*axes))
