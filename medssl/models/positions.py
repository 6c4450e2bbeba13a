"""Fixed sin-cos positional embedding, one share of the width per spatial axis (Vaswani 2017; MAE's 2D form)."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos(grid: tuple[int, ...], width: int) -> Tensor:
    """Return ``L D`` for a grid of tokens in raster order; columns that no axis fills stay zero."""
    num = width // (2 * len(grid))  # frequencies an axis
    frequency = 10000.0 ** (-torch.arange(num, dtype=torch.float64) / num)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    parts = [f(a.reshape(-1, 1) * frequency) for a in axes for f in (torch.sin, torch.cos)]
    filled = torch.cat(parts, dim=1)
    return torch.nn.functional.pad(filled, (0, width - filled.shape[1])).float()
