"""DINO: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021 (arXiv 2104.14294).

The student sees all crops, the teacher the two global ones; the student learns to foretell the teacher's sharpened
(eq. 1) and centred (eq. 4) assignment of every other crop to K prototypes (eq. 2, 3). The teacher is the student's
moving average (§3.1). Departures: the centre moves once an optimiser step, by all its micro-batches; the teacher's
temperature warms up by step, not by epoch; grey-scale views without flip or solarisation, global crops of at least
half the image; prototypes and momentum by rule for pools smaller than ImageNet; ``loop.clip_norm`` is of the gradient
as a whole, not of each parameter's; a ViT is read by the mean of its tokens (``encoder.pool: cls`` for the paper's
class token) and has fixed sin-cos positions. No batch norm in the head, as for ViTs.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from math import log, log2
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from medssl.core.batch import ParamGroup, Progress, StepOutput, Views, decay_groups
from medssl.core.collectives import summed
from medssl.core.config import Config, Fraction, Span
from medssl.core.errors import StudyError
from medssl.core.types import Family, Geometry, Need
from medssl.data.views import View, ViewRecipe
from medssl.methods.base import JUDGED_AFTER, Method, enough_epochs
from medssl.models.encoders.base import Encoder, TokenEncoder
from medssl.models.projection import PrototypeHead
from medssl.models.teacher import Teacher, cosine_momentum
from medssl.objectives.distillation import cross_entropy, multi_crop, sharpened

GLOBALS = 2
MOMENTUM = 0.996  # of the teacher at first, for 1024 images a step


class DinoConfig(Config):
    """Head, teacher and crops; what is None follows by rule from the pool, the batch and the image shape.

    ``teacher_temperature`` moves from the first to the second value over the share ``temperature_warmup`` of training.
    ``blur`` is the largest standard deviation as a share of the image's longest side; ``gibbs`` and ``bias``, for MR,
    are those of a `View`.
    """

    prototypes: Annotated[int, Gt(1)] | None = None
    hidden: Annotated[int, Gt(0)] = 2048
    bottleneck: Annotated[int, Gt(0)] = 256
    student_temperature: Annotated[float, Gt(0)] = 0.1
    teacher_temperature: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (0.04, 0.07)
    temperature_warmup: Fraction = 0.3
    centre_momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    teacher_momentum: Annotated[float, Ge(0), Lt(1)] | None = None
    frozen_epochs: Annotated[int, Ge(0)] = 1
    local_crops: Annotated[int, Ge(0)] = 6
    local_shape: tuple[Annotated[int, Gt(0)], ...] | None = None
    global_scale: Span = (0.5, 1.0)
    local_scale: Span = (0.05, 0.5)
    flip: Fraction = 0.0
    contrast: Fraction = 0.3
    brightness: Fraction = 0.15
    gamma: Fraction = 0.3
    noise: Fraction = 0.02
    blur: Fraction = 0.01
    gibbs: Fraction = 0.0
    bias: Fraction = 0.0


class Dino(Method[DinoConfig]):
    """Foretell, from any crop, what a slow teacher says about another crop."""

    paper: ClassVar[str] = "Caron et al., ICCV 2021"
    family: ClassVar[Family] = Family.DISTILLATION
    needs: ClassVar[frozenset[Need]] = frozenset()
    batch_coupled: ClassVar[bool] = False  # given the centre, which is of earlier steps
    config_class: ClassVar[type[Config]] = DinoConfig
    loop_defaults: ClassVar[Mapping[str, Any]] = {
        "optimiser": "adamw",
        "lr": 5e-4,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "clip_norm": 3.0,
    }

    def __init__(self, config: DinoConfig, encoder: Encoder) -> None:
        shape = config.local_shape or local_shape(encoder.geometry, patch_of(encoder))
        if config.local_crops:
            check_crop(shape, encoder)
        super().__init__(config.model_copy(update={"local_shape": shape}), encoder)
        num = config.prototypes or num_prototypes(0)
        self.momentum = MOMENTUM if config.teacher_momentum is None else config.teacher_momentum
        self.head = PrototypeHead(encoder.width, config.hidden, config.bottleneck, num)
        self.teacher = Teacher({"encoder": encoder, "head": self.head})
        for name, value in (("centre", torch.zeros(num)), ("logit_sum", torch.zeros(num)), ("seen", torch.zeros(1))):
            self.register_buffer(name, value)
        self.centre: Tensor
        self.logit_sum: Tensor  # of the micro-batches since the last optimiser step
        self.seen: Tensor  # how many logits those were

    @classmethod
    def fitted(cls, config: DinoConfig, num_images: int, images_a_step: int, crops: int = 1) -> DinoConfig:
        """Fill in the number of prototypes and the teacher's momentum by rule."""
        ruled = {
            "prototypes": num_prototypes(num_images),
            "teacher_momentum": teacher_momentum(num_images * crops, images_a_step),
        }
        return config.model_copy(update={k: v for k, v in ruled.items() if getattr(config, k) is None})

    @classmethod
    def epochs(cls, num_images: int, images_a_step: int, crops: int = 1) -> int | None:
        """Return the paper's 100 epochs (§3.2), more on a small pool."""
        return enough_epochs(num_images, images_a_step, crops, epochs=100)

    @classmethod
    def check(cls, config: DinoConfig, geometry: Geometry) -> None:
        """Local crops have the image's axes and are no larger than it."""
        local = config.local_shape
        if local and (len(local) != geometry.ndim or any(a > b for a, b in zip(local, geometry.shape, strict=True))):
            raise StudyError(
                f"method.local_shape: {list(local)} does not fit into prepare.shape {list(geometry.shape)}"
            )

    @classmethod
    def views(cls, config: DinoConfig, geometry: Geometry) -> ViewRecipe:
        """Two global crops, of which the second is seldom blurred, then the local ones, as BYOL's (§3.2).

        The shape of local crops depends on the encoder's patch: take the views of a method's own ``config``.
        """
        local = config.local_shape or local_shape(geometry)
        same = ("flip", "contrast", "brightness", "gamma", "noise", "gibbs", "bias")
        shared: dict[str, Any] = {name: getattr(config, name) for name in same}
        shared |= {"crop_ratio": 4 / 3, "blur": config.blur * max(geometry.shape)}

        def crop(scale: tuple[float, float], chance: float, size: tuple[int, ...] | None = None) -> View:
            return View(size=size, crop_scale=scale, blur_chance=chance, **shared)

        whole = crop(config.global_scale, 1.0), crop(config.global_scale, 0.1)
        return ViewRecipe((*whole, *(crop(config.local_scale, 0.5, local) for _ in range(config.local_crops))))

    def training_step(self, batch: Views, progress: Progress) -> StepOutput:
        """Return the mean multi-crop loss, and remember the teacher's logits for the centre."""
        with torch.no_grad():
            told = self.teacher["head"](self.teacher["encoder"](torch.cat(batch.images[:GLOBALS])).pooled)  # GB K
            targets, entropy = sharpened(told, self.centre, self.temperature(progress))
            self.logit_sum += told.to(self.logit_sum.dtype).sum(0)
            self.seen += len(told)
        logits = self.head(self.encoded(batch.images))  # VB K
        shape = (-1, len(batch), logits.shape[-1])
        loss = multi_crop(logits.view(shape), targets.view(shape), self.config.student_temperature).mean()
        figures = {
            "teacher_entropy": entropy.mean(),
            "kl": loss.detach() - entropy.mean(),
            "prototypes_used": torch.special.entr(targets.mean(0)).sum().exp(),
            "centre_norm": self.centre.norm(),
        }
        return StepOutput(loss, figures)

    def losses(self, batch: Views) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return each whole image's cross-entropy of teacher and student, ``B``, which is what a pool is ranked by."""
        told = self.teacher["head"](self.teacher["encoder"](batch.images[0]).pooled)
        targets, _ = sharpened(told, self.centre, self.config.teacher_temperature[1])
        logits = self.head(self.encoder(batch.images[0]).pooled)
        return cross_entropy(logits, targets, self.config.student_temperature), {}

    def encoded(self, crops: tuple[Tensor, ...]) -> Tensor:
        """Return the student's features of all crops, ``VB D``, by one forward a size."""
        packs = crops[:GLOBALS], tuple(self.tiled(crop) for crop in crops[GLOBALS:])
        return torch.cat([self.encoder(torch.cat(pack)).pooled for pack in packs if pack])

    def tiled(self, images: Tensor) -> Tensor:
        """Cut away what the encoder's patches do not tile."""
        for axis, patch in enumerate(patch_of(self.encoder), start=2):
            images = images.narrow(axis, 0, images.shape[axis] // patch * patch)
        return images

    def temperature(self, progress: Progress) -> float:
        """Return the teacher's temperature: linear from the first value to the second, then constant."""
        start, end = self.config.teacher_temperature
        return start + (end - start) * min(1.0, progress.fraction / max(self.config.temperature_warmup, 1e-9))

    @torch.no_grad()
    def on_step_end(self, progress: Progress) -> None:
        """Move the centre (eq. 4) and the teacher, once an optimiser step."""
        total = summed(torch.cat([self.logit_sum, self.seen]))
        self.centre.lerp_(total[:-1] / total[-1], 1 - self.config.centre_momentum)
        self.logit_sum.zero_()
        self.seen.zero_()
        students = {"encoder": self.encoder, "head": self.head}
        self.teacher.follow(students, cosine_momentum(self.momentum, progress))

    def parameter_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Return the student's parameters; the prototypes stand still at first."""
        groups = decay_groups({"encoder": (self.encoder, 1.0), "head": (self.head.mlp, 1.0)}, weight_decay)
        frozen = self.config.frozen_epochs
        return [*groups, ParamGroup("prototypes", [self.head.prototypes], weight_decay, frozen_epochs=frozen)]

    def alarms(self, figures: Mapping[str, float], progress: Progress) -> tuple[str, ...]:
        """Say when the teacher collapses, from a tenth of training and 20 steps on (before, all images look alike).

        Uniform: its entropy is within 2 % of ln K and the student foretells that to 1 % of ln K, so the loss stands at
        ln K; a teacher that is still uniform but tells images apart keeps a student at another temperature well above.
        One prototype: all images of a batch use fewer than 1.5, with entropy and loss below 5 % of ln K. In the first
        fifth a KL below 2 % of ln K to a teacher that is sure (entropy below 80 %): any crop tells what any other does.
        """
        if progress.step < 20 or progress.fraction < 0.1 or "teacher_entropy" not in figures:
            return ()
        most, entropy, kl = log(len(self.centre)), figures["teacher_entropy"], figures["kl"]
        if entropy > 0.98 * most and kl < 0.01 * most:
            return (
                f"the teacher has collapsed to uniform: entropy {entropy:.3f} of ln K {most:.3f}, KL {kl:.4f}; "
                "lower loop.lr or method.teacher_temperature",
            )
        if figures["prototypes_used"] < 1.5 and entropy + kl < 0.05 * most:
            return (
                f"the teacher has collapsed to one prototype: entropy {entropy:.3f} of ln K {most:.3f}, loss "
                f"{entropy + kl:.3f}; lower loop.lr or method.centre_momentum, or raise method.teacher_temperature",
            )
        if progress.step >= JUDGED_AFTER and progress.fraction <= 0.2 and entropy < 0.8 * most and kl < 0.02 * most:
            return (
                f"the task is too easy: the student foretells the teacher (KL {kl:.4f}, entropy {entropy:.3f} of ln K "
                f"{most:.3f}) after {progress.fraction:.0%} of training; let crops be smaller or more varied",
            )
        return ()

    def pictured(self, batch: Views) -> Mapping[str, Tensor]:
        """Return the crops."""
        return {f"crop {i + 1}": crop for i, crop in enumerate(batch.images)}

    def export(self) -> Encoder:
        """Return the teacher's encoder, which is the better one throughout training (§5.1, figure 6)."""
        encoder: Any = self.teacher["encoder"]
        return encoder  # type: ignore[no-any-return]


def num_prototypes(num_images: int) -> int:
    """Return K by rule: a power of two of about a twelfth of the images, 1024 at least and the paper's 65536 at most.

    That is 1024 to 8192 below 100,000 images, and the paper's number for ImageNet.
    """
    return int(2 ** min(16, max(10, int(log2(max(num_images, 1) / 12)))))


def teacher_momentum(num_images: int, images_a_step: int) -> float:
    """Return where the teacher's momentum starts, by rule, for ``num_images`` an epoch, of which a step has no more.

    Through .996 for 1024 images a step (the paper) and .9995 for 256 (its repository's advice), but never so slow that
    the teacher averages over more than ten epochs of a small pool, nor quicker than the paper's.
    """
    images_a_step = min(images_a_step, num_images)
    by_batch: float = (1 - MOMENTUM) * (images_a_step / 1024) ** 1.5
    return 1 - min(1 - MOMENTUM, max(by_batch, images_a_step / (10 * num_images)))


def local_shape(geometry: Geometry, patch: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Return the shape of local crops by rule: about 3/7 of each side (the paper's 96 of 224).

    Sides are multiples of the largest power of two up to 16 that divides the image's side and is no more than a third
    of it, so that common patches tile them: 96 of 224, 48 of 96, 32 of 64, 12 of 28. A side has two patches at least,
    but fewer than the image where that has several: 28 of 56 in patches of 28.
    """

    def side(size: int, patch: int) -> int:
        unit = max(u for u in (1, 2, 4, 8, 16) if size % u == 0 and (u == 1 or u <= size / 3))
        least = patch * max(1, min(2, size // patch - 1))
        return min(size, max(unit, least, round(size * 3 / 7 / unit) * unit))

    return tuple(side(*each) for each in zip(geometry.shape, patch or (1,) * geometry.ndim, strict=True))


def patch_of(encoder: Encoder) -> tuple[int, ...]:
    """Return the sides of the patches that images are cut into; of one voxel for an encoder without tokens."""
    return encoder.patch if isinstance(encoder, TokenEncoder) else (1,) * encoder.geometry.ndim


def check_crop(shape: tuple[int, ...], encoder: Encoder) -> None:
    """Refuse local crops that ``encoder`` cannot be trained on, told from a forward without data.

    Raises:
        StudyError: a side is smaller than a patch, or an instance norm would see one voxel.
    """
    patch, geometry = patch_of(encoder), encoder.geometry
    if any(size < side for size, side in zip(shape, patch, strict=True)):
        raise StudyError(
            f"method.local_shape: {list(shape)} is smaller than encoder.patch {list(patch)}; take that or a multiple"
        )
    if isinstance(encoder, TokenEncoder):
        return
    try:
        deepcopy(encoder).to("meta").train()(torch.empty(2, geometry.channels, *shape, device="meta"))
    except ValueError:  # torch's, of a norm over a single value
        raise StudyError(
            f"method.local_shape: {list(shape)} leaves one voxel in the encoder's deepest map; take more, such as "
            f"{list(local_shape(geometry))}"
        ) from None
