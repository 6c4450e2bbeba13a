"""Is the representation collapsing? Watched on fixed images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medssl.core.batch import Progress
from medssl.engine.monitors.base import Observation
from medssl.models.encoders.base import Encoder


@dataclass(frozen=True)
class RepresentationMonitor:
    """Watch for collapse on fixed images: ``measure`` turns features ``N D`` into named figures.

    ``floors`` names the value below which a figure is an alarm.
    """

    encoder: Encoder
    images: Tensor  # N C *S
    measure: Callable[[NDArray[np.float32]], Mapping[str, float]]
    floors: Mapping[str, float]
    every: int

    def after_step(self, model: nn.Module, progress: Progress, figures: Mapping[str, float]) -> Observation | None:
        """Measure every ``every`` steps and after the last one."""
        if progress.step % self.every and progress.step != progress.total_steps:
            return None
        seen = self.measure(pooled(self.encoder, self.images))
        low = [(n, seen[n], floor) for n, floor in self.floors.items() if seen[n] < floor]
        alarms = (f"the representation is collapsing: {n} {v:.3g} is below {f:.3g}" for n, v, f in low)
        return Observation(seen, tuple(alarms))


@torch.no_grad()
def pooled(encoder: Encoder, images: Tensor, batch_size: int = 64) -> NDArray[np.float32]:
    """Return ``N D`` pooled features in eval mode; the encoder's mode is left as it was."""
    was_training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    try:
        parts = [
            encoder(images[i : i + batch_size].to(device)).pooled.float().cpu()
            for i in range(0, len(images), batch_size)
        ]
    finally:
        encoder.train(was_training)
    return torch.cat(parts).numpy()
