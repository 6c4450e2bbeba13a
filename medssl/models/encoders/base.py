"""One face for every encoder: images in; a pooled feature, tokens and maps out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.plugins import Plugins
from medssl.core.types import Geometry, Need

ENCODERS = Plugins("medssl.models.encoders", "Encoder")
CENTRE, GAIN = 0.5, 4.0  # of `centred`


@dataclass(frozen=True)
class TokenPlan:
    """What a method asks of the token sequence.

    ``keep``: ``B K`` int64 indices, every other token is dropped before the first block (MAE).
    ``replace``: ``B L`` bool, True where the mask token stands in (SimMIM, iBOT). ``causal``: raster-order attention.
    """

    keep: Tensor | None = None
    replace: Tensor | None = None
    causal: bool = False


@dataclass(frozen=True)
class Features:
    """``pooled`` ``B D``; ``tokens`` ``B L D`` without the class token; ``maps`` coarse to fine, ``B C *S`` each."""

    pooled: Tensor
    tokens: Tensor | None = None
    maps: tuple[Tensor, ...] = ()


class Encoder(nn.Module, ABC):
    """What pretraining leaves. ``width`` is D, ``provides`` says what a method may ask for.

    ``dims``: the numbers of spatial axes it is made for. ``aliases``: how public weights name its parameters: regular
    expressions and their replacements, applied in order.
    """

    config_class: ClassVar[type[Config]]
    provides: ClassVar[frozenset[Need]]
    dims: ClassVar[frozenset[int]] = frozenset({2, 3})
    aliases: ClassVar[Mapping[str, str]] = {}
    geometry: Geometry
    width: int

    @abstractmethod
    def __init__(self, config: Config, geometry: Geometry) -> None:
        super().__init__()

    @classmethod
    @abstractmethod
    def check(cls, config: Config, geometry: Geometry) -> None:
        """Raise EncoderError where this encoder cannot see ``geometry``; called when the study loads."""

    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """Return the layers, shallow to deep; each is called as a module, and together they hold most parameters."""

    @abstractmethod
    def forward(self, images: Tensor, plan: TokenPlan | None = None) -> Features:
        """Encode ``B C *S`` images; a size other than ``geometry.shape`` works where the patches tile it."""


def centred(images: Tensor) -> Tensor:
    """Shift images from [0, 1] to about mean 0 and deviation 1, the scale that initial weights and positions expect."""
    return (images - CENTRE) * GAIN


class TokenEncoder(Encoder):
    """An encoder over non-overlapping patches; ``patch`` and ``grid`` are per spatial axis."""

    patch: tuple[int, ...]
    grid: tuple[int, ...]
