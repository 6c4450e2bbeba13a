"""Swin transformer, SwinUNETR's encoder: Hatamizadeh et al., BrainLes 2021 (arXiv 2201.01266); pretrained by Tang 2022.

MONAI's blocks and arithmetic, so that public weights mean the same: where a window is larger than the grid, it is cut
and reads the first rows of its relative positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, cast

import torch.nn.functional as F
from annotated_types import Ge, Gt, Len, Lt
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.errors import EncoderError
from medssl.core.types import Geometry, Need
from medssl.models.encoders.base import Encoder, Features, TokenPlan, centred


class SwinConfig(Config):
    """Size of the transformer; the defaults are those of SwinUNETR's public weights.

    ``depths``: blocks of each stage; every stage ends by merging two tokens an axis into one of twice the width.
    ``width`` and ``heads``: of the first stage, doubled by every stage. ``window``: tokens an axis of attention.
    """

    width: Annotated[int, Gt(0)] = 48
    depths: Annotated[tuple[Annotated[int, Gt(0)], ...], Len(1)] = (2, 2, 2, 2)
    heads: Annotated[int, Gt(0)] = 3
    window: Annotated[int, Gt(1)] = 7
    patch: Annotated[int, Gt(0)] = 2
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0


class Swin(Encoder):
    """Swin transformer of SwinUNETR: attention in shifted windows."""

    config_class: ClassVar[type[Config]] = SwinConfig
    provides: ClassVar[frozenset[Need]] = frozenset({Need.MAPS})
    aliases: ClassVar[Mapping[str, str]] = {
        r"layers(\d)\.0\.": r"layers\1.",
        r"\.mlp\.fc([12])\.": r".mlp.linear\1.",
    }

    def __init__(self, config: SwinConfig, geometry: Geometry) -> None:
        super().__init__(config, geometry)
        from monai.networks.blocks import PatchEmbed

        self.geometry, self.width = geometry, config.width * 2 ** len(config.depths)
        ndim, total, begun = geometry.ndim, sum(config.depths), 0
        self.net = nn.ModuleDict()
        self.net["patch_embed"] = PatchEmbed(
            config.patch, geometry.channels, config.width, norm_layer=None, spatial_dims=ndim
        )
        for i, depth in enumerate(config.depths):
            rates = [config.drop_path * block / max(total - 1, 1) for block in range(begun, begun + depth)]
            stage = Stage(config.width * 2**i, config.heads * 2**i, (config.window,) * ndim, rates)
            self.net[f"layers{i + 1}"] = stage
            begun += depth

    @classmethod
    def check(cls, config: Config, geometry: Geometry) -> None:
        """Patches and every merging tile the image; heads share the width evenly."""
        config = cast(SwinConfig, config)
        stride = config.patch * 2 ** len(config.depths)
        if any(size % stride for size in geometry.shape):
            raise EncoderError(
                f"prepare.shape: {list(geometry.shape)} is not made of multiples of {stride}, which encoder swin with "
                f"patch {config.patch} and {len(config.depths)} stages needs; change it or shorten encoder.depths"
            )
        if config.width % config.heads:
            raise EncoderError(f"encoder.heads: {config.heads} does not divide encoder.width {config.width}")

    def layers(self) -> list[nn.Module]:
        """Patch embedding, then the stages."""
        return list(self.net.values())

    def forward(self, images: Tensor, plan: TokenPlan | None = None) -> Features:
        """Encode ``B C *S``; ``maps`` are those of the stages and of the patch embedding, each voxel standardised."""
        del plan  # windows need every token; methods that drop some are refused when the study loads
        last, maps = centred(images), []
        for layer in self.layers():
            last = layer(last)  # B C *S
            maps.append(F.layer_norm(last.movedim(1, -1), last.shape[1:2]).movedim(-1, 1))
        return Features(maps[-1].mean(dim=tuple(range(2, last.ndim))), maps=tuple(maps[::-1]))


class Stage(nn.Module):
    """Blocks whose windows are shifted in every other one, then merging (MONAI's ``BasicLayer``, without einops)."""

    def __init__(self, width: int, heads: int, window: tuple[int, ...], drop_path: list[float]) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import PatchMerging, SwinTransformerBlock

        self.window, self.shift = window, tuple(n // 2 for n in window)
        shifts = [self.shift if i % 2 else (0,) * len(window) for i in range(len(drop_path))]
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(width, heads, window, shift, drop_path=rate)
            for shift, rate in zip(shifts, drop_path, strict=True)
        )
        self.downsample = PatchMerging(width, spatial_dims=len(window))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``B 2C *S/2`` of ``B C *S``."""
        from monai.networks.nets.swin_unetr import compute_mask, get_window_size

        x = x.movedim(1, -1).contiguous()
        window, shift = get_window_size(x.shape[1:-1], self.window, self.shift)
        padded = [-(-n // w) * w for n, w in zip(x.shape[1:-1], window, strict=True)]
        mask = compute_mask(padded, window, shift, x.device) if any(shift) and len(self.blocks) > 1 else None
        for block in self.blocks:
            x = block(x, mask)
        return cast(Tensor, self.downsample(x)).movedim(-1, 1)
