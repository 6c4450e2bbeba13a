"""What a micro-batch reads: blocks of voxels in storage type and the keys of their images; numpy and files only."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from medssl.core.errors import MedsslError
from medssl.core.keys import mix, view_keys
from medssl.core.types import Geometry
from medssl.data.crops import Stored, block_shape, boxes, starts
from medssl.data.memory import empty
from medssl.data.sampler import Sampler
from medssl.data.views import Stream
from medssl.pool.reader import VolumeReader

Ints = NDArray[np.int64]


class Read(NamedTuple):
    """One process's share of a micro-batch: ``blocks`` ``R C *T`` in storage type, of ``rows`` ``R``.

    ``keys`` ``B V``: one line an image, ``B / R`` images a row. ``first`` ``B ndim``: where each image's box begins in
    its block, None where blocks are whole images, one a row or one an image. ``place`` ``B ndim``: where it begins in
    its volume, None where that is the image.
    """

    blocks: Tensor | Stored
    rows: Tensor
    keys: Tensor
    first: Tensor | None
    place: Tensor | None


@dataclass(frozen=True)
class Reading(Dataset[Read | MedsslError]):
    """The reads of a run: item ``i`` is this process's share of micro-batch ``i``; small enough for any worker.

    ``keys`` ``N`` identities; ``extents`` ``N ndim`` of volumes that are read by boxes, else None; ``points``
    ``N P ndim`` in tissue, or None. ``lends``: whole float16 images stay where they lie, if that is here and plain.
    """

    reader: VolumeReader
    sampler: Sampler
    keys: Ints
    geometry: Geometry
    dtype: torch.dtype
    extents: Ints | None
    points: NDArray[Any] | None
    num_views: int
    share: tuple[int, int]
    lends: bool = False

    def __getitem__(self, index: int) -> Read | MedsslError:
        """Return a read, or the error for the user: raised in a worker it would come out inside two tracebacks."""
        try:
            return self._read(index)
        except MedsslError as error:
            return error

    def _read(self, index: int) -> Read:
        batch, (rank, world) = self.sampler.micro_batch(index), self.share
        rows, visits = (np.array_split(part, world)[rank] for part in (batch.rows, batch.visits))
        num = self.sampler.crops
        visit = np.add.outer(visits * num, np.arange(num)).ravel()
        volume = np.repeat(self.keys[rows], num)
        # Two boxes of a volume, like two visits of an epoch, are two samples; the first is the volume itself.
        sample = np.where(visit == 0, volume, mix(volume.view(np.uint64) ^ mix(visit)).view(np.int64))
        keys = view_keys(self.sampler.seed, batch.epoch, sample, self.num_views)
        blocks, *at = self._whole(rows) if self.extents is None else self._boxes(rows, keys[:, 0], self.extents)
        return Read(blocks, torch.from_numpy(rows), torch.from_numpy(keys), *at)

    def _whole(self, rows: Ints) -> tuple[Tensor | Stored, None, None]:
        if self.lends and self._converts(rows):
            return Stored(self.reader, rows, (len(rows), self.geometry.channels, *self.geometry.shape)), None, None
        out = self._room(len(rows), self.geometry.shape)
        self.reader.read_many(rows, out=out.numpy())
        return out, None, None

    def _boxes(self, rows: Ints, keys: Ints, extents: Ints) -> tuple[Tensor, Tensor | None, Tensor]:
        """Read one block a row and draw its images' boxes, mostly around tissue where that is known."""
        num, shape = self.sampler.crops, self.geometry.shape
        sizes = np.minimum(extents[rows], block_shape(shape, num))
        near = None if self.points is None else self.points[rows].astype(np.int64)
        begin = starts(keys[::num], Stream.BLOCK, extents[rows], sizes, near)
        direct = self._converts(rows[:1])
        if num == 1:
            return (self._converted if direct else self._stacked)(rows, begin, sizes), None, torch.from_numpy(begin)
        within = None if near is None else np.repeat(near - begin[:, None], num, axis=0)
        inner = np.broadcast_to(np.array(shape), (len(keys), len(shape)))
        first = starts(keys, Stream.BOX, np.repeat(sizes, num, axis=0), inner, within)
        place = np.repeat(begin, num, axis=0) + first
        if direct:
            return self._converted(np.repeat(rows, num), place, inner), None, torch.from_numpy(place)
        return self._stacked(rows, begin, sizes), torch.from_numpy(first), torch.from_numpy(place)

    def _converts(self, rows: Ints) -> bool:
        """Say whether rows are best read box by box as float32: nothing to decode, no process or bus to cross."""
        here = get_worker_info() is None and not torch.cuda.is_available()
        return here and self.dtype == torch.float16 and all(map(self.reader.is_plain, rows.tolist()))

    def _converted(self, rows: Ints, begin: Ints, sizes: Ints) -> Tensor:
        """Read a box a row as float32, converted while it is in the cache."""
        stored = Stored(self.reader, rows, (len(rows), self.geometry.channels, *self.geometry.shape))
        out = empty(stored.shape)
        for index, (place, box) in enumerate(zip(out, boxes(begin, sizes), strict=True)):
            place.copy_(stored.read(index, box).contiguous())
        return out

    def _stacked(self, rows: Ints, begin: Ints, sizes: Ints) -> Tensor:
        """Read a box a row; smaller ones fill a corner of their place."""
        out, cuts = self._room(len(rows), tuple(sizes.max(0).tolist())), boxes(begin, sizes)
        if (sizes == sizes[0]).all():
            self.reader.read_many(rows, cuts, out.numpy())
        else:
            for place, row, box, size in zip(out.numpy(), rows, cuts, sizes, strict=True):
                place[(slice(None), *map(slice, size))] = self.reader.read(int(row), box)
        return out

    def _room(self, num: int, shape: tuple[int, ...]) -> Tensor:
        """Return an empty ``num C *shape`` in storage type; a worker's lies where the training process sees it."""
        whole = (num, self.geometry.channels, *shape)
        if get_worker_info() is None:
            return empty(whole, self.dtype)
        # As torch's own collation does; a tensor that is moved to shared memory later is copied once more.
        num_bytes = prod(whole) * self.dtype.itemsize
        storage: torch.UntypedStorage = torch.UntypedStorage._new_shared(num_bytes)  # type: ignore[no-untyped-call]
        return torch.empty(0, dtype=self.dtype).set_(storage).view(whole)
