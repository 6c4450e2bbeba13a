"""What a stretch of training amounted to: mean figures, images a second, the share of time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from medssl.core.batch import Loaded, StepOutput, Views


class Meter:
    """Averages figures between two reports; they stay on their device until then."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = self._images = 0
        self._waited, self._since = 0.0, time.perf_counter()
        self._last: dict[str, float] = {}

    def fetch(self, batches: Iterator[list[Loaded]], device: torch.device) -> list[Views]:
        """Take the next micro-batches, timing the wait, and draw their views."""
        start = time.perf_counter()
        loaded = next(batches)
        self._waited += time.perf_counter() - start
        return [batch.views(device) for batch in loaded]

    def add(self, output: StepOutput, images: int) -> None:
        """Count one step."""
        for name, value in {"loss": output.loss, **output.metrics}.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps, self._images = self._steps + 1, self._images + images

    def flush(self) -> dict[str, float]:
        """Return the means since the last flush, images a second and the fraction of time spent waiting for data."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        self._last = {name: float(value) / max(self._steps, 1) for name, value in self._sums.items()}
        self._last |= {"images_per_second": self._images / seconds, "data_wait": self._waited / seconds}
        self._sums, self._steps, self._images = {}, 0, 0
        self._waited, self._since = 0.0, time.perf_counter()
        return dict(self._last)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that the block takes: monitors and checkpoints are no training."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def text(self) -> str:
        """Return the last means as one short line."""
        shown = {"loss": "{:.3f}", "images_per_second": "{:.0f} img/s", "data_wait": "wait {:.0%}"}  # 80 columns
        return " · ".join(form.format(self._last[name]) for name, form in shown.items() if name in self._last)
