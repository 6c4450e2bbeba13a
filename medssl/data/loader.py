"""From prepared volumes to batches of views: what is read stays in storage type until it is where the model is.

Everything drawn depends on keys alone, so neither workers nor processes change a result.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import blosc2
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, multiprocessing
from torch.utils.data import DataLoader

from medssl.core.batch import Loaded, Views
from medssl.core.errors import MedsslError, StudyError, TrainingError
from medssl.core.keys import hash_words
from medssl.core.processes import end_with_parent
from medssl.data.covers import covered
from medssl.data.crops import Stored, cut
from medssl.data.prepared import Prepared
from medssl.data.reading import Read, Reading
from medssl.data.sampler import Sampler
from medssl.data.views import ViewRecipe, make_views, only_cut

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TrainingFeed:
    """Batches of keyed views for the engine; ``targets`` ``N`` class indices or None.

    ``share``: this process's number and how many there are; each micro-batch's reads are cut among them in order.

    Raises:
        StudyError: a micro-batch has fewer reads than there are processes.
    """

    data: Prepared
    recipe: ViewRecipe
    sampler: Sampler
    workers: int = 0
    targets: NDArray[np.int64] | None = None
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        fewest, world = self.sampler.fewest_reads, self.share[1]
        if fewest < world:
            raise StudyError(
                f"loop.batch_size: a micro-batch of {fewest} reads ({len(self.data)} volumes, loop.crops "
                f"{self.sampler.crops}) cannot be shared by {world} processes; start {fewest} or fewer"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""
        return self.sampler.steps_per_epoch

    def steps(self, first: int, total: int) -> Iterator[list[Loaded]]:
        """Yield the micro-batches of each optimiser step.

        Raises:
            CorruptShard: a stored volume differs from its checksum.
            TrainingError: a worker process died.
        """
        num = self.sampler.micro_batches
        waiting: list[Loaded] = []
        for read in self._reads(range(first * num, total * num)):
            block = self._block(read)  # what lies in files is read as it is drawn, which is then time spent on reading
            waiting.append(Drawn(block.views(CPU)) if isinstance(read.blocks, Stored) else block)
            if len(waiting) == num:
                yield waiting
                waiting = []

    def _reads(self, indices: range) -> Iterator[Read]:
        found = iter(self._loader(indices))
        for _ in indices:
            try:
                read = next(found)
            except (RuntimeError, ConnectionError, EOFError) as error:
                if isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error):
                    raise
                read = TrainingError(
                    "a loader process was killed, mostly because memory or /dev/shm ran out: lower loop.workers "
                    f"({self.workers}) or loop.batch_size, and go on from the last checkpoint"
                )
            if isinstance(read, MedsslError):
                del found  # ends the workers now, whoever holds on to the error
                raise read
            yield read

    def _loader(self, indices: range) -> DataLoader[Read | MedsslError]:
        data, volumes, shape = self.data, self.data.catalog.volumes, self.data.geometry.shape
        source = Reading(
            data.reader,
            self.sampler,
            data.keys,
            data.geometry,
            getattr(torch, volumes["dtype"][0]),
            data.shapes if data.cropped else None,
            data.foreground if data.cropped and data.points is not None else None,
            len(self.recipe.views),
            self.share,
            lends=self.sampler.crops == 1 and not data.cover and all(only_cut(v, shape) for v in self.recipe.views),
        )
        context = None
        if self.workers:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])  # imported once, not by every worker
        return DataLoader(
            source,
            batch_size=None,
            sampler=indices,
            num_workers=self.workers,
            multiprocessing_context=context,
            worker_init_fn=_quiet if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # leaves the global one alone
        )

    def _block(self, read: Read) -> Block:
        num = len(read.keys) // len(read.rows)
        volume = read.rows.repeat_interleave(num)
        targets = None if self.targets is None else torch.from_numpy(self.targets)[volume]
        return Block(read, volume, self.data, self.recipe, targets, self._patients[volume])

    @cached_property
    def _patients(self) -> Tensor:
        names = self.data.catalog.volumes["patient"]
        codes = names.unique(maintain_order=True)
        hashes = names.replace_strict(codes, [hash_words(name) for name in codes], return_dtype=pl.Int64)
        return torch.from_numpy(hashes.to_numpy().copy())


def _quiet(worker: int) -> None:
    """Keep a worker to one thread, and alive for as long as the training process, which stops in its own time."""
    blosc2.set_nthreads(1)
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class Drawn:
    """A micro-batch whose views were drawn while it was read."""

    made: Views

    def views(self, device: torch.device) -> Views:
        """Return them: a CPU draws, and a CPU trains."""
        return self.made


@dataclass(frozen=True)
class Block:
    """A micro-batch as read; its images are cut and its views drawn on the device, from voxels in storage type."""

    read: Read
    volume: Tensor
    data: Prepared
    recipe: ViewRecipe
    targets: Tensor | None
    patient: Tensor

    def views(self, device: torch.device) -> Views:
        """Move what was read to ``device`` and draw the views there."""
        images, first = self.read.blocks, self.read.first
        keys, num = self.read.keys.to(device), len(self.read.keys) // len(self.read.rows)
        targets = None if self.targets is None else self.targets.to(device)
        if isinstance(images, Stored):
            return make_views(images, keys, self.volume.to(device), self.recipe, targets, self.patient.to(device))
        images = images.to(device, non_blocking=True)
        if len(images) < len(keys):
            which = torch.arange(len(keys), device=device) // num
            images = images[which] if first is None else cut(images, which, first.to(device), self.data.geometry.shape)
        if self.data.cover is not None:
            extent = None if self.read.place is None else torch.from_numpy(self.data.shapes[self.volume.numpy()])
            images = covered(images.float(), self.data.cover, keys[:, 0], first=self.read.place, extent=extent)
        return make_views(images, keys, self.volume.to(device), self.recipe, targets, self.patient.to(device))
