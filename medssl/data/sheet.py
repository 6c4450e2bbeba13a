"""A sheet of example views for people: a row an image, its original first and then each of its views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GAP, GAP_GREY = 2, 0.5  # pixels between tiles, and their grey


def sheet(originals: Tensor, views: Sequence[Tensor]) -> NDArray[np.float32]:
    """Return ``Y X 3`` in [0, 1] from ``B C *S`` originals and views, which may differ in size; C is 1 or 3.

    A volume is shown by the middle slice of each axis, side by side. Small views keep their scale, in the middle of
    their tile.
    """
    columns = [plane for images in (originals, *views) for plane in planes(images.detach().cpu().float())]  # B C Y X
    height = max(plane.shape[2] for plane in columns)
    rows = torch.cat([_tile(plane, height) for plane in columns], dim=3)  # B C GAP+Y all
    whole = torch.cat(list(rows), dim=1)[:, GAP:, GAP:]
    shown: NDArray[np.float32] = whole.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).contiguous().numpy()
    return shown


def planes(images: Tensor) -> list[Tensor]:
    """Return ``B C Y X`` pictures of ``B C *S``: the images, or the middle plane of each axis of the volumes.

    Prepared volumes run towards superior, anterior, right; they are shown head up, face up or left, right side left.
    """
    if images.ndim == 4:
        return [images]
    return [images.select(axis, images.shape[axis] // 2).flip(-2, -1) for axis in (2, 3, 4)]


def _tile(plane: Tensor, height: int) -> Tensor:
    """Return ``B C GAP+height GAP+width`` with the plane in the middle of its height."""
    batch, channels, rows, width = plane.shape
    out = plane.new_full((batch, channels, GAP + height, GAP + width), GAP_GREY)
    top = GAP + (height - rows) // 2
    out[:, :, top : top + rows, GAP:] = plane
    return out
