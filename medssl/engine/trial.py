"""What training will take, measured by a few of its real steps: memory, seconds, the share spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.batch import Progress
from medssl.core.errors import TrainingError
from medssl.engine.loop import Feed, reproducible
from medssl.engine.optim import LoopConfig
from medssl.engine.step import Stepper

MOST_STEPS = 21


@dataclass(frozen=True)
class Memory:
    """Bytes on the device: ``model`` with a teacher's weights, ``activations`` kept by one micro-batch's forward pass.

    ``peak`` is what the device itself says (None on a CPU, whose libraries do not tell).
    """

    model: int
    gradients: int
    optimiser: int
    activations: int
    peak: int | None

    @property
    def total(self) -> int:
        """The sum of the parts, or the peak where it is known."""
        return self.peak or self.model + self.gradients + self.optimiser + self.activations


@dataclass(frozen=True)
class Trial:
    """What a few steps took; ``data_wait`` is the share of a step spent waiting for data."""

    parameters: int
    memory: Memory
    step_seconds: float
    data_wait: float
    steps: int


def trial(model: nn.Module, feed: Feed, config: LoopConfig, device: torch.device, *, seconds: float = 8) -> Trial:
    """Train ``model`` for a few steps: one to warm up and to measure memory by, then as many as fit into ``seconds``.

    Raises:
        TrainingError: the device's memory is too small.
    """
    model.to(device).train()
    stepper, total = Stepper(model, config, device), max(feed.steps_per_epoch * config.epochs, MOST_STEPS)
    waits, whole = list[float](), list[float]()
    batches = feed.steps(0, MOST_STEPS)
    try:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with _saved(model) as saved:
            _step(stepper, batches, Progress(0, total), device)
        until = time.perf_counter() + seconds
        while len(whole) < 2 or (time.perf_counter() < until and len(whole) < MOST_STEPS - 1):
            waited, took = _step(stepper, batches, Progress(len(whole) + 1, total), device)
            waits.append(waited)
            whole.append(took)
    except torch.OutOfMemoryError:
        raise TrainingError(
            f"a step of loop.batch_size {config.batch_size} does not fit into the memory of {device}: lower it and "
            "raise loop.accumulate, or set loop.recompute=true"
        ) from None
    weights = [p for p in model.parameters() if p.requires_grad]
    memory = Memory(
        model=sum(_size(t) for t in (*model.parameters(), *model.buffers())),
        gradients=sum(_size(p) for p in weights),
        optimiser=sum(_size(t) for state in stepper.optimiser.state.values() for t in state.values()),
        activations=saved.num_bytes,
        peak=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )
    num = sum(p.numel() for p in weights)
    return Trial(num, memory, median(whole), sum(waits) / sum(whole), len(whole))


def _step(stepper: Stepper, batches: Iterator[Any], progress: Progress, device: torch.device) -> tuple[float, float]:
    """Take a step; return the seconds spent waiting for data, and all of them."""
    start = time.perf_counter()
    loaded = next(batches)
    waited = time.perf_counter() - start
    with reproducible(device):
        stepper.take([batch.views(device) for batch in loaded], progress)
    stepper.model.on_step_end(progress)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return waited, time.perf_counter() - start


@dataclass
class _Saved:
    """Counts what autograd keeps: each storage once, parameters not; the most of any micro-batch."""

    known: set[int]
    alive: dict[int, int] = field(default_factory=dict)
    num_bytes: int = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.alive[storage.data_ptr()] = storage.nbytes()
            self.num_bytes = max(self.num_bytes, sum(self.alive.values()))
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        self.alive.pop(tensor.untyped_storage().data_ptr(), None)  # its pass backward has come
        return tensor


@contextmanager
def _saved(model: nn.Module) -> Iterator[_Saved]:
    counted = _Saved({t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())})
    with torch.autograd.graph.saved_tensors_hooks(counted.pack, counted.unpack):
        yield counted


def _size(tensor: Any) -> int:
    return tensor.numel() * tensor.element_size() if isinstance(tensor, Tensor) else 0
