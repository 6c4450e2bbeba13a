"""Residual network (He 2016) from timm with the three-convolution stem of ResNet-D (He 2019), of any width."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal, cast

from annotated_types import Ge
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.errors import EncoderError
from medssl.core.types import Geometry, Need
from medssl.models.encoders.base import Encoder, Features, TokenPlan, centred

LAYERS = {10: [1, 1, 1, 1], 18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}


class ResnetConfig(Config):
    """Topology; ``stem`` is the stride before the first stage: 4 as published, 1 or 2 for images below about 128 px."""

    depth: Literal[10, 18, 34, 50] = 18
    width: Annotated[int, Ge(8)] = 64
    stem: Literal[1, 2, 4] = 4
    norm: Literal["batch", "group"] = "batch"


class Resnet(Encoder):
    """ResNet-10/18/34/50 with a scalable width."""

    config_class: ClassVar[type[Config]] = ResnetConfig
    provides: ClassVar[frozenset[Need]] = frozenset({Need.MAPS})

    def __init__(self, config: ResnetConfig, geometry: Geometry) -> None:
        super().__init__(config, geometry)
        from timm.layers import GroupNorm
        from timm.models.resnet import BasicBlock, Bottleneck, ResNet

        block = Bottleneck if config.depth == 50 else BasicBlock
        norm = nn.BatchNorm2d if config.norm == "batch" else partial(GroupNorm, num_groups=4)
        self.geometry, self.width = geometry, 8 * config.width * block.expansion
        self.net = ResNet(
            block,
            LAYERS[config.depth],
            num_classes=0,
            in_chans=geometry.channels,
            stem_type="deep",
            stem_width=config.width // 2,
            channels=tuple(config.width * 2**i for i in range(4)),
            norm_layer=norm,
            global_pool="",
        )
        if config.stem < 4:
            self.net.maxpool = nn.Identity()
        if config.stem == 1:
            self.net.conv1[0].stride = (1, 1)

    @classmethod
    def check(cls, config: Config, geometry: Geometry) -> None:
        """Two spatial axes; a width that group norm can split."""
        config = cast(ResnetConfig, config)
        if geometry.ndim != 2:
            raise EncoderError(f"encoder resnet is 2D, but prepare.shape has {geometry.ndim} axes")
        if config.width % 8:
            raise EncoderError(f"encoder.width: {config.width} is not a multiple of 8")

    def layers(self) -> list[nn.Module]:
        """Stem, then the stages."""
        return [self.net.conv1, self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4]

    def forward(self, images: Tensor, plan: TokenPlan | None = None) -> Features:
        """Encode ``B C Y X``; ``maps`` are the last stage's features."""
        del plan  # a CNN has no tokens to drop; methods that need them are refused when the study loads
        last = self.net.forward_features(centred(images))  # B D y x
        return Features(last.mean(dim=tuple(range(2, last.ndim))), maps=(last,))
