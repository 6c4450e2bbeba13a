"""Cover part of an image, its detail or its arrangement: what an encoder still sees then tells what it reads.

Frame and corners are those of each slice, in 3D too: couch, collimator, markers, padding and the edge of the field of
view lie around slices, while the first and last slices are anatomy, and six sides would be 58 % of a volume.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from medssl.core.keys import uniform
from medssl.data.resample import blur_matrix, resample
from medssl.data.views import Stream

FRAME = 1 / 8  # of each side of a slice: 44 % of its area
CORNER = 3 / 16  # of each side: 14 % of the area; markers and text reach further in than a frame
SIGMA = 1 / 32  # of each axis: 2 voxels of 64, 7 of 224
GRID = 4  # patches an axis
MEAN, SPREAD = 0.5, 0.2  # of every image, where contrast is taken away


class Cover(StrEnum):
    """What is taken away."""

    FRAME = "frame"
    CORNERS = "corners"
    BORDER = "border"  # frame and corners
    INTERIOR = "interior"  # all but the frame
    LOW_PASS = "low_pass"
    PATCH_SHUFFLE = "patch_shuffle"
    CONTRAST = "contrast"  # and brightness

    @property
    def mark(self) -> tuple[Any, ...]:
        """What changes with all that a covered image depends on."""
        return self, FRAME, CORNER, SIGMA, GRID, MEAN, SPREAD


def covered(
    images: Tensor, cover: Cover, keys: Tensor, *, first: Tensor | None = None, extent: Tensor | None = None
) -> Tensor:
    """Return ``images`` ``B C *S`` without what ``cover`` names.

    A covered region holds the mean of what is left of the image (0 where nothing is), so its content leaks nowhere.
    ``low_pass`` is a Gaussian of ``SIGMA``; ``patch_shuffle`` exchanges ``GRID`` patches an axis, keyed, and what does
    not fill patches becomes their mean; ``contrast`` gives every image one mean and one deviation, clipped to [0, 1].

    Args:
        images: of any float type.
        cover: see above.
        keys: ``B``, the only source of randomness.
        first: ``B ndim``, where each image begins in the volume that it is a window of; nowhere else is a frame.
        extent: ``B ndim``, the shape of that volume; ``*S`` without.
    """
    shape = tuple(images.shape[2:])
    if cover is Cover.LOW_PASS:
        sigmas = [images.new_full((len(images),), SIGMA * size) for size in shape]
        return resample(images, [blur_matrix(s, SIGMA * size, size) for s, size in zip(sigmas, shape, strict=True)])
    if cover is Cover.PATCH_SHUFFLE:
        return shuffled(images, keys)
    if cover is Cover.CONTRAST:
        axes = tuple(range(1, images.ndim))
        deviation = images.std(axes, keepdim=True, correction=0).clamp(min=1e-6)
        return ((images - images.mean(axes, keepdim=True)) / deviation * SPREAD + MEAN).clamp(0, 1)
    hidden = region(shape, cover, first=first, extent=extent).to(images.device).unsqueeze(1)  # B|1 1 *S
    axes = tuple(range(2, images.ndim))
    seen = (~hidden).to(images.dtype)
    mean = (images * seen).sum(axes, keepdim=True) / seen.sum(axes, keepdim=True).clamp(min=1)
    return torch.where(hidden, mean, images)


def region(
    shape: tuple[int, ...], cover: Cover, *, first: Tensor | None = None, extent: Tensor | None = None
) -> Tensor:
    """Return which voxels belong to frame, corners, border or interior, ``B *S`` (``B`` = 1 without a place)."""
    first = torch.zeros(1, len(shape)) if first is None else first
    extent = torch.tensor([shape]) if extent is None else extent
    places = []
    for axis in (-2, -1):
        place = (first[:, axis, None].cpu() + torch.arange(shape[axis]) + 0.5) / extent[:, axis, None].cpu()  # B n
        sizes = [1] * len(shape)
        sizes[axis] = shape[axis]
        places.append(place.view(-1, *sizes))
    frame, corner = ([(p < share) | (p > 1 - share) for p in places] for share in (FRAME, CORNER))
    around, corners = frame[0] | frame[1], corner[0] & corner[1]
    found = {Cover.CORNERS: corners, Cover.BORDER: around | corners, Cover.INTERIOR: ~around}.get(cover, around)
    return found.expand(-1, *shape)


def shuffled(images: Tensor, keys: Tensor) -> Tensor:
    """Return ``B C *S`` with each image's patches in an order drawn from its key ``B``; axes below ``GRID`` stay."""
    batch, channels, *shape = images.shape
    grid = [GRID if size >= GRID else 1 for size in shape]
    patch = [size // n for size, n in zip(shape, grid, strict=True)]
    kept = (slice(None), slice(None), *(slice(0, n * p) for n, p in zip(grid, patch, strict=True)))
    pairs = [x for pair in zip(grid, patch, strict=True) for x in pair]
    ndim = len(shape)
    at = [2 + 2 * i for i in range(ndim)]
    split = images[kept].reshape(batch, channels, *pairs).permute(0, *at, 1, *(a + 1 for a in at))  # B *grid C *patch
    patches = split.reshape(batch, -1, channels, *patch)
    order = uniform(keys, patches.shape[1], Stream.SHUFFLE).argsort(dim=1, stable=True)
    moved = patches[torch.arange(batch, device=images.device)[:, None], order].reshape(split.shape)
    inverse = [0, ndim + 1, *(axis for i in range(ndim) for axis in (1 + i, ndim + 2 + i))]
    axes = tuple(range(2, images.ndim))
    made = images[kept].mean(axes, keepdim=True).expand_as(images).clone()
    made[kept] = moved.permute(*inverse).reshape(images[kept].shape)
    return made
