"""Vision transformer (Dosovitskiy 2021) on timm's blocks, for images of any number of axes, at any size.

The same network in 2D and 3D: only the patch embedding and the positions know the axes (docs/decisions/011).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.errors import EncoderError
from medssl.core.types import Geometry, Need
from medssl.models.encoders.base import Features, TokenEncoder, TokenPlan, centred
from medssl.models.patches import PatchEmbedding
from medssl.models.positions import interpolate, sincos

Size = Annotated[int, Gt(0)]


class VitConfig(Config):
    """Size of the transformer; the defaults are ViT-Tiny (Touvron 2021).

    ``patch``: the side of a patch, one number or one an axis. ``positions``: fixed, or learned from the fixed ones on.
    """

    width: Size = 192
    depth: Size = 12
    heads: Size = 3
    patch: Size | tuple[Size, ...] = 16
    pool: Literal["mean", "cls"] = "mean"
    positions: Literal["sincos", "learned"] = "sincos"
    class_token: bool = True
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0

    def sides(self, ndim: int) -> tuple[int, ...]:
        """Return the sides of a patch, one an axis."""
        return self.patch if isinstance(self.patch, tuple) else (self.patch,) * ndim


class Vit(TokenEncoder):
    """Vision transformer; what a plan drops is neither embedded nor attended to."""

    config_class: ClassVar[type[Config]] = VitConfig
    provides: ClassVar[frozenset[Need]] = frozenset({Need.TOKENS, Need.DROP})
    aliases: ClassVar[Mapping[str, str]] = {  # MONAI's names
        r"patch_embedding\.patch_embeddings\.": "patch_embed.proj.",
        r"patch_embedding\.position_embeddings": "pos_embed",
        r"\.attn\.out_proj\.": ".attn.proj.",
        r"\.mlp\.linear([12])\.": r".mlp.fc\1.",
    }

    def __init__(self, config: VitConfig, geometry: Geometry) -> None:
        super().__init__(config, geometry)
        from timm.models.vision_transformer import VisionTransformer

        from medssl.models.attention import Attention
        from medssl.models.mlp import Mlp

        self.geometry, self.width, self.pool = geometry, config.width, config.pool
        self.patch = config.sides(geometry.ndim)
        self.grid = tuple(size // side for size, side in zip(geometry.shape, self.patch, strict=True))
        self.net = VisionTransformer(
            embed_layer=lambda **_: PatchEmbedding(self.patch, geometry.channels, config.width),
            num_classes=0,
            global_pool="",
            class_token=config.class_token,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            pos_embed="none",
            drop_path_rate=config.drop_path,
            attn_layer=Attention,
            mlp_layer=Mlp,
        )
        weight = self.net.patch_embed.proj.weight
        nn.init.xavier_uniform_(weight.view(len(weight), -1))  # as a linear layer (MAE): content as large as position
        if config.positions == "learned":
            self.net.pos_embed = nn.Parameter(sincos(self.grid, config.width)[None])
        else:
            self.register_buffer("positions", sincos(self.grid, config.width), persistent=False)
            self.positions: Tensor

    @classmethod
    def check(cls, config: Config, geometry: Geometry) -> None:
        """Patches tile the image and heads share the width evenly."""
        config = cast(VitConfig, config)
        sides, shape = config.sides(geometry.ndim), geometry.shape
        said = config.patch if isinstance(config.patch, int) else list(sides)
        if len(sides) != geometry.ndim:
            raise EncoderError(f"encoder.patch: {said} has {len(sides)} axes, but prepare.shape {list(shape)} has not")
        if any(size % side for size, side in zip(shape, sides, strict=True)):
            raise EncoderError(
                f"encoder.patch: {said} does not divide prepare.shape {list(shape)}; choose a divisor of each axis"
            )
        if config.width % config.heads:
            raise EncoderError(f"encoder.heads: {config.heads} does not divide encoder.width {config.width}")
        if config.pool == "cls" and not config.class_token:
            raise EncoderError("encoder.pool: cls needs encoder.class_token; choose pool mean")

    def layers(self) -> list[nn.Module]:
        """Patch embedding, then the blocks."""
        return [self.net.patch_embed, *self.net.blocks]

    def forward(self, images: Tensor, plan: TokenPlan | None = None) -> Features:
        """Encode ``B C *S``; with ``plan.keep`` the tokens returned are the kept ones, in its order.

        Raises:
            EncoderError: an image that patches do not tile.
        """
        tokens = self.net.norm(self.net.blocks(self._embedded(images, None if plan is None else plan.keep)))
        own = tokens[:, self.net.num_prefix_tokens :]  # B L D
        return Features(own.mean(1) if self.pool == "mean" else tokens[:, 0], own)

    def attention_map(self, images: Tensor) -> Tensor:
        """Return ``B heads L``: how much the pooled token (or the mean over tokens) attends to each in the last block.

        Caron 2021, figure 1; tokens are in raster order over the grid of ``images``.
        """
        *earlier, last = self.net.blocks
        tokens = nn.Sequential(*earlier)(self._embedded(images, None))
        weights, prefix = last.attn.weights(last.norm1(tokens)), self.net.num_prefix_tokens  # B heads N N
        rows = weights[:, :, prefix:].mean(2) if self.pool == "mean" else weights[:, :, 0]
        return cast(Tensor, rows[..., prefix:])

    def _embedded(self, images: Tensor, keep: Tensor | None) -> Tensor:
        """Return the tokens that enter the first block, ``B N D``."""
        places = self._places(tuple(images.shape[2:]))
        tokens: Tensor = self.net.patch_embed(centred(images), keep) + (places if keep is None else places[keep])
        if self.net.cls_token is None:
            return tokens
        return torch.cat([self.net.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)

    def _places(self, shape: tuple[int, ...]) -> Tensor:
        """Return the positions ``L D`` of an image of ``shape``, stretched where that is not the geometry's."""
        table = self.positions if self.net.pos_embed is None else self.net.pos_embed[0]
        if shape == self.geometry.shape:
            return table
        if len(shape) != len(self.patch) or any(size % side for size, side in zip(shape, self.patch, strict=True)):
            raise EncoderError(f"images of {list(shape)}: encoder.patch {list(self.patch)} does not divide every axis")
        grid = tuple(size // side for size, side in zip(shape, self.patch, strict=True))
        if self.net.pos_embed is None:
            return sincos(grid, self.width, native=self.grid).to(table)
        return interpolate(table, self.grid, grid)
