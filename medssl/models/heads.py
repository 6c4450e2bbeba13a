"""What stands on an encoder while it is trained: a token decoder and a classification head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.models.patches import picked
from medssl.models.positions import sincos


class TokenDecoder(nn.Module):
    """MAE's decoder (He 2022, §3): kept tokens and mask tokens in, one vector of voxels a token out."""

    def __init__(self, grid: tuple[int, ...], width_in: int, width: int, depth: int, heads: int, num_out: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        from medssl.models.attention import Attention
        from medssl.models.mlp import Mlp

        self.embed = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        made = (Block(width, heads, qkv_bias=True, attn_layer=Attention, mlp_layer=Mlp) for _ in range(depth))
        self.blocks = nn.Sequential(*made)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, num_out)
        self.register_buffer("positions", sincos(grid, width), persistent=False)
        self.positions: Tensor

    def forward(self, tokens: Tensor, keep: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Return ``B M P`` for the places ``wanted`` ``B M``, or ``B L P`` for all.

        ``tokens`` ``B K D`` are the kept ones and ``keep`` ``B K`` their places.
        """
        kept = self.embed(tokens)  # B K W
        full = self.mask_token.to(kept.dtype).repeat(len(kept), len(self.positions), 1)
        full = full.scatter(1, keep.unsqueeze(-1).expand_as(kept), kept) + self.positions.to(kept.dtype)  # B L W
        full = self.blocks(full)
        return self.out(self.norm(full if wanted is None else picked(full, wanted)))  # type: ignore[no-any-return]


def linear_head(width: int, num_classes: int) -> nn.Linear:
    """Return a linear classifier that starts at equal odds."""
    head = nn.Linear(width, num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
