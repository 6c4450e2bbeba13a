"""The loop's settings, its optimiser, and the schedules of learning rate and weight decay."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator

from medssl.core.batch import ParamGroup
from medssl.core.config import Config, Fraction

BOOKKEEPING = frozenset(
    {
        "workers",
        "log_steps",
        "checkpoint_epochs",
        "checkpoint_minutes",
        "keep_checkpoints",
        "compile",
        "recompute",
        "distribution",
    }
)


class LoopConfig(Config):
    """How training runs.

    ``batch_size`` counts the images of a micro-batch over all processes together, so that a result does not depend on
    their number. ``lr`` is for ``lr_batch`` images an optimiser step and scales with their number, linearly or as the
    square root (``lr_rule``). ``weight_decay`` moves to ``weight_decay_end`` over the run by half a cosine.
    ``layer_decay`` multiplies the rate once a layer, from the deepest down to the stem. ``recompute`` trades a third
    more computation for the memory of activations (Chen 2016).
    ``crops``: taken from each block that is read. ``balance``: makes its groups equally frequent. ``rollbacks``: how
    often steps that stay non-finite put the weights of the last checkpoint back before training gives up.
    ``checkpoint_minutes``: the longest time between two checkpoints, whatever an epoch takes; not with ``rollbacks``,
    which must not lead where a clock says.
    """

    epochs: Annotated[int, Gt(0)] = 20
    batch_size: Annotated[int, Gt(0)] = 128
    accumulate: Annotated[int, Gt(0)] = 1
    crops: Annotated[int, Gt(0)] = 1
    balance: Literal["modality", "site", "patient"] | None = None
    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Gt(0)] = 1.5e-4
    lr_rule: Literal["linear", "sqrt"] = "linear"
    lr_batch: Annotated[int, Gt(0)] = 256
    lr_end: Fraction = 0.0  # of the peak
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: Fraction = 0.1
    weight_decay: Annotated[float, Ge(0)] = 0.05
    weight_decay_end: Annotated[float, Ge(0)] | None = None
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.999)
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    clip_norm: Annotated[float, Gt(0)] | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    recompute: bool = False
    distribution: Literal["ddp", "fsdp"] = "ddp"
    workers: Annotated[int, Ge(0)] = 0
    log_steps: Annotated[int, Gt(0)] = 10
    checkpoint_epochs: Annotated[int, Gt(0)] = 5
    checkpoint_minutes: Annotated[float, Gt(0)] | None = 30
    keep_checkpoints: Annotated[int, Gt(0)] = 2
    rollbacks: Annotated[int, Ge(0)] = 0

    @property
    def images_a_step(self) -> int:
        """Images an optimiser step, over micro-batches and processes."""
        return self.batch_size * self.accumulate

    def shaping(self) -> dict[str, Any]:
        """Return the settings that can change a result: all but those of speed and bookkeeping."""
        kept = {"checkpoint_epochs"} if self.rollbacks else set()  # where a rollback leads
        return {k: v for k, v in self.data().items() if k in kept or k not in BOOKKEEPING}

    @model_validator(mode="after")
    def _expect_decay(self) -> Self:
        if self.weight_decay_end and not self.weight_decay:
            raise ValueError("weight_decay_end moves a weight_decay that is 0; expected one above 0, or no end")
        if self.optimiser == "sgd" and not self.betas[0]:
            raise ValueError("sgd takes betas[0] as Nesterov's momentum; expected it above 0")
        return self


def build_optimiser(groups: list[ParamGroup], config: LoopConfig) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with Nesterov momentum ``betas[0]``, over ``groups``; many parameters a kernel.

    Fused SGD cannot be sharded (torch has no rule for it), so SGD goes over lists of tensors.
    """
    named = [
        {
            "params": g.params,
            "weight_decay": g.weight_decay,
            "decay": g.weight_decay,  # before its schedule
            "lr_scale": g.lr_scale,
            "frozen_epochs": g.frozen_epochs,
        }
        for g in groups
    ]
    if config.optimiser == "sgd":
        return torch.optim.SGD(named, lr=config.lr, momentum=config.betas[0], nesterov=True, foreach=True)
    return torch.optim.AdamW(named, lr=config.lr, betas=config.betas, fused=True)


def layered(groups: list[ParamGroup], model: Any, decay: float) -> list[ParamGroup]:
    """Split ``groups`` by depth: of ``model.layers()``, ``n`` of them, layer ``i`` learns at ``decay ** (n - i)``.

    A parameter between two layers, such as a batch norm's, or before them all, such as positions and class token, is
    as deep as the one before it, or the first; what comes after the last layer learns at the full rate. Source: BEiT,
    Bao 2022 (arXiv 2106.08254), appendix; as MAE fine-tunes.
    """
    if decay == 1:
        return groups
    layers = model.layers()
    depth = {id(p): i for i, layer in enumerate(layers) for p in layer.parameters()}
    ordered, current = list(getattr(model, "encoder", model).parameters()), 0
    last = max((place for place, p in enumerate(ordered) if id(p) in depth), default=-1)
    for parameter in ordered[:last]:
        current = depth.setdefault(id(parameter), current)
    split: dict[tuple[str, int], ParamGroup] = {}
    for group in groups:
        for parameter in group.params:
            i = depth.get(id(parameter), len(layers))
            scale = group.lr_scale * decay ** (len(layers) - i)
            key = group.name, i
            made = ParamGroup(f"{group.name}.{i}", [], group.weight_decay, scale, group.frozen_epochs)
            split.setdefault(key, made).params.append(parameter)
    return list(split.values())


def peak_rate(config: LoopConfig) -> float:
    """Return the highest learning rate, scaled to the images an optimiser step."""
    ratio = config.images_a_step / config.lr_batch
    return config.lr * (ratio if config.lr_rule == "linear" else math.sqrt(ratio))


def learning_rate(step: int, total_steps: int, config: LoopConfig) -> float:
    """Return the rate at ``step``: linear warm-up, then half a cosine (Loshchilov 2017) or a constant."""
    peak = peak_rate(config)
    warmup = max(1, round(config.warmup_fraction * total_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.schedule == "constant":
        return peak
    return half_cosine(peak, config.lr_end * peak, (step - warmup) / max(1, total_steps - warmup))


def decay_factor(step: int, total_steps: int, config: LoopConfig) -> float:
    """Return what to multiply a group's weight decay by at ``step`` (DINO moves it from .04 to .4)."""
    if config.weight_decay_end is None or not config.weight_decay:
        return 1.0
    return half_cosine(config.weight_decay, config.weight_decay_end, step / max(1, total_steps)) / config.weight_decay


def half_cosine(start: float, end: float, fraction: float) -> float:
    """Return the value at ``fraction`` in [0, 1] of the way from ``start`` to ``end`` along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * fraction))
