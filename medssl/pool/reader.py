"""Reading volumes where they lie: mapped where they are plain voxels, else decoded block by block."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import blosc2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from medssl.core.errors import CorruptShard, PoolError
from medssl.pool.frames import HEAD_BYTES, plain_start
from medssl.pool.remote import is_bounded, shard_file
from medssl.pool.shards import shard_path

Box = tuple[slice, ...]

MAX_SHARDS = 64  # held open by a process, with one descriptor each
MAX_FRAMES = 128  # compressed volumes whose headers stay parsed
MAX_FETCHED = 4  # of either, where shards come and go
UNKNOWN, COMPRESSED = 0, -1  # in place of where plain voxels start, which is never before a tar header


class VolumeReader:
    """Read volumes, or boxes of them, where they lie; small, picklable and safe in forked or spawned workers.

    What a process holds open stays in it. ``read_many`` of whole plain volumes may be called from several threads.

    Args:
        folder: the one that holds the shards.
        volumes: a table with ``volume, dtype, shape, shard, offset, length, sha256``; ``read`` counts its rows from 0.
    """

    def __init__(self, folder: Path, volumes: pl.DataFrame) -> None:
        self.folder = folder
        self._ids = np.array(volumes["volume"].to_list(), dtype=np.bytes_)
        self._shards = volumes["shard"].to_numpy()
        self._offsets = volumes["offset"].to_numpy()
        self._lengths = volumes["length"].to_numpy()
        self._digests = np.frombuffer(bytes.fromhex("".join(volumes["sha256"])), np.uint8).reshape(-1, 32)
        kinds = volumes.select("dtype", "shape")
        unique = kinds.unique(maintain_order=True).with_row_index("kind")
        self._kinds = kinds.join(unique, on=["dtype", "shape"], maintain_order="left")["kind"].to_numpy()
        self._layouts = [(np.dtype(name).newbyteorder("<"), tuple(shape)) for _, name, shape in unique.iter_rows()]
        self._opened: _Opened | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}

    def read(self, row: int, box: Box | None = None) -> NDArray[Any]:
        """Return the volume of ``row``, or its ``box``: one slice an axis, leading axes first; a writable copy.

        Raises:
            CorruptShard: the stored bytes differ from their checksum (looked at when this process first
                reads the volume: most flipped bits decode silently to wrong voxels), or the shard is missing.
        """
        stored = self._stored(row)
        found: NDArray[Any] = stored[() if box is None else box]
        return found.copy() if isinstance(stored, np.ndarray) else found

    def lying(self, row: int) -> NDArray[Any]:
        """Return the volume of ``row`` where it lies, if that `is_plain`: read-only, for as long as it is held.

        Raises:
            CorruptShard: as for ``read``.
        """
        return self._stored(row)  # type: ignore[no-any-return]

    def read_many(
        self,
        rows: Sequence[int] | NDArray[np.int64],
        boxes: Sequence[Box] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return ``B *S``: volumes of one type and shape, or one box of one extent of each.

        Args:
            rows: which volumes, ``B``; one may come several times.
            boxes: as for ``read``, one a row.
            out: contiguous, of the result's type and shape, to be filled and returned; made without it.

        Raises:
            PoolError: volumes, or boxes, of different shapes; ``out`` of another.
            CorruptShard: as for ``read``.
        """
        cut = [None] * len(rows) if boxes is None else boxes
        for index, (row, box) in enumerate(zip(rows, cut, strict=True)):
            dtype, shape = self._layouts[self._kinds[row]]
            if box is not None:
                shape = tuple(len(range(*s.indices(n))) for s, n in zip(box, shape, strict=False)) + shape[len(box) :]
            if out is None:
                out = np.empty((len(rows), *shape), dtype)
            if (out.dtype, out.shape[1:]) != (dtype, shape):
                raise PoolError(f"cannot stack {dtype} {shape} into {out.dtype} {out.shape[1:]}; read volumes alike")
            self._fill(int(row), box, out[index])
        return np.empty(0) if out is None else out

    def is_plain(self, row: int) -> bool:
        """Say whether the voxels of ``row`` lie in the file as they are, so that boxes cost no decoding."""
        return bool(self._checked(row).starts[row] != COMPRESSED)

    def check(self, row: int) -> None:
        """Compare the stored bytes of ``row`` with their checksum, once a process.

        Raises:
            CorruptShard: they differ, or the shard is missing.
        """
        self._checked(row)

    def _checked(self, row: int) -> _Opened:
        """Return what is open, of which ``row`` was checked: threads that begin together may each open their own."""
        opened = self._open()
        if opened.starts[row] != UNKNOWN:
            return opened
        shard, offset, length = int(self._shards[row]), int(self._offsets[row]), int(self._lengths[row])
        where = f"volume {self._ids[row].decode()}: its {{}} {shard_path(self.folder, shard).name}"
        try:
            found = opened.digest(shard, offset, length)
        except FileNotFoundError:
            raise CorruptShard(f"{where.format('shard')} is missing from {self.folder}") from None
        if found != self._digests[row].tobytes():
            raise CorruptShard(
                f"{where.format('bytes in shard')} differ from their checksum; "
                "restore that file or ingest its studies again"
            )
        file = opened.shard(shard)  # held, so that no other thread's opening closes it
        head = os.pread(file.descriptor, HEAD_BYTES, offset)
        start = plain_start(head, *self._layouts[self._kinds[row]])
        opened.starts[row] = COMPRESSED if start is None else offset + start
        return opened

    def _open(self) -> _Opened:
        if self._opened is None or self._opened.process != os.getpid():
            self._opened = _Opened(self.folder, len(self))
        return self._opened

    def _stored(self, row: int) -> Any:
        """Return what can be indexed by a box: a view of the mapped voxels, or a blosc2 array."""
        opened = self._checked(row)
        if opened.starts[row] == COMPRESSED:
            return opened.frame(int(self._shards[row]), int(self._offsets[row]), int(self._lengths[row]))
        dtype, shape = self._layouts[self._kinds[row]]
        mapped = opened.shard(int(self._shards[row])).mapped
        return np.frombuffer(mapped, dtype, prod(shape), int(opened.starts[row])).reshape(shape)

    def _fill(self, row: int, box: Box | None, out: NDArray[Any]) -> None:
        opened = self._checked(row)
        start = int(opened.starts[row])
        if box is not None or start == COMPRESSED:
            out[...] = self._stored(row)[() if box is None else box]
            return
        voxels: Any = out.reshape(-1).view(np.uint8)  # where a disk fails this is an error, of mapped bytes a signal
        file = opened.shard(int(self._shards[row]))
        if os.preadv(file.descriptor, [voxels], start) < out.nbytes:
            raise CorruptShard(f"volume {self._ids[row].decode()}: its shard was cut while it was in use; restore it")


class _Shard:
    """An open tar file."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    @cached_property
    def mapped(self) -> mmap.mmap:
        """All of its bytes; what is not touched stays on disk."""
        return mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)


def _opened(folder: Path, shard: int) -> _Shard:
    with shard_file(folder, shard) as path:
        return _Shard(path)


class _Opened:
    """What one process knows and holds open of a folder of shards; ``starts`` is where each row's plain voxels are."""

    def __init__(self, folder: Path, num: int) -> None:
        self.process = os.getpid()
        self.starts = np.full(num, UNKNOWN, np.int64)
        self.buffer, self.lock = memoryview(bytearray(1 << 20)), Lock()
        bounded = is_bounded(folder.parent)  # what is held open takes room although it was removed
        self.shard = lru_cache(MAX_FETCHED if bounded else MAX_SHARDS)(lambda shard: _opened(folder, shard))
        self.frame = lru_cache(MAX_FETCHED if bounded else MAX_FRAMES)(self._frame)

    def digest(self, shard: int, offset: int, length: int) -> bytes:
        """Return the SHA-256 of a range of bytes (of what there is, if the file is shorter)."""
        found, file = hashlib.sha256(), self.shard(shard)
        with self.lock:
            while length > 0 and (num := os.preadv(file.descriptor, [self.buffer[:length]], offset)):
                found.update(self.buffer[:num])
                offset, length = offset + num, length - num
        return found.digest()

    def _frame(self, shard: int, offset: int, length: int) -> blosc2.NDArray:
        mapped = memoryview(self.shard(shard).mapped)
        found = blosc2.ndarray_from_cframe(mapped[offset : offset + length], copy=False)
        found.schunk.dparams = blosc2.DParams(nthreads=1)  # blosc2's threads do not survive a fork
        return found
