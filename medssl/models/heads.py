"""What stands on an encoder while it is trained: a token decoder and a classification head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.models.positions import sincos


class TokenDecoder(nn.Module):
    """MAE's decoder (He 2022, §3): kept tokens and mask tokens in, one vector of voxels a token out."""

    def __init__(self, grid: tuple[int, ...], width_in: int, width: int, depth: int, heads: int, num_out: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.embed = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, num_out)
        self.register_buffer("positions", sincos(grid, width), persistent=False)
        self.positions: Tensor
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """Return ``B L P`` from the kept tokens ``B K D`` and their places ``B K``."""
        kept = self.embed(tokens)  # B K W
        full = self.mask_token.to(kept.dtype).repeat(len(kept), len(self.positions), 1)
        full = full.scatter(1, keep.unsqueeze(-1).expand_as(kept), kept) + self.positions.to(kept.dtype)  # B L W
        return self.out(self.norm(self.blocks(full)))  # type: ignore[no-any-return]


def linear_head(width: int, num_classes: int) -> nn.Linear:
    """Return a linear classifier that starts at equal odds."""
    head = nn.Linear(width, num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
