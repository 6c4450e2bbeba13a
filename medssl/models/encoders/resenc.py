"""The encoder of nnU-Net's residual-encoder U-Net: Isensee et al., "nnU-Net Revisited", MICCAI 2024 (arXiv 2404.09556).

Stages of residual blocks: convolution, instance norm, leaky ReLU; average pooling and 1×1 convolution on the shortcut.
Departures: strides come from the shape alone, since an encoder knows no spacing; kernels are 3 on every axis;
convolutions have no bias, which the instance norm would remove; odd sizes are rounded up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, ClassVar, cast

from annotated_types import Gt, Len
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.errors import EncoderError
from medssl.core.types import Geometry, Need
from medssl.models.encoders.base import Encoder, Features, TokenPlan, centred

SMALLEST = 4  # voxels an axis keeps, as in nnU-Net's planner
SLOPE = 0.01
CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class ResencConfig(Config):
    """Size of the network; the defaults are ResEnc-L.

    ``blocks``: residual blocks of each stage; the last stages fall away where the image is too small to halve so often.
    ``width``: channels of the first stage, doubled by every stage up to ``max_width``.
    """

    blocks: Annotated[tuple[Annotated[int, Gt(0)], ...], Len(1)] = (1, 3, 4, 6, 6, 6)
    width: Annotated[int, Gt(0)] = 32
    max_width: Annotated[int, Gt(0)] = 320


class Resenc(Encoder):
    """Residual encoder of nnU-Net with a stride per axis."""

    config_class: ClassVar[type[Config]] = ResencConfig
    provides: ClassVar[frozenset[Need]] = frozenset({Need.MAPS})
    aliases: ClassVar[Mapping[str, str]] = {
        r"stem\.convs\.0\.": "stem.",
        r"\.blocks\.(\d+)\.": r".\1.",
        r"\.all_modules\.0\.": ".conv.",
        r"\.all_modules\.1\.": ".norm.",
    }

    def __init__(self, config: ResencConfig, geometry: Geometry) -> None:
        super().__init__(config, geometry)
        strides = stage_strides(geometry.shape, len(config.blocks))
        widths = [min(config.width * 2**i, config.max_width) for i in range(len(strides))]
        self.geometry, self.width = geometry, widths[-1]
        stages, num_in = [], config.width
        for blocks, width, stride in zip(config.blocks, widths, strides, strict=False):
            steps = [stride] + [(1,) * geometry.ndim] * (blocks - 1)
            stages.append(nn.Sequential(*(Block(width if i else num_in, width, s) for i, s in enumerate(steps))))
            num_in = width
        self.stem = conv_norm(geometry.channels, config.width, (1,) * geometry.ndim)
        self.stages = nn.Sequential(*stages)

    @classmethod
    def check(cls, config: Config, geometry: Geometry) -> None:
        """A last width that is no smaller than the first; an image with room for a feature map."""
        config = cast(ResencConfig, config)
        if config.max_width < config.width:
            raise EncoderError(f"encoder.max_width: {config.max_width} is below encoder.width {config.width}; raise it")
        if prod(geometry.shape) == 1:
            raise EncoderError(f"prepare.shape: {list(geometry.shape)} is a single voxel, too small for encoder resenc")

    def layers(self) -> list[nn.Module]:
        """Stem, then the stages."""
        return [self.stem, *self.stages]

    def forward(self, images: Tensor, plan: TokenPlan | None = None) -> Features:
        """Encode ``B C *S``; ``maps`` are those of the stages, the finest of the size of the image."""
        del plan  # a CNN has no tokens to drop; methods that need them are refused when the study loads
        last, maps = self.stem(centred(images)), []
        for stage in self.stages:
            last = stage(last)
            maps.append(last)
        return Features(last.mean(dim=tuple(range(2, last.ndim))), maps=tuple(maps[::-1]))


class Block(nn.Module):
    """Two convolutions beside a shortcut (ResNet-D's, He 2019); it starts as the shortcut alone."""

    def __init__(self, num_in: int, num_out: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = conv_norm(num_in, num_out, stride)
        self.conv2 = conv_norm(num_out, num_out, (1,) * len(stride), act=False)
        nn.init.zeros_(self.conv2.get_parameter("norm.weight"))
        skip: list[nn.Module] = []
        if max(stride) > 1:
            skip.append(POOL[len(stride)](stride, stride, ceil_mode=True, count_include_pad=False))
        if num_in != num_out:
            skip.append(conv_norm(num_in, num_out, (1,) * len(stride), size=1, act=False))
        self.skip = nn.Sequential(*skip)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``B C *S`` at the block's stride."""
        return self.act(self.conv2(self.conv1(x)) + self.skip(x))  # type: ignore[no-any-return]


def conv_norm(num_in: int, num_out: int, stride: tuple[int, ...], *, size: int = 3, act: bool = True) -> nn.Sequential:
    """Return convolution (He 2015), instance norm (Ulyanov 2016) and, with ``act``, leaky ReLU for any axes."""
    conv = CONV[len(stride)](num_in, num_out, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, a=SLOPE)
    norm = NORM[len(stride)](num_out, affine=True)
    named = {"conv": conv, "norm": norm, **({"act": nn.LeakyReLU(SLOPE, inplace=True)} if act else {})}
    return nn.Sequential(OrderedDict(named))


def stage_strides(shape: tuple[int, ...], most: int) -> list[tuple[int, ...]]:
    """Return the stride per axis of up to ``most`` stages.

    A stage halves every axis that is at least half as long as the longest (thin, thick-sliced axes wait) and that
    keeps `SMALLEST` voxels; there are no more stages than that.

    Example:
        >>> stage_strides((16, 64, 64), 6)
        [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)]
    """
    strides, size = [(1,) * len(shape)], list(shape)
    while len(strides) < most:
        step = tuple(2 if n // 2 >= SMALLEST and 2 * n >= max(size) else 1 for n in size)
        if max(step) == 1:
            break
        strides.append(step)
        size = [-(-n // s) for n, s in zip(size, step, strict=True)]
    return strides
