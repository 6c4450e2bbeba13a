"""MoCo v3: Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021 (2104.02057).

Queries of two crops find each other's keys, made by a momentum encoder, among the keys of the whole batch (eq. 1,
symmetrised and times 2τ: §3 and algorithm 1). A ViT's patch embedding stays random and frozen (§4.2). Departures: keys
of the same patient are no negatives; grey-scale views without flip or solarisation; the head is the paper's for ViTs
(projector of 3 layers, predictor of 2, batch norm in both) whatever the encoder, and half as wide on small pools; both
crops pass the batch norms together; crops are at least .4 of the image instead of .08; a ViT is read by the mean of its
tokens unless ``encoder.pool`` is cls.

What couples the batch: keys are gathered over processes, without gradient, and batch norm takes its statistics over all
of them. Contrast is within a micro-batch: accumulating enlarges the step, not the number of negatives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from medssl.core.batch import ParamGroup, Progress, Views, decay_groups
from medssl.core.collectives import gathered, rank
from medssl.core.config import Config, Fraction, Span
from medssl.core.types import Family, Geometry, Need
from medssl.data.views import View, ViewRecipe
from medssl.methods.base import JUDGED_AFTER, Method, enough_epochs
from medssl.models.encoders.base import Encoder, TokenEncoder
from medssl.models.projection import normed_mlp
from medssl.models.teacher import Teacher, cosine_momentum
from medssl.objectives.contrastive import cosine_similarity, info_nce

LARGE_BATCH = 1024  # beyond it gains fade (figure 1 here: instability; SimCLR: §5.1) while false negatives grow


class MocoV3Config(Config):
    """Heads, momentum and views.

    ``hidden`` None: 4096 as in the paper, 2048 on pools below 100,000 images. ``blur`` is the largest standard
    deviation as a share of the image's longest side; ``gibbs`` and ``bias``, for MR, are those of a `View`.
    """

    hidden: Annotated[int, Gt(0)] | None = None
    output: Annotated[int, Gt(0)] = 256
    temperature: Annotated[float, Gt(0)] = 0.2
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.99
    freeze_patches: bool = True
    crop_scale: Span = (0.4, 1.0)
    flip: Fraction = 0.0
    contrast: Fraction = 0.4
    brightness: Fraction = 0.2
    gamma: Fraction = 0.4
    noise: Fraction = 0.02
    blur: Fraction = 0.01
    gibbs: Fraction = 0.0
    bias: Fraction = 0.0


class MocoV3(Method[MocoV3Config]):
    """Find the other crop of the same image among the crops of other patients."""

    paper: ClassVar[str] = "Chen et al., ICCV 2021"
    family: ClassVar[Family] = Family.CONTRASTIVE
    needs: ClassVar[frozenset[Need]] = frozenset()
    batch_coupled: ClassVar[bool] = True
    config_class: ClassVar[type[Config]] = MocoV3Config
    loop_defaults: ClassVar[Mapping[str, Any]] = {
        "optimiser": "adamw",
        "lr": 1.5e-4,
        "weight_decay": 0.1,
        "warmup_fraction": 0.13,  # 40 of 300 epochs
    }

    def __init__(self, config: MocoV3Config, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        hidden = config.hidden or hidden_width(0)
        if config.freeze_patches and isinstance(encoder, TokenEncoder):
            encoder.layers()[0].requires_grad_(False)
        self.projector = normed_mlp((encoder.width, hidden, hidden, config.output))
        self.predictor = normed_mlp((config.output, hidden, config.output))
        self.teacher = Teacher({"encoder": encoder, "projector": self.projector})

    @classmethod
    def fitted(cls, config: MocoV3Config, num_images: int, images_a_step: int, crops: int = 1) -> MocoV3Config:
        """Fill in the heads' width by rule."""
        return config if config.hidden else config.model_copy(update={"hidden": hidden_width(num_images)})

    @classmethod
    def epochs(cls, num_images: int, images_a_step: int, crops: int = 1) -> int | None:
        """Return the paper's 300 epochs (§5), more on a small pool."""
        return enough_epochs(num_images, images_a_step, crops, epochs=300)

    @classmethod
    def views(cls, config: MocoV3Config, geometry: Geometry) -> ViewRecipe:
        """Two crops, of which the second is seldom blurred (appendix A)."""
        blur = config.blur * max(geometry.shape)
        same = ("flip", "contrast", "brightness", "gamma", "noise", "gibbs", "bias")
        shared: dict[str, Any] = {name: getattr(config, name) for name in same}
        crops = (
            View(crop_scale=config.crop_scale, crop_ratio=4 / 3, blur=blur, blur_chance=chance, **shared)
            for chance in (1.0, 0.1)
        )
        return ViewRecipe(tuple(crops))

    def losses(self, batch: Views) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return each image's loss, ``B``: symmetrised contrast of two crops, or how far one is from being foretold.

        A whole image alone, as a pool is scored by, has no negatives: there it is ``2 - 2 cos(query, key)``, so that no
        other image changes it.
        """
        num_crops = len(batch.images)
        queries = self.predictor(self.projector(self.encoder(torch.cat(batch.images)).pooled)).chunk(num_crops)
        with torch.no_grad():
            told = self.teacher["projector"](self.teacher["encoder"](torch.cat(batch.images)).pooled).chunk(num_crops)
        if num_crops == 1:
            return 2 - 2 * torch.cosine_similarity(queries[0], told[0]), {}
        return self.contrasted(queries, told, batch.patient)

    def contrasted(
        self, queries: Sequence[Tensor], keys: Sequence[Tensor], patient: Tensor | None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the symmetrised loss ``B`` over all processes' keys; how many negatives there were, how hard."""
        num, tau = len(queries[0]), self.config.temperature
        own = torch.arange(num, device=queries[0].device) + rank() * num  # where this process's rows stand
        owner = own if patient is None else patient
        negative = gathered(owner) != owner.unsqueeze(1)  # B N
        similar = [cosine_similarity(q, gathered(k)) for q, k in zip(queries, reversed(keys), strict=True)]
        losses = 2 * tau * torch.stack([info_nce(s, own, negative, tau) for s in similar]).sum(0)
        hardest = similar[0].detach().masked_fill(~negative, -1.0).amax(1)
        figures = {
            "negatives": negative.sum(1).float().mean(),
            "without_negatives": (~negative.any(1)).float().mean(),
            "hardest_negative": hardest.mean(),
            "pretext_accuracy": (similar[0].detach().gather(1, own.unsqueeze(1))[:, 0] > hardest).float().mean(),
        }
        return losses, figures

    def alarms(self, figures: Mapping[str, float], progress: Progress) -> tuple[str, ...]:
        """Say when there are too many negatives or none, when contrast is at chance halfway, or too easy early.

        Chance is the loss where the positive is as near as every negative. From half of training and 100 steps on, more
        than 95 % of it means that crops of one image are no nearer than those of two: nothing learned, or collapsed.
        Above 98 % right in the first fifth, something other than anatomy tells the images apart.
        """
        said, negatives = [], figures.get("negatives", 0.0)
        if negatives > LARGE_BATCH:
            said.append(
                f"{negatives:.0f} negatives an image: beyond {LARGE_BATCH} many are false; lower loop.batch_size"
            )
        if (without := figures.get("without_negatives", 0.0)) > 0:
            said.append(
                f"{without:.1%} of the images had no negative: raise loop.batch_size, so that it spans patients"
            )
        chance = 4 * self.config.temperature * log(1 + negatives)
        if progress.step >= 100 and progress.fraction >= 0.5 and chance and figures["loss"] > 0.95 * chance:
            said.append(
                f"contrast is at chance: loss {figures['loss']:.3f} of {chance:.3f}, crops of one image are no nearer "
                "than those of two; lower loop.lr, or raise it if it was low"
            )
        right = figures.get("pretext_accuracy", 0.0)
        if progress.step >= JUDGED_AFTER and progress.fraction <= 0.2 and right > 0.98:
            said.append(
                f"contrast is too easy: {right:.1%} right after {progress.fraction:.0%} of training; look for "
                "burned-in text and borders, let crops be smaller (method.crop_scale), or raise loop.batch_size"
            )
        return tuple(said)

    def pictured(self, batch: Views) -> Mapping[str, Tensor]:
        """Return the crops."""
        return {f"crop {i + 1}": crop for i, crop in enumerate(batch.images)}

    def on_step_end(self, progress: Progress) -> None:
        """Move the momentum encoder, once an optimiser step."""
        students = {"encoder": self.encoder, "projector": self.projector}
        self.teacher.follow(students, cosine_momentum(self.config.momentum, progress))

    def parameter_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Return the parameters of the queries' side."""
        parts = {"encoder": self.encoder, "projector": self.projector, "predictor": self.predictor}
        return decay_groups({name: (part, 1.0) for name, part in parts.items()}, weight_decay)


def hidden_width(num_images: int) -> int:
    """Return the heads' width by rule: the paper's 4096 from 100,000 images on, else 2048."""
    return 4096 if num_images >= 100_000 else 2048
