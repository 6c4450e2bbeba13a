"""From prepared volumes to batches of views; workers hold numpy arrays only and change nothing in the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medssl.core.batch import Views
from medssl.core.keys import view_keys
from medssl.core.types import Geometry, Role
from medssl.data.sampler import Sampler
from medssl.data.views import ViewRecipe, make_views
from medssl.pool.catalog import Catalog
from medssl.pool.shards import VolumeReader


@dataclass(frozen=True)
class Prepared:
    """Prepared volumes of a pool: ``C *S`` float16 each, rows in the order of ``catalog``, shards in ``shards``."""

    shards: Path
    catalog: Catalog
    geometry: Geometry

    def __len__(self) -> int:
        return len(self.catalog)

    def role(self, *roles: Role) -> Prepared:
        """Keep the volumes of patients with these roles."""
        return self.of(self.catalog.role(*roles))

    def of(self, catalog: Catalog) -> Prepared:
        """Keep the volumes of ``catalog``."""
        return replace(self, catalog=catalog)

    @cached_property
    def keys(self) -> NDArray[np.int64]:
        """The stable identity of each row, ``N``."""
        return self.catalog.keys()

    @cached_property
    def reader(self) -> VolumeReader:
        """A picklable reader of these rows."""
        return VolumeReader(self.shards, self.catalog.volumes)

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """Return ``B C *S`` float32."""
        return torch.from_numpy(stack(self.reader, rows)).float()


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

    def steps(self, first: int, total: int) -> Iterator[list[Views]]:
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
        waiting: list[Views] = []
        for index, (images, keys, rows, step) in enumerate(loader):
            waiting.append(self._views(images, keys, rows))
            if index + 1 == len(plan) or plan[index + 1][0] != step:
                yield waiting
                waiting = []

    def _views(self, images: Any, keys: Any, rows: Any) -> Views:
        rows = torch.as_tensor(rows)
        targets = None if self.targets is None else torch.from_numpy(self.targets)[rows]
        return make_views(torch.as_tensor(images).float(), torch.as_tensor(keys), rows, self.recipe, targets)
