"""The loop's settings, its optimiser, and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt

from medssl.core.batch import ParamGroup
from medssl.core.config import Config


class LoopConfig(Config):
    """How training runs. ``lr`` is for 256 images an optimiser step and scales linearly with their number."""

    epochs: Annotated[int, Gt(0)] = 20
    batch_size: Annotated[int, Gt(0)] = 128
    accumulate: Annotated[int, Gt(0)] = 1
    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Gt(0)] = 1.5e-4
    weight_decay: Annotated[float, Ge(0)] = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_fraction: Annotated[float, Ge(0)] = 0.1
    clip_norm: Annotated[float, Gt(0)] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: Annotated[int, Ge(0)] = 0
    log_steps: Annotated[int, Gt(0)] = 10
    checkpoint_epochs: Annotated[int, Gt(0)] = 5

    def shaping(self) -> dict[str, Any]:
        """Return the settings that can change a result: all but those of speed and bookkeeping."""
        return {k: v for k, v in self.data().items() if k not in ("workers", "log_steps", "checkpoint_epochs")}


def build_optimiser(groups: list[ParamGroup], config: LoopConfig) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with Nesterov momentum ``betas[0]``, over ``groups``."""
    named = [{"params": g.params, "weight_decay": g.weight_decay, "lr_scale": g.lr_scale} for g in groups]
    if config.optimiser == "sgd":
        return torch.optim.SGD(named, lr=config.lr, momentum=config.betas[0], nesterov=True)
    return torch.optim.AdamW(named, lr=config.lr, betas=config.betas)


def learning_rate(step: int, total_steps: int, config: LoopConfig) -> float:
    """Return the rate at ``step``: linear warm-up, then half a cosine to zero (Loshchilov 2017)."""
    peak = config.lr * config.batch_size * config.accumulate / 256
    warmup = max(1, round(config.warmup_fraction * total_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
