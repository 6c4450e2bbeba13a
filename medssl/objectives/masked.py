"""Masked-image objectives: patches, their normalised targets, and the loss on what was hidden."""

from __future__ import annotations

from torch import Tensor


def patchify(images: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Cut ``B C *S`` into ``B L P`` patches in raster order, P = product of ``patch`` times C."""
    batch, channels, *shape = images.shape
    grid = [size // p for size, p in zip(shape, patch, strict=True)]
    split = images.reshape(batch, channels, *(n for pair in zip(grid, patch, strict=True) for n in pair))
    ndim = len(patch)
    order = [0, *range(2, 2 + 2 * ndim, 2), *range(3, 3 + 2 * ndim, 2), 1]  # B *grid *patch C
    return split.permute(order).flatten(1 + ndim).flatten(1, ndim)  # B L P


def unpatchify(patches: Tensor, patch: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Undo `patchify`: ``B L P`` to ``B C *S``."""
    grid = [size // p for size, p in zip(shape, patch, strict=True)]
    ndim = len(patch)
    split = patches.reshape(len(patches), *grid, *patch, -1)  # B *grid *patch C
    order = [0, split.ndim - 1, *(axis for i in range(ndim) for axis in (1 + i, 1 + ndim + i))]
    return split.permute(order).reshape(len(patches), -1, *shape)


def normalised_patches(patches: Tensor, variance_floor: float) -> Tensor:
    """Standardise each patch ``B L P`` (He 2022, "norm_pix_loss").

    Departure: variances below ``variance_floor`` count as the floor, so that air does not become amplified noise.
    """
    variance, mean = patches.var(-1, keepdim=True), patches.mean(-1, keepdim=True)
    return (patches - mean) / variance.clamp_min(variance_floor).sqrt()


def masked_mse(predicted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Return, per image ``B``, the mean squared error over hidden patches (``hidden`` ``B L``: 1 hidden, 0 kept)."""
    error = (predicted.float() - target.float()).square().mean(-1)  # B L
    return (error * hidden).sum(1) / hidden.sum(1)
