"""Positional embedding for any number of axes: fixed sin-cos, and learned tables brought to another grid.

Each spatial axis has its share of the width (Vaswani 2017; MAE's 2D form).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos(grid: tuple[int, ...], width: int, native: tuple[int, ...] | None = None) -> Tensor:
    """Return ``L D`` for a grid of tokens in raster order; columns that no axis fills stay zero.

    ``native``: the grid that the network knows; ``grid`` is stretched over it, axis by axis, as DINO's interpolation
    does: a view has the same extent for any number of tokens. The native grid itself keeps its whole coordinates.
    """
    num = width // (2 * len(grid))  # frequencies an axis
    frequency = 10000.0 ** (-torch.arange(num, dtype=torch.float64) / num)
    places = [
        (torch.arange(n, dtype=torch.float64) + 0.5) * (known / n) - 0.5
        for n, known in zip(grid, native or grid, strict=True)
    ]
    axes = torch.meshgrid(*places, indexing="ij")
    parts = [f(a.reshape(-1, 1) * frequency) for a in axes for f in (torch.sin, torch.cos)]
    filled = torch.cat(parts, dim=1)
    return F.pad(filled, (0, width - filled.shape[1])).float()


def interpolate(table: Tensor, from_grid: tuple[int, ...], to_grid: tuple[int, ...]) -> Tensor:
    """Bring a learned table ``L D`` in raster order from one grid to another: bicubic, axis by axis.

    In 2D this is what DINO does (Caron 2021); an axis of the same length stays as it is, bit by bit.
    """
    width = table.shape[-1]
    values = table.reshape(*from_grid, width)
    for axis, (old, new) in enumerate(zip(from_grid, to_grid, strict=True)):
        if old != new:
            lines = values.movedim(axis, 0)  # old … D
            flat = F.interpolate(lines.reshape(1, 1, old, -1), size=(new, lines[0].numel()), mode="bicubic")
            values = flat.reshape(new, *lines.shape[1:]).movedim(0, axis)
    return values.reshape(-1, width)
