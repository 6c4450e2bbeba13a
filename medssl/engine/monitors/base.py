"""What a monitor is, and what it may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import nn

from medssl.core.batch import Progress


@dataclass(frozen=True)
class Observation:
    """What a monitor saw: figures to log, alarms to say aloud, pictures it wrote below the run's folder."""

    figures: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    pictures: tuple[Path, ...] = ()


class Monitor(Protocol):
    """Something that looks at the model after some steps; with several processes each of them looks alike."""

    def after_step(self, model: nn.Module, progress: Progress, figures: Mapping[str, float]) -> Observation | None:
        """Return what was seen, or None where this step is not looked at.

        ``figures`` are the training figures' means since the last report, empty between two reports.
        """
