"""Rotation prediction: Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018.

All four rotations of an image stand in one batch and the loss is the mean of their cross-entropies (§3, eq. 3). In 3D
the plane of the last two axes turns, or the whole cube: of its 24 rotations each image shows a few, drawn by its key.
Departures against shortcuts: every copy, the upright one too, is turned by a further keyed angle below ``epsilon_deg``,
so that interpolation betrays nothing; a disc (of a cube: a ball) hides corners and most of the frame; only axes of
equal size and spacing are exchanged, for else anisotropic blur betrays the turn. The rate follows the loop's cosine and
scales with the batch; the paper's fell in steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations, product
from math import log
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor

from medssl.core.batch import Progress, Views
from medssl.core.config import Config, Span
from medssl.core.errors import StudyError
from medssl.core.keys import uniform
from medssl.core.types import Family, Geometry, Need
from medssl.data.views import Stream, View, ViewRecipe, warp
from medssl.methods.base import JUDGED_AFTER, Method
from medssl.models.encoders.base import Encoder

TURNS = 4  # of a plane


class RotationConfig(Config):
    """Turns, views and the guards against shortcuts. ``copies`` of the 24 turns of a cube are shown in a step."""

    turns: Literal["plane", "cube"] = "plane"
    copies: Annotated[int, Ge(1), Le(24)] = 4
    epsilon_deg: Annotated[float, Ge(0), Le(20)] = 5.0
    mask_radius: Annotated[float, Gt(0), Le(1)] = 0.95
    crop_scale: Span = (0.6, 1.0)
    contrast: Annotated[float, Ge(0), Le(1)] = 0.2


class Rotation(Method[RotationConfig]):
    """Which turn was this image given: one of four in a plane, or of the 24 of a cube?"""

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

    def __init__(self, config: RotationConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        ndim = encoder.geometry.ndim
        self.register_buffer("turns", turns_of(config.turns, ndim), persistent=False)
        self.turns: Tensor  # T ndim ndim
        self.chance_loss: float = log(len(self.turns))
        self.head = torch.nn.Linear(encoder.width, len(self.turns))

    @classmethod
    def check(cls, config: RotationConfig, geometry: Geometry) -> None:
        """Axes that a turn exchanges have equal size and, as far as it matters, equal spacing."""
        shape, spacing = list(geometry.shape), geometry.spacing_mm
        if config.turns == "plane":
            if shape[-1] != shape[-2]:
                raise StudyError(f"method rotation turns the last two axes: {shape} is not square in them")
            if spacing is not None and spacing[-1] != spacing[-2]:
                raise StudyError(
                    f"method rotation turns the last two axes, but prepare.spacing_mm {list(spacing)} differs in them"
                )
            if not geometry.proportional:
                raise StudyError(
                    "method rotation turns the last two axes, but prepare leaves each its own scale, which betrays the "
                    "turn; take prepare.fit pad, or crop with prepare.spacing_mm"
                )
            return
        if len(shape) != 3 or len(set(shape)) > 1:
            raise StudyError(f"method.turns: cube needs a cube, but prepare.shape is {shape}; choose plane")
        if spacing is None or len(set(spacing)) > 1:
            raise StudyError(
                "method.turns: cube needs one spacing on all axes, else blur betrays the turn, but prepare makes "
                f"{'no fixed one' if spacing is None else list(spacing)}; set prepare.spacing_mm alike on all axes "
                "with prepare.fit pad or crop, or choose plane"
            )

    @classmethod
    def views(cls, config: RotationConfig, geometry: Geometry) -> ViewRecipe:
        """One random crop; its turned copies are made in the step, so that they share a batch."""
        return ViewRecipe((View(crop_scale=config.crop_scale, contrast=config.contrast),))

    def losses(self, batch: Views) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return each image's cross-entropy, averaged over its turned copies, ``B``."""
        images, keys = batch.images[0], batch.keys[:, 0]
        shown = self.shown(keys)  # B k
        at_once = torch.split(shown, self.config.copies if self.config.turns == "cube" else TURNS, dim=1)
        parts = [self.head(self.encoder(self.turned(images, keys, part)).pooled) for part in at_once]
        logits, truth = torch.cat(parts), shown.T.flatten()  # kB T, kB
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits, truth, reduction="none").view(-1, len(batch)).mean(0)
        return losses, {"pretext_accuracy": (logits.argmax(1) == truth).float().mean()}

    def shown(self, keys: Tensor) -> Tensor:
        """Return which turns each image is shown in, ``B k``: all, but while training on cubes only a keyed few."""
        num = len(self.turns)
        if self.config.turns == "plane" or not self.training:
            return torch.arange(num, device=keys.device).repeat(len(keys), 1)
        order = uniform(keys, 4 * num, Stream.ANGLE)[:, 3 * num :].argsort(dim=1, stable=True)
        return order[:, : self.config.copies]

    def turned(self, images: Tensor, keys: Tensor, shown: Tensor | None = None) -> Tensor:
        """Return ``kB C *S``: all images in their first turn of ``shown`` (``B k``), then in their second, masked."""
        shown = self.shown(keys) if shown is None else shown
        num, ndim = len(self.turns), images.ndim - 2
        axes = 3 if self.config.turns == "cube" else 1  # about which a copy is tilted
        tilt = (uniform(keys, num * axes, Stream.ANGLE) * 2 - 1) * torch.pi / 180 * self.config.epsilon_deg
        tilt = tilt.view(-1, num, axes).gather(1, shown.unsqueeze(-1).expand(-1, -1, axes))  # B k axes
        with torch.autocast(images.device.type, enabled=False):  # bf16 knows no place to half a voxel
            turn = self.turns[shown].float() @ rotation(tilt, ndim)  # B k ndim ndim
            theta = F.pad(turn.transpose(0, 1).flatten(0, 1), (0, 1)).to(images.dtype)  # kB ndim ndim+1
            copies = warp(images.repeat(shown.shape[1], *(1,) * (ndim + 1)), theta)
        round_axes = 3 if self.config.turns == "cube" else 2
        return copies * ball(images.shape[-1], round_axes, self.config.mask_radius, images.device).to(images.dtype)

    def pictured(self, batch: Views) -> Mapping[str, Tensor]:
        """Return what the task shows: the first few turned copies of each image."""
        keys = batch.keys[:, 0]
        shown = self.shown(keys)[:, :TURNS]
        copies = self.turned(batch.images[0].float(), keys, shown).chunk(shown.shape[1])
        return {f"copy {i}": copy for i, copy in enumerate(copies)}

    def alarms(self, figures: Mapping[str, float], progress: Progress) -> tuple[str, ...]:
        """Say when turns are guessed at chance halfway through, or nearly always right in the first fifth.

        A network at 98 % of the chance loss knows about one answer in fifty; by half of its training that is nothing.
        98 % right so early means that the turn is read off something simpler than anatomy, or is too easy to teach it.
        """
        if progress.step < JUDGED_AFTER or not {"loss", "pretext_accuracy"} <= figures.keys():
            return ()
        loss, accuracy, chance, done = figures["loss"], figures["pretext_accuracy"], self.chance_loss, progress.fraction
        if done >= 0.5 and loss > 0.98 * chance:
            fix = "change loop.lr or choose another method"
            return (
                f"rotation is guessed after {done:.0%} of training: loss {loss:.3f}, by chance {chance:.3f}; {fix}",
            )
        if done <= 0.2 and accuracy > 0.98:
            fix = "look for burned-in text and borders, or choose a harder method"
            return (f"rotation is too easy: {accuracy:.1%} right after {done:.0%} of training; {fix}",)
        return ()


def turns_of(kind: str, ndim: int) -> Tensor:
    """Return the matrices of a plane's 4 or a cube's 24 turns, ``T ndim ndim``; the first is the identity.

    They act on places in the order of ``warp``: last axis first.
    """
    if kind == "cube":
        signed = (torch.eye(3)[list(order)] * torch.tensor(signs) for order, signs in SIGNED_AXES)
        return torch.stack([turn for turn in signed if torch.linalg.det(turn) > 0])
    quarter = torch.eye(ndim)
    quarter[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    return torch.stack([torch.linalg.matrix_power(quarter, k) for k in range(TURNS)])


SIGNED_AXES = list(product(permutations(range(3)), product((1.0, -1.0), repeat=3)))


def rotation(tilt: Tensor, ndim: int) -> Tensor:
    """Return the rotation matrices ``… ndim ndim`` of small rotation vectors ``… axes`` (radians).

    One component turns the plane of the last two axes; three turn about all axes at once.
    """
    skew = tilt.new_zeros(*tilt.shape[:-1], ndim, ndim)
    pairs = ((0, 1), (0, 2), (1, 2))[: tilt.shape[-1]]
    for i, (a, b) in enumerate(pairs):
        skew[..., a, b], skew[..., b, a] = -tilt[..., i], tilt[..., i]
    turned: Tensor = torch.linalg.matrix_exp(skew)
    return turned


def ball(size: int, ndim: int, radius: float, device: torch.device) -> Tensor:
    """Return a mask of ``ndim`` sides of ``size``: 1 inside the ball of ``radius`` (1 touches the border), else 0."""
    place = ((torch.arange(size, device=device) + 0.5) / size * 2 - 1) ** 2
    distance = sum(place.view(-1, *(1,) * axis) for axis in range(ndim))
    return (torch.as_tensor(distance) <= radius**2).float()
