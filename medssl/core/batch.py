"""What travels between loader, engine and methods: views in, loss out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, export, nn


@dataclass(frozen=True)
class Views:
    """One batch: ``images`` holds one ``B C *S`` tensor a view.

    ``keys`` (``B V`` int64) are the only source of randomness; ``volume`` (``B`` int64) are catalog rows;
    ``targets`` (``B`` int64 class indices) exist in supervised use only; ``patient`` (``B`` int64 hashes) says whose
    images these are: one patient's are never each other's negatives.
    """

    images: tuple[Tensor, ...]
    keys: Tensor
    volume: Tensor
    targets: Tensor | None = None
    patient: Tensor | None = None

    def __len__(self) -> int:
        return len(self.volume)

    def to(self, device: torch.device) -> Views:
        """Move every tensor to ``device``."""
        return replace(
            self,
            images=tuple(i.to(device, non_blocking=True) for i in self.images),
            keys=self.keys.to(device),
            volume=self.volume.to(device),
            targets=None if self.targets is None else self.targets.to(device),
            patient=None if self.patient is None else self.patient.to(device),
        )


class Loaded(Protocol):
    """A micro-batch as it came from storage; its views are drawn where the model is, not in a loader process."""

    def views(self, device: torch.device) -> Views:
        """Move the voxels to ``device`` and draw the views there."""


@dataclass(frozen=True)
class Progress:
    """Where training stands, in optimiser steps."""

    step: int
    total_steps: int
    epoch: int = 0

    @property
    def fraction(self) -> float:
        """The share of training that is done, in [0, 1]."""
        return self.step / max(self.total_steps, 1)


@dataclass(frozen=True)
class StepOutput:
    """A mean loss over ``normaliser(batch)`` items, and detached figures to log."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


export.register_dataclass(StepOutput)  # FSDP looks for tensors in what a step returns


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a weight decay and a multiple of the learning rate; still for ``frozen_epochs``."""

    name: str
    params: list[nn.Parameter]
    weight_decay: float
    lr_scale: float = 1.0
    frozen_epochs: int = 0


@runtime_checkable
class Trainable(Protocol):
    """What the engine can train: a self-supervised method or a fine-tune."""

    def training_step(self, batch: Views, progress: Progress) -> StepOutput:
        """Return the mean loss of one micro-batch."""

    def normaliser(self, batch: Views) -> Tensor:
        """Return what the loss is averaged over, so that accumulated micro-batches equal one batch."""

    def on_step_end(self, progress: Progress) -> None:
        """Advance EMA, queue, centre: once an optimiser step that was taken."""

    def parameter_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Return the parameters to optimise."""

    def layers(self) -> list[nn.Module]:
        """Return the encoder's layers, shallow to deep: for layer-wise decay, sharding, checkpointing, compilation."""


def decay_groups(modules: Mapping[str, tuple[nn.Module, float]], weight_decay: float) -> list[ParamGroup]:
    """Split named modules, each with its lr scale, into decayed weights and undecayed biases and norms."""
    groups = []
    for name, (module, lr_scale) in modules.items():
        params = [p for p in module.parameters() if p.requires_grad]
        weights, rest = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
        if weights:
            groups.append(ParamGroup(f"{name}.weights", weights, weight_decay, lr_scale))
        if rest:
            groups.append(ParamGroup(f"{name}.rest", rest, 0.0, lr_scale))
    return groups
