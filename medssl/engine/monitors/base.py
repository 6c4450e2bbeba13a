"""What a monitor is, what it may say, and how it looks at a model without changing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from medssl.core.batch import Progress
from medssl.core.score import Score


@dataclass(frozen=True)
class Observation:
    """What a monitor saw: figures to log, alarms to say aloud, pictures it wrote below the run's folder."""

    figures: Mapping[str, float | Score] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    pictures: tuple[Path, ...] = ()


class Monitor(Protocol):
    """Something that looks at the model after some steps; with several processes each of them looks alike."""

    def after_step(self, model: nn.Module, progress: Progress, figures: Mapping[str, float]) -> Observation | None:
        """Return what was seen, or None where this step is not looked at.

        ``figures`` are the training figures' means since the last report, empty between two reports.
        """


@runtime_checkable
class Remembering(Protocol):
    """A monitor that compares what it sees with what it saw, also before the run was stopped."""

    def remembered(self) -> Mapping[str, Any]:
        """Return what goes into a checkpoint; plain types."""

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Take it up again."""


def due(progress: Progress, every: int) -> bool:
    """Return whether to look now: each ``every`` steps, and after the last one."""
    return progress.step % every == 0 or progress.step == progress.total_steps


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold ``model`` in eval mode, without gradients; every module then gets its own mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
