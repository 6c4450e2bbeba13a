"""From prepared volumes to batches of views; workers hold numpy arrays only and change nothing in the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medssl.core.batch import Loaded, Views
from medssl.core.keys import view_keys
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.data.views import ViewRecipe, make_views
from medssl.pool.shards import VolumeReader


def stack(reader: VolumeReader, rows: NDArray[np.int64]) -> NDArray[np.float16]:
    """Read ``B C *S``."""
    return np.stack([reader.read(int(row)) for row in rows])


@dataclass(frozen=True)
class Batches(Dataset[tuple[NDArray[np.float16], NDArray[np.int64], NDArray[np.int64], int]]):
    """Micro-batch number ``i`` of a run, as arrays: images, keys, rows, step."""

    reader: VolumeReader
    keys: NDArray[np.int64]
    plan: Sequence[tuple[int, int, NDArray[np.int64]]]
    num_views: int
    seed: int

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float16], NDArray[np.int64], NDArray[np.int64], int]:
        step, epoch, rows = self.plan[index]
        return stack(self.reader, rows), view_keys(self.seed, epoch, self.keys[rows], self.num_views), rows, step


@dataclass(frozen=True)
class TrainingFeed:
    """Batches of keyed views for the engine; ``targets`` ``N`` class indices or None."""

    data: Prepared
    recipe: ViewRecipe
    sampler: Sampler
    workers: int = 0
    targets: NDArray[np.int64] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""
        return self.sampler.steps_per_epoch

    def steps(self, first: int, total: int) -> Iterator[list[Loaded]]:
        """Yield the micro-batches of each optimiser step."""
        plan = list(self.sampler.micro_batches(first, total))
        source = Batches(self.data.reader, self.data.keys, plan, len(self.recipe.views), self.sampler.seed)
        context = "forkserver" if self.workers else None
        loader = DataLoader(
            source,
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context=context,
            generator=torch.Generator(),
        )
        waiting: list[Loaded] = []
        for index, (images, keys, rows, step) in enumerate(loader):
            waiting.append(self._loaded(images, keys, rows))
            if index + 1 == len(plan) or plan[index + 1][0] != step:
                yield waiting
                waiting = []

    def _loaded(self, images: Any, keys: Any, rows: Any) -> Block:
        rows = torch.as_tensor(rows)
        targets = None if self.targets is None else torch.from_numpy(self.targets)[rows]
        return Block(torch.as_tensor(images), torch.as_tensor(keys), rows, self.recipe, targets)


@dataclass(frozen=True)
class Block:
    """A micro-batch as read: ``images`` ``B C *S`` in storage type, ``keys`` ``B V``, ``volume`` ``B``."""

    images: Tensor
    keys: Tensor
    volume: Tensor
    recipe: ViewRecipe
    targets: Tensor | None = None

    def views(self, device: torch.device) -> Views:
        """Move the voxels to ``device``, in storage type, and draw the views there."""
        images = self.images.to(device, non_blocking=True).float()
        targets = None if self.targets is None else self.targets.to(device)
        return make_views(images, self.keys.to(device), self.volume.to(device), self.recipe, targets)
