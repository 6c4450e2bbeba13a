"""Is the run waiting for its data? Then say what to change."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from medssl.core.batch import Progress
from medssl.engine.monitors.base import Observation
from medssl.engine.optim import LoopConfig

MOST_WAIT = 0.1  # of the time between two reports
REPORTS = 3  # in a row: the first ones hold the start of the workers and a cold disk


@dataclass
class LoaderMonitor:
    """Say once that the run is loader-bound, with the advice that fits."""

    advice: str
    _reports: int = field(default=0, init=False)
    _told: bool = field(default=False, init=False)

    def after_step(self, model: nn.Module, progress: Progress, figures: Mapping[str, float]) -> Observation | None:
        """Look at the share of time that the loop waited for data."""
        if self._told or "data_wait" not in figures:
            return None
        self._reports = self._reports + 1 if figures["data_wait"] > MOST_WAIT else 0
        if self._reports < REPORTS:
            return None
        self._told = True
        share = f"{figures['data_wait']:.0%}"
        return Observation(alarms=(f"loader-bound: {share} of the time goes by waiting for data; {self.advice}",))


def advice(loop: LoopConfig, *, compressed: bool, cropped: bool, cores: int) -> str:
    """Return what to change where the loader is too slow, the cheapest first.

    ``compressed``: prepared volumes are decoded when they are read. ``cropped``: several crops can come from one
    block that is read. ``cores``: `usable_cores`, which the processes that torchrun started here share; srun gives each
    of its tasks cores of its own.
    """
    here = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    share = max(1, cores // here - 1)  # one is for training itself
    options = []
    if loop.workers < share:
        options.append(f"raise loop.workers from {loop.workers} to {share} (allowed with --resume)")
    if cropped and loop.crops == 1:
        options.append("set loop.crops=4, so that each block read serves four crops")
    if compressed:
        options.append("set prepare.codec=none, which reads without decoding and takes more disk")
    return ", or ".join(options) or "put the pool on a faster disk, or make prepare.shape smaller"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
