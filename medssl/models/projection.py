"""Projection heads: what stands between an encoder's pooled feature and a distillation or contrastive loss."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.models.norms import BatchNorm


class PrototypeHead(nn.Module):
    """DINO's head (Caron 2021, appendix C): three layers with GELU, an L2-normalised bottleneck, K prototypes.

    The last layer is weight-normalised with its norms fixed at 1, so a logit is the cosine of bottleneck and prototype.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, num_prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.randn(num_prototypes, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)  # the paper's .02 at its width of 2048
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the cosine to every prototype, ``B K``, in fp32 at least: a temperature divides it."""
        found = self.mlp(features)
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(unit(found), unit(self.prototypes))


def normed_mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Return MoCo v3's MLP (its ``_build_mlp``): linear layers without bias, batch norm after each, ReLU between.

    The last batch norm has no scale and shift. Statistics are those of the whole batch over all processes.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        last = i + 2 == len(widths)
        layers += [nn.Linear(before, after, bias=False), BatchNorm(after, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors ``… D`` to length 1, in fp32 at least."""
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
