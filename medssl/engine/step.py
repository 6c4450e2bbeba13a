"""One optimiser step: micro-batches weighed by their normalisers, precision, clipping, schedules, many processes.

Each loss weighs by its share of the whole step's normaliser, over micro-batches and processes; then ``k × b``
accumulated equals ``1 × kb``, and two processes equal one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint as recomputed

from medssl.core.batch import Progress, StepOutput, Views
from medssl.core.collectives import summed, world_size
from medssl.core.errors import TrainingError
from medssl.engine.allocator import keep_freed_memory
from medssl.engine.distributed import spread, synchronised
from medssl.engine.optim import LoopConfig, build_optimiser, decay_factor, layered, learning_rate

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """Takes the optimiser steps of one model on one device, alone or together with other processes.

    The model is changed in place: its layers are compiled, recomputed and sharded as ``config`` asks.
    """

    def __init__(self, model: Any, config: LoopConfig, device: torch.device) -> None:
        self.model, self.config, self.device = model, config, device
        if device.type == "cpu":
            keep_freed_memory()
        if config.recompute:
            recompute(model.layers())
        if config.compile:
            compile_each(model.layers())
        self.run: nn.Module = spread(model, config, device)
        groups = layered(model.parameter_groups(config.weight_decay), model, config.layer_decay)
        self.optimiser = build_optimiser(groups, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.rate, self.overflowed = 0.0, False

    def take(self, micro: list[Views], progress: Progress) -> StepOutput | None:
        """Take one step; return its mean output, or None (nothing changed) where loss or gradient is not finite."""
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        self.optimiser.zero_grad(set_to_none=True)
        loss, figures = self._accumulate(micro, progress)
        self.scaler.unscale_(self.optimiser)
        norm = self._clip()
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)  # batch-norm statistics saw the bad batch
            self.overflowed = self.scaler.is_enabled() and bool(torch.isfinite(loss))
            if self.scaler.is_enabled():
                if not torch.isfinite(norm):
                    self.scaler.step(self.optimiser)  # skips by itself, and
                self.scaler.update()  # halves the scale
            return None
        self._schedule(progress)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return StepOutput(loss, {**figures, "gradient_norm": norm})

    def _accumulate(self, micro: list[Views], progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        weights = torch.stack([self.model.normaliser(batch).to(self.device).double() for batch in micro])
        shares = weights / summed(weights.sum())
        figures: dict[str, Tensor] = {}
        for i, (batch, share) in enumerate(zip(micro, shares, strict=True)):
            with synchronised(self.run, now=i + 1 == len(micro)):
                enabled = self.config.precision in AUTOCAST
                with torch.autocast(self.device.type, AUTOCAST.get(self.config.precision), enabled=enabled):
                    part, seen = self.run(batch, progress)
                # DDP and FSDP average over processes; shares already sum to 1 over all of them.
                self.scaler.scale(part * (share * world_size())).backward()
            for name, value in {"loss": part, **seen}.items():
                value = value.detach() * share
                figures[name] = figures[name] + value if name in figures else value
        means = dict(zip(figures, summed(torch.stack([value.double() for value in figures.values()])), strict=True))
        return means.pop("loss"), means

    def _clip(self) -> Tensor:
        """Clip the gradient and return its norm before that."""
        params = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if self.config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(params, self.config.clip_norm, norm)
        return norm

    def _schedule(self, progress: Progress) -> None:
        self.rate = learning_rate(progress.step, progress.total_steps, self.config)
        factor = decay_factor(progress.step, progress.total_steps, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * group["lr_scale"]
            group["weight_decay"] = group["decay"] * factor
            if progress.epoch < group["frozen_epochs"]:
                for parameter in group["params"]:
                    parameter.grad = None


def recompute(layers: Sequence[nn.Module]) -> None:
    """Keep no activations inside ``layers``; their forward pass runs again in the backward one (Chen 2016).

    Raises:
        TrainingError: a layer counts running statistics, which the second pass would advance again.
    """
    if any(isinstance(m, _BatchNorm) for layer in layers for m in layer.modules()):
        raise TrainingError("loop.recompute would advance batch-norm statistics twice a step; use encoder.norm=group")
    for layer in layers:
        layer.forward = partial(recomputed, layer.forward, use_reentrant=False)


def compile_each(layers: Sequence[nn.Module]) -> None:
    """Compile layer by layer: quick to start, and equal layers share their code."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 8 * len(layers))
    for layer in layers:
        layer.compile()
