"""What every self-supervised method is: mathematics over views and an encoder; the engine owns the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from medssl.core.batch import ParamGroup, Progress, StepOutput, Views, decay_groups
from medssl.core.config import Config
from medssl.core.errors import EncoderError
from medssl.core.plugins import Plugins
from medssl.core.types import Family, Geometry, Need
from medssl.data.views import ViewRecipe
from medssl.models.encoders.base import ENCODERS, Encoder

METHODS = Plugins("medssl.methods", "Method")
SCORING_BATCH = 32  # fixed, so that a caller's batch size cannot change a score
JUDGED_AFTER = 200  # optimiser steps; before them no task is called too hard or too easy

C = TypeVar("C", bound=Config)


class Method(nn.Module, ABC, Generic[C]):
    """One self-supervised objective around an encoder.

    ``loop_defaults`` are the paper's optimiser settings; a study's ``loop`` overrides them key by key.
    """

    paper: ClassVar[str]
    family: ClassVar[Family]
    needs: ClassVar[frozenset[Need]]
    batch_coupled: ClassVar[bool]
    config_class: ClassVar[type[Config]]
    loop_defaults: ClassVar[Mapping[str, Any]]
    chance_loss: float | None = None  # of a model that knows nothing, where the task has such a level

    def __init__(self, config: C, encoder: Encoder) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder

    @classmethod
    @abstractmethod
    def views(cls, config: C, geometry: Geometry) -> ViewRecipe:
        """Return the random views that training asks for."""

    @classmethod
    def scoring_views(cls, config: C, geometry: Geometry) -> ViewRecipe:
        """Return the deterministic view that `pretext_losses` is measured on: the whole image."""
        return ViewRecipe()

    @classmethod
    def fitted(cls, config: C, num_images: int, images_a_step: int, crops: int = 1) -> C:
        """Return ``config`` with what it leaves open settled by rule, from the pool's size and the optimiser step's.

        ``crops`` are taken from each image of the pool an epoch, and count as images of a step.
        """
        return config

    @classmethod
    def epochs(cls, num_images: int, images_a_step: int, crops: int = 1) -> int | None:
        """Return how long this method wants to train, by rule; None where it has no rule."""
        return None

    @classmethod
    def check(cls, config: C, geometry: Geometry) -> None:
        """Raise StudyError where this method cannot work on ``geometry``; called when the study loads."""

    @abstractmethod
    def losses(self, batch: Views) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of each image ``B``, fp32, and mean figures to log."""

    def training_step(self, batch: Views, progress: Progress) -> StepOutput:
        """Return the mean loss over the images of a micro-batch."""
        losses, figures = self.losses(batch)
        return StepOutput(losses.mean(), {name: value.detach() for name, value in figures.items()})

    def normaliser(self, batch: Views) -> Tensor:
        """Return the number of images; right wherever each image's loss has the same weight."""
        return torch.tensor(float(len(batch)))

    def on_step_end(self, progress: Progress) -> None:
        """Nothing to advance unless the method keeps a teacher, a queue or a centre."""

    def parameter_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Return all trainable parameters; biases and norms are not decayed."""
        return decay_groups({"method": (self, 1.0)}, weight_decay)

    @torch.no_grad()
    def pretext_losses(self, batch: Views) -> Tensor:
        """Return one fp32 loss an image, ``B``: eval mode, fixed internal micro-batch; what PT4AL ranks by."""
        was_training, device_type = self.training, batch.keys.device.type
        self.eval()
        try:
            with torch.autocast(device_type, enabled=False):
                parts = [
                    self.losses(Views(tuple(i[s].float() for i in batch.images), batch.keys[s], batch.volume[s]))[0]
                    for s in (slice(i, i + SCORING_BATCH) for i in range(0, len(batch), SCORING_BATCH))
                ]
        finally:
            self.train(was_training)
        return torch.cat(parts)

    def layers(self) -> list[nn.Module]:
        """Return the encoder's layers, shallow to deep."""
        return self.encoder.layers()

    def alarms(self, figures: Mapping[str, float], progress: Progress) -> tuple[str, ...]:
        """Say what the mean figures since the last report betray: collapse, a task too easy or never learned."""
        return ()

    def pictured(self, batch: Views) -> Mapping[str, Tensor]:
        """Return what a person may look at, by name, ``B C *S`` in [0, 1] each: the task, what came of it."""
        return {}

    def export(self) -> Encoder:
        """Return the encoder to keep; the teacher where the paper says so."""
        return self.encoder


def enough_epochs(num_images: int, images_a_step: int, crops: int = 1, *, epochs: int, steps: int = 5000) -> int:
    """Return the paper's ``epochs``, or more where a small pool would not make ``steps`` optimiser steps of them.

    An epoch is whole steps, and one step where the pool does not fill it, as `Sampler` cuts it. It goes through the
    pool ``crops`` times, so that fewer epochs are as long as the paper's.
    """
    steps_per_epoch = max(1, num_images * crops // images_a_step)
    return max(-(-epochs // crops), -(-steps // steps_per_epoch))


def check_needs(method: str, encoder: str) -> None:
    """Refuse an encoder that lacks what the method needs.

    Raises:
        EncoderError: names the needs and the encoders that have them.
    """
    needs: frozenset[Need] = METHODS.load(method).needs
    lacking = needs - ENCODERS.load(encoder).provides
    if lacking:
        able = [name for name in ENCODERS.names() if needs <= ENCODERS.load(name).provides]
        raise EncoderError(
            f"method {method} needs {', '.join(sorted(lacking))}, which encoder {encoder} lacks; "
            f"choose encoder.name: {' or '.join(able)}"
        )
