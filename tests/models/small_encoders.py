"""A small form of every encoder, found by file: an encoder without one fails the contract test."""

from typing import Any

from medssl.core.types import Geometry
from medssl.models.build import build_encoder
from medssl.models.encoders.base import ENCODERS

SMALL: dict[str, dict[str, Any]] = {
    "vit": {"width": 24, "depth": 2, "heads": 2, "patch": 4},
    "resnet": {"depth": 10, "width": 8, "stem": 2},
    "resenc": {"width": 8, "max_width": 16, "blocks": (1, 2, 1)},
    "swin": {"width": 12, "heads": 2, "depths": (2, 1), "window": 3},
}


def small(name: str, shape: tuple[int, ...] = (16, 24), channels: int = 1, seed: int = 0, **changes: Any) -> Any:
    """Return a small encoder that its own check has passed, in eval mode."""
    config = ENCODERS.load(name).config_class.parse({**SMALL.get(name, {}), **changes})
    ENCODERS.load(name).check(config, Geometry(shape, channels))
    return build_encoder(name, config, Geometry(shape, channels), seed=seed).eval()
