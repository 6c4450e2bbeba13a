"""Rotation prediction: Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018.

All four rotations of an image stand in one batch and the loss is the mean of their cross-entropies (§3, eq. 3).
Departures against shortcuts: every copy, the upright one too, is turned by a further keyed angle below ``epsilon_deg``,
so that interpolation betrays nothing, and a circular mask hides corners and most of the frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor

from medssl.core.batch import Views
from medssl.core.config import Config, Span
from medssl.core.errors import StudyError
from medssl.core.keys import uniform
from medssl.core.types import Family, Geometry, Need
from medssl.data.views import Stream, View, ViewRecipe, warp
from medssl.methods.base import Method
from medssl.models.encoders.base import Encoder

TURNS = 4


class RotationConfig(Config):
    """Views and the guards against shortcuts."""

    epsilon_deg: Annotated[float, Ge(0), Le(20)] = 5.0
    mask_radius: Annotated[float, Gt(0), Le(1)] = 0.95
    crop_scale: Span = (0.6, 1.0)
    contrast: Annotated[float, Ge(0), Le(1)] = 0.2


class Rotation(Method[RotationConfig]):
    """Which of four quarter turns was this image given?"""

    paper: ClassVar[str] = "Gidaris et al., ICLR 2018"
    family: ClassVar[Family] = Family.PRETEXT
    needs: ClassVar[frozenset[Need]] = frozenset()
    batch_coupled: ClassVar[bool] = False
    config_class: ClassVar[type[Config]] = RotationConfig
    loop_defaults: ClassVar[Mapping[str, Any]] = {
        "optimiser": "sgd",
        "lr": 0.1,
        "weight_decay": 5e-4,
        "betas": (0.9, 0.999),
    }

    chance_loss: ClassVar[float | None] = log(TURNS)

    def __init__(self, config: RotationConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.head = torch.nn.Linear(encoder.width, TURNS)

    @classmethod
    def check(cls, config: RotationConfig, geometry: Geometry) -> None:
        """A quarter turn needs a square plane."""
        if geometry.shape[-1] != geometry.shape[-2]:
            raise StudyError(f"method rotation turns the last two axes: {list(geometry.shape)} is not square in them")

    @classmethod
    def views(cls, config: RotationConfig, geometry: Geometry) -> ViewRecipe:
        """One random crop; the four turns are made in the step, so that they share a batch."""
        return ViewRecipe((View(crop_scale=config.crop_scale, contrast=config.contrast),))

    def losses(self, batch: Views) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return each image's cross-entropy, averaged over its four turns, ``B``."""
        turned = self.turned(batch.images[0], batch.keys[:, 0])  # 4B C *S
        logits = self.head(self.encoder(turned).pooled).float()  # 4B 4
        truth = torch.arange(TURNS, device=logits.device).repeat_interleave(len(batch))
        losses = F.cross_entropy(logits, truth, reduction="none").view(TURNS, -1).mean(0)
        return losses, {"pretext_accuracy": (logits.argmax(1) == truth).float().mean()}

    def turned(self, images: Tensor, keys: Tensor) -> Tensor:
        """Return ``4B C *S``: all images unturned (but for ε), then all at 90°, 180°, 270°, masked to a disc."""
        epsilon = (uniform(keys, TURNS, Stream.ANGLE) * 2 - 1) * self.config.epsilon_deg  # B 4
        degrees = epsilon.T + torch.arange(TURNS, device=keys.device).unsqueeze(1) * 90.0  # 4 B
        theta = in_plane_rotation(torch.deg2rad(degrees.flatten()), images.ndim - 2).to(images.dtype)
        turned = warp(images.repeat(TURNS, *(1,) * (images.ndim - 1)), theta)
        return turned * disc(images.shape[-1], self.config.mask_radius, images.device).to(images.dtype)


def in_plane_rotation(angle: Tensor, ndim: int) -> Tensor:
    """Return ``B ndim ndim+1`` maps that turn the plane of the last two axes by ``angle`` (radians, ``B``)."""
    theta = torch.eye(ndim, ndim + 1, device=angle.device).repeat(len(angle), 1, 1)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin(), angle.sin()
    return theta


def disc(size: int, radius: float, device: torch.device) -> Tensor:
    """Return a ``size size`` mask: 1 inside the disc of ``radius`` (1 touches the border), 0 outside."""
    place = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    return ((place[:, None] ** 2 + place[None, :] ** 2) <= radius**2).float()
