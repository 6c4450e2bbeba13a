"""Training without a pool: images from memory, a journal that remembers, a toy model and small methods."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medssl.core.batch import ParamGroup, Progress, StepOutput, Views, decay_groups
from medssl.core.keys import uniform, view_keys
from medssl.core.types import Geometry
from medssl.data.sampler import Sampler
from medssl.methods.base import METHODS
from medssl.models.build import build_encoder, seeded
from medssl.models.encoders.base import ENCODERS

CPU = torch.device("cpu")
IMAGES = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(1))


class Memory:
    """A journal that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Mapping[str, float]]] = []
        self.notes: list[str] = []
        self.artifacts: list[Path] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.seen.append((step, dict(values)))

    def artifact(self, path: Path, folder: str = "") -> None:
        self.artifacts.append(path)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass(frozen=True)
class Ready:
    """A micro-batch whose views are drawn already."""

    made: Views

    def views(self, device: torch.device) -> Views:
        return self.made.to(device)


class Images:
    """A feed of keyed batches from memory."""

    def __init__(self, batch_size: int, accumulate: int = 1, poison: int | None = None) -> None:
        self.sampler, self.poison = Sampler(len(IMAGES), batch_size, accumulate, 0), poison
        self.steps_per_epoch = self.sampler.steps_per_epoch

    def steps(self, first: int, total: int) -> Iterator[list[Ready]]:
        for step in range(first, total):
            epoch, batches = self.sampler.step(step)
            made = []
            for rows in batches:
                keys = torch.from_numpy(view_keys(0, epoch, rows, 1))
                images = IMAGES[rows] * (float("nan") if self.poison is not None and step >= self.poison else 1.0)
                made.append(Ready(Views((images,), keys, torch.from_numpy(rows))))
            yield made


class Regression(nn.Module):
    """Predicts a keyed number; the loss does not couple the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.GELU(), nn.Linear(8, 1)), "net")
        self.ended: list[int] = []

    def training_step(self, batch: Views, progress: Progress) -> StepOutput:
        error = self.net(batch.images[0])[:, 0] - uniform(batch.keys[:, 0], 1, 0)[:, 0]
        return StepOutput(error.square().mean(), {"error": error.abs().mean().detach()})

    def normaliser(self, batch: Views) -> torch.Tensor:
        return torch.tensor(float(len(batch)))

    def on_step_end(self, progress: Progress) -> None:
        self.ended.append(progress.step)

    def parameter_groups(self, weight_decay: float) -> list[ParamGroup]:
        return decay_groups({"net": (self.net, 1.0)}, weight_decay)

    def layers(self) -> list[nn.Module]:
        return [self.net]


def method(name: str, encoder: str, config: dict[str, Any], shape: tuple[int, ...] = (16, 16)) -> nn.Module:
    made = build_encoder(encoder, ENCODERS.load(encoder).config_class.parse(config), Geometry(shape), seed=0)
    plugin = METHODS.load(name)
    return seeded(lambda: plugin(plugin.config_class(), made), "method")
