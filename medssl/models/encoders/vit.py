"""Vision transformer (Dosovitskiy 2021) on timm's blocks, with fixed sin-cos positions at any size."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.errors import EncoderError
from medssl.core.types import Geometry, Need
from medssl.models.encoders.base import Features, TokenEncoder, TokenPlan, centred
from medssl.models.positions import sincos


class VitConfig(Config):
    """Size of the transformer; the defaults are ViT-Tiny (Touvron 2021)."""

    width: Annotated[int, Gt(0)] = 192
    depth: Annotated[int, Gt(0)] = 12
    heads: Annotated[int, Gt(0)] = 3
    patch: Annotated[int, Gt(0)] = 16
    pool: Literal["mean", "cls"] = "mean"
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0


class Vit(TokenEncoder):
    """Vision transformer; tokens really leave the sequence when a plan drops them."""

    config_class: ClassVar[type[Config]] = VitConfig
    provides: ClassVar[frozenset[Need]] = frozenset({Need.TOKENS, Need.DROP})

    def __init__(self, config: VitConfig, geometry: Geometry) -> None:
        super().__init__(config, geometry)
        from timm.models.vision_transformer import VisionTransformer

        self.geometry, self.width, self.pool = geometry, config.width, config.pool
        self.patch = (config.patch,) * geometry.ndim
        self.grid = tuple(size // config.patch for size in geometry.shape)
        self.net = VisionTransformer(
            img_size=geometry.shape,
            patch_size=config.patch,
            in_chans=geometry.channels,
            num_classes=0,
            global_pool="",
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            pos_embed="none",
            drop_path_rate=config.drop_path,
        )
        weight = self.net.patch_embed.proj.weight
        nn.init.xavier_uniform_(weight.view(len(weight), -1))  # as a linear layer (MAE): content as large as position
        self.register_buffer("positions", sincos(self.grid, config.width), persistent=False)
        self.positions: Tensor

    @classmethod
    def check(cls, config: Config, geometry: Geometry) -> None:
        """Patches tile the image and heads share the width evenly."""
        config = cast(VitConfig, config)
        if geometry.ndim != 2:
            raise EncoderError(f"encoder vit is 2D, but prepare.shape has {geometry.ndim} axes")
        if any(size % config.patch for size in geometry.shape):
            raise EncoderError(
                f"encoder.patch: {config.patch} does not divide prepare.shape {list(geometry.shape)}; choose a divisor"
            )
        if config.width % config.heads:
            raise EncoderError(f"encoder.heads: {config.heads} does not divide encoder.width {config.width}")

    def layers(self) -> list[nn.Module]:
        """Patch embedding, then the blocks."""
        return [self.net.patch_embed, *self.net.blocks]

    def forward(self, images: Tensor, plan: TokenPlan | None = None) -> Features:
        """Encode ``B C Y X``; with ``plan.keep`` the tokens returned are the kept ones, in its order."""
        tokens = self.net.patch_embed(centred(images)) + self.positions  # B L D
        if plan is not None and plan.keep is not None:
            tokens = tokens.gather(1, plan.keep.unsqueeze(-1).expand(-1, -1, self.width))  # B K D
        tokens = torch.cat([self.net.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.net.norm(self.net.blocks(tokens))
        pooled = tokens[:, 1:].mean(1) if self.pool == "mean" else tokens[:, 0]
        return Features(pooled, tokens[:, 1:])
