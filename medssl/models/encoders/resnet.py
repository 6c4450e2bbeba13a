"""Residual network (He 2016) from timm with the three-convolution stem of ResNet-D (He 2019), any width, 2D and 3D."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal, cast

from annotated_types import Ge
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.errors import EncoderError
from medssl.core.types import Geometry, Need
from medssl.models.encoders.base import Encoder, Features, TokenPlan, centred
from medssl.models.norms import BatchNorm

LAYERS = {10: [1, 1, 1, 1], 18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}


class ResnetConfig(Config):
    """Topology; ``stem`` is the stride before the first stage: 4 as published, 1 or 2 for images below about 128 px.

    ``stem_kernel``: 3 for three convolutions (ResNet-D), 7 for the single one of He 2016 that most public weights have.
    """

    depth: Literal[10, 18, 34, 50] = 18
    width: Annotated[int, Ge(8)] = 64
    stem: Literal[1, 2, 4] = 4
    stem_kernel: Literal[3, 7] = 3
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
        deep = config.stem_kernel == 3
        self.geometry, self.width = geometry, 8 * config.width * block.expansion
        self.net = ResNet(
            block,
            LAYERS[config.depth],
            num_classes=0,
            in_chans=geometry.channels,
            stem_type="deep" if deep else "",
            stem_width=config.width // 2,
            channels=tuple(config.width * 2**i for i in range(4)),
            norm_layer=BatchNorm if config.norm == "batch" else partial(GroupNorm, num_groups=4),
            global_pool="",
        )
        if config.stem < 4:
            self.net.maxpool = nn.Identity()
        if config.stem == 1:
            (self.net.conv1[0] if deep else self.net.conv1).stride = (1, 1)
        if geometry.ndim == 3:
            make_3d(self.net)

    @classmethod
    def check(cls, config: Config, geometry: Geometry) -> None:
        """A width that group norm can split."""
        config = cast(ResnetConfig, config)
        if config.width % 8:
            raise EncoderError(f"encoder.width: {config.width} is not a multiple of 8")

    def layers(self) -> list[nn.Module]:
        """Stem, then the stages."""
        return [self.net.conv1, self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4]

    def forward(self, images: Tensor, plan: TokenPlan | None = None) -> Features:
        """Encode ``B C *S``; ``maps`` are those of the stages, and of the stem where that is finer still."""
        del plan  # a CNN has no tokens to drop; methods that need them are refused when the study loads
        stem = self.net.act1(self.net.bn1(self.net.conv1(centred(images))))
        maps = [self.net.maxpool(stem)]
        for stage in self.layers()[1:]:
            maps.append(stage(maps[-1]))
        finest = [stem] if stem.shape != maps[0].shape else []
        return Features(maps[-1].mean(dim=tuple(range(2, maps[-1].ndim))), maps=(*maps[:0:-1], *finest))


def make_3d(net: nn.Module) -> None:
    """Replace each 2D convolution and pooling inside ``net`` by its 3D form, initialised as timm does (He 2015)."""
    for name, child in net.named_children():
        if isinstance(child, nn.Conv2d):
            size, stride, padding = child.kernel_size[0], child.stride[0], int(child.padding[0])
            made = nn.Conv3d(child.in_channels, child.out_channels, size, stride, padding, bias=False)
            nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
            setattr(net, name, made)
        elif isinstance(child, nn.MaxPool2d):
            setattr(net, name, nn.MaxPool3d(child.kernel_size, child.stride, child.padding))
        else:
            make_3d(child)
