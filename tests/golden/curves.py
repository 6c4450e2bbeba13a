"""Twenty CPU steps of every method on fixed images with structure, in 2D and 3D, through the training loop.

A golden curve says when a change changes results. Curves are made anew only on purpose:

    python tests/golden/update.py
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from memory_feed import CPU, Memory, Ready
from small_methods import SHAPES, small_method
from torch import Tensor

from medssl.core.keys import uniform, view_keys
from medssl.data.sampler import Sampler
from medssl.data.views import ViewRecipe, make_views
from medssl.engine.loop import Session, train
from medssl.engine.monitors.method import MethodMonitor
from medssl.engine.monitors.representation import RepresentationMonitor
from medssl.engine.optim import LoopConfig
from medssl.evaluation.gate import GateRule
from medssl.evaluation.representation import feature_std, rankme
from medssl.methods.base import METHODS

FOLDER = Path(__file__).parent
CASES = [(name, ndim) for name in METHODS.names() for ndim in SHAPES]
IMAGES, BATCH = 24, 6  # 4 steps an epoch
STEPS = 20
LR = {"moco_v3": 1.5e-3}  # the paper's is for 300 epochs; everything else takes its paper's, as if for this batch size


def bodies(num: int, shape: tuple[int, ...]) -> Tensor:
    """Return ``num 1 *S`` images in [0, 1]: a slanted background, an ellipsoid of keyed place, size and brightness."""
    ndim = len(shape)
    draws = uniform(torch.arange(num), 3 * ndim + 1, 99)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    images = []
    for draw in draws:
        place, size, slant, bright = draw[:ndim] - 0.5, 0.2 + 0.5 * draw[ndim : 2 * ndim], draw[2 * ndim : -1], draw[-1]
        distance = sum(((axis - p) / s) ** 2 for axis, p, s in zip(axes, place, size, strict=True))
        background = sum((s - 0.5) * axis for axis, s in zip(axes, slant, strict=True))
        images.append(0.3 + 0.3 * background + (0.2 + 0.4 * bright) * torch.exp(-(distance**2)))
    return torch.stack(images).unsqueeze(1).clamp(0, 1)


@dataclass(frozen=True)
class Feed:
    """Keyed views of images in memory."""

    images: Tensor
    recipe: ViewRecipe
    sampler: Sampler

    @property
    def steps_per_epoch(self) -> int:
        return self.sampler.steps_per_epoch

    def steps(self, first: int, total: int) -> Iterator[list[Any]]:
        for step in range(first, total):
            epoch, batches = self.sampler.step(step)
            made = []
            for rows in batches:
                keys = torch.from_numpy(view_keys(0, epoch, rows, len(self.recipe.views)))
                volume = torch.from_numpy(rows)
                made.append(Ready(make_views(self.images[rows], keys, volume, self.recipe, patient=volume)))
            yield made


def run(
    name: str,
    ndim: int,
    folder: Path,
    *,
    steps: int = STEPS,
    lr_times: float = 1.0,
    log_steps: int = 1,
    clip_norm: float | None = None,
    **settings: Any,
) -> tuple[list[float], Memory]:
    """Train ``steps`` steps and return the losses and a journal, which holds all alarms as notes.

    The method looks at every report, the collapse monitor at the end of every epoch.
    """
    method, images = small_method(name, ndim, **settings), bodies(IMAGES, SHAPES[ndim])
    defaults = dict(METHODS.load(name).loop_defaults)
    loop = LoopConfig.parse(
        {
            **defaults,
            "lr": LR.get(name, defaults["lr"]) * lr_times,
            "lr_batch": BATCH,
            "batch_size": BATCH,
            "epochs": math.ceil(steps * BATCH / IMAGES),
            "log_steps": log_steps,
            **({} if clip_norm is None else {"clip_norm": clip_norm}),
        }
    )
    feed = Feed(images, type(method).views(method.config, method.encoder.geometry), Sampler(IMAGES, BATCH, 1, 0))
    rule = GateRule()
    floors = {"feature_std": rule.min_feature_std, "rankme": rule.min_rankme}
    monitors = [
        MethodMonitor(method),
        RepresentationMonitor(method.encoder, images, measured, floors, feed.steps_per_epoch),
    ]
    journal = Memory()
    train(method, feed, loop, Session(folder, journal, monitors=monitors), CPU)
    return [values["loss"] for _, values in journal.seen if "loss" in values], journal


def measured(features: Any) -> dict[str, float]:
    """Return what the collapse monitor looks at."""
    return {"feature_std": feature_std(features), "rankme": rankme(features)}


def golden(name: str, ndim: int) -> Path:
    """Return where a method's curve is kept."""
    return FOLDER / f"{name}-{ndim}d.json"


def read(name: str, ndim: int) -> list[float]:
    """Return the golden losses."""
    losses: list[float] = json.loads(golden(name, ndim).read_text())["losses"]
    return losses
