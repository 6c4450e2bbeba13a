"""Images as patches and back, and the embedding of patches: a strided convolution that skips what is dropped."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}


def patchify(images: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Cut ``B C *S`` into ``B L P`` patches in raster order; P is ``C *patch``, as the weight of a convolution."""
    batch, channels, *shape = images.shape
    grid, ndim = [size // p for size, p in zip(shape, patch, strict=True)], len(patch)
    split = images.reshape(batch, channels, *(n for pair in zip(grid, patch, strict=True) for n in pair))
    order = [0, *range(2, 2 + 2 * ndim, 2), 1, *range(3, 3 + 2 * ndim, 2)]  # B *grid C *patch
    return split.permute(order).reshape(batch, prod(grid), -1)


def unpatchify(patches: Tensor, patch: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Undo `patchify`: ``B L P`` to ``B C *S``."""
    grid, ndim = [size // p for size, p in zip(shape, patch, strict=True)], len(patch)
    split = patches.reshape(len(patches), *grid, -1, *patch)  # B *grid C *patch
    order = [0, 1 + ndim, *(axis for i in range(ndim) for axis in (1 + i, 2 + ndim + i))]
    return split.permute(order).reshape(len(patches), -1, *shape)


def picked(tokens: Tensor, places: Tensor) -> Tensor:
    """Return ``B K D``: of each ``B L D`` row the tokens at its ``places`` ``B K``."""
    batch, length, width = tokens.shape
    rows = places + torch.arange(batch, device=places.device).unsqueeze(1) * length
    return tokens.reshape(-1, width).index_select(0, rows.flatten()).view(batch, -1, width)  # whole rows: fast


class PatchEmbedding(nn.Module):
    """A linear map of each patch.

    Its weight is that of a convolution whose stride is its kernel (timm's ``proj``), and is used as one matrix: no
    patch is embedded that is then dropped.
    """

    num_patches = 0  # timm asks, for positions that are not used here

    def __init__(self, patch: tuple[int, ...], channels: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = CONVOLUTION[len(patch)](channels, width, patch, patch)  # type: ignore[arg-type]

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return ``B L D`` in raster order, or ``B K D`` in the order of ``keep``."""
        patches = patchify(images, self.patch)
        patches = patches if keep is None else picked(patches, keep)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)
