"""Is the representation collapsing, and what is it worth? Watched on fixed images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medssl.core.batch import Progress
from medssl.core.score import Score
from medssl.engine.monitors.base import Observation, due, evaluating
from medssl.models.encoders.base import Encoder

VOXELS_AT_ONCE = 2**22  # 83 images of 224 × 224, 4 volumes of 96³
RISING = 1.05  # times the look before


@dataclass
class RepresentationMonitor:
    """Measure the features of fixed images every ``every`` steps and after the last one, and watch for collapse.

    ``measure`` turns features ``N D`` into named figures. A figure is an alarm at the second look in a row that finds
    it below its floor, no higher than ``start`` says of the untrained encoder, and not on the rise: masked autoencoders
    begin with features that are nearly alike, and dip before they spread. A collapse stays, so it is told at most one
    look later. It is told once, and again after a recovery.
    """

    encoder: Encoder
    images: Tensor  # N C *S, of any float type
    measure: Callable[[NDArray[np.float32]], Mapping[str, float | Score]]
    floors: Mapping[str, float]
    every: int
    start: Mapping[str, float | Score] = field(default_factory=dict)
    _low: dict[str, float] = field(default_factory=dict, init=False)
    _told: set[str] = field(default_factory=set, init=False)

    def after_step(self, model: nn.Module, progress: Progress, figures: Mapping[str, float]) -> Observation | None:
        """Return the figures, and the alarms among them."""
        if not due(progress, self.every):
            return None
        features = pooled(self.encoder, self.images)
        if not np.isfinite(features).all():
            return Observation(alarms=self._once("features", "the features are no longer finite"))
        seen = self.measure(features)
        judged = [self._judge(name, _plain(seen[name]), floor) for name, floor in self.floors.items()]
        alarms = [alarm for each in judged for alarm in each]
        return Observation(seen, tuple(alarms))

    def remembered(self) -> dict[str, Any]:
        """Return what the next look is compared with; a run that is stopped after every look is not to forget it."""
        return {"low": dict(self._low), "told": sorted(self._told)}

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Take up what ``remembered`` returned before the run was stopped."""
        self._low, self._told = dict(remembered.get("low", {})), {*remembered.get("told", ())}

    def _judge(self, name: str, value: float, floor: float) -> tuple[str, ...]:
        start, before = _plain(self.start.get(name, np.inf)), self._low.pop(name, None)
        if value >= floor:
            self._told.discard(name)
            return ()
        self._low[name] = value
        if before is None or value > start or value > RISING * before:
            return ()
        came = f", {start:.3g} before training" if np.isfinite(start) else ""
        text = f"the representation is collapsing: {name} {value:.3g} is below {floor:.3g}{came}; lower loop.lr"
        return self._once(name, text)

    def _once(self, name: str, text: str) -> tuple[str, ...]:
        known = name in self._told
        self._told.add(name)
        return () if known else (text,)


def pooled(encoder: Encoder, images: Tensor, batch_size: int = 64) -> NDArray[np.float32]:
    """Return ``N D`` pooled fp32 features in eval mode, at most ``batch_size`` images and 2²² voxels at once."""
    device = next(encoder.parameters()).device
    size = max(1, min(batch_size, VOXELS_AT_ONCE // images[0].numel()))
    with evaluating(encoder):
        parts = [encoder(images[i : i + size].to(device).float()).pooled.float() for i in range(0, len(images), size)]
    return torch.cat(parts).cpu().numpy()


def _plain(value: float | Score) -> float:
    return value.value if isinstance(value, Score) else value
