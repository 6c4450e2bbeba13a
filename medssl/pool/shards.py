"""Shards: plain tar files of compressed arrays that are opened in place and decoded block by block."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import blosc2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from medssl.core.errors import CorruptShard, PoolError
from medssl.core.files import atomic

Codec = Literal["zstd", "lz4", "none"]
Box = tuple[slice, ...]

# Blocks are what a crop decodes, chunks what a frame indexes. A 64-cube touches about twice its voxels in 8 x 32 x 32
# blocks, as in 16 x 32 x 32 ones, but one slice of a volume costs half. Both shapes are fitted to the array: padding to
# whole blocks is stored when nothing compresses it.
BLOCK_2D, BLOCK_3D = (128, 128), (8, 32, 32)
MIN_CHUNK, MAX_CHUNK = 4, 8  # blocks an axis
MAX_COLOURS = 4
# blosc2 lets these overrule what a program asks for; the same voxels would then have other bytes and checksums.
for _name in ("NTHREADS", "CLEVEL", "COMPRESSOR", "SHUFFLE", "DELTA", "TYPESIZE", "BLOCKSIZE", "SPLITMODE"):
    os.environ.pop(f"BLOSC_{_name}", None)
# Bit shuffling helps LZ4 (1.67 instead of 1.53 : 1 on a CT-like volume) and slows ZSTD by half without a gain.
CODECS: dict[Codec, tuple[Any, int, Any]] = {
    "zstd": (blosc2.Codec.ZSTD, 3, blosc2.Filter.SHUFFLE),
    "lz4": (blosc2.Codec.LZ4, 5, blosc2.Filter.BITSHUFFLE),
    "none": (blosc2.Codec.LZ4, 0, blosc2.Filter.NOFILTER),
}


@dataclass(frozen=True)
class Member:
    """Where the bytes of one array lie: ``length`` bytes from ``offset`` of the tar file, and their checksum."""

    shard: int
    offset: int
    length: int
    sha256: str


def shard_path(folder: Path, shard: int) -> Path:
    """Return the file of a shard."""
    return folder / f"{shard:05d}.tar"


class ShardWriter:
    """Write one shard; it appears when the block ends well, and not at all otherwise. Same input, same bytes.

    Example:
        >>> with ShardWriter(Path("shards"), 0, "zstd") as shard:
        ...     member = shard.add("0123456789abcdef", np.zeros((4, 5), np.int16))
        >>> member.offset
        512
    """

    def __init__(self, folder: Path, shard: int, codec: Codec) -> None:
        self._path, self._shard, self._codec = shard_path(folder, shard), shard, codec
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            partial = stack.enter_context(atomic(self._path))
            self._tar = stack.enter_context(tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, name: str, array: NDArray[Any]) -> Member:
        """Append ``array`` (``[T] [Z] Y X [C]``, any numeric type; stored little-endian) as ``<name>.b2nd``.

        Raises:
            PoolError: not numeric, or without voxels.
        """
        frame = encode(array, self._codec)
        info = tarfile.TarInfo(f"{name}.b2nd")  # mtime, uid and gid are 0
        info.size = len(frame)
        offset = self._tar.offset + tarfile.BLOCKSIZE  # a USTAR header is one block
        self._tar.addfile(info, io.BytesIO(frame))
        return Member(self._shard, offset, len(frame), hashlib.sha256(frame).hexdigest())


def encode(array: NDArray[Any], codec: Codec) -> bytes:
    """Return ``array`` as a contiguous blosc2 frame, without loss."""
    if array.dtype.kind not in "biufc" or array.dtype.char in "gG":  # long doubles differ between machines
        raise PoolError(f"cannot store voxels of type {array.dtype}, expected bool, integer, float or complex")
    if array.size == 0 or array.ndim == 0:
        raise PoolError(f"cannot store an array of shape {array.shape}, expected at least one voxel and one axis")
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    blocks, chunks = partition(array.shape)
    compressor, level, filter_ = CODECS[codec]
    params = blosc2.CParams(
        codec=compressor,
        clevel=level,
        filters=[filter_],
        typesize=array.dtype.itemsize,
        nthreads=1,  # more than one encode the same array to other bytes each time
    )
    frame: bytes = blosc2.asarray(array, chunks=chunks, blocks=blocks, cparams=params).to_cframe()
    return frame


def partition(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return block and chunk shapes: colours (last, or first of three) stay together, time is cut singly."""
    colours = (shape[-1],) if len(shape) > 2 and shape[-1] <= MAX_COLOURS else ()
    space = shape[: len(shape) - len(colours)]
    flat = len(space) < 3 or (len(space) == 3 and space[0] <= MAX_COLOURS)
    goal = (1,) * (len(space) - 3) + ((MAX_COLOURS, *BLOCK_2D)[-len(space) :] if flat else BLOCK_3D)
    num_blocks = [-(-size // block) for size, block in zip(space, goal, strict=True)]
    blocks = [-(-size // num) for size, num in zip(space, num_blocks, strict=True)]
    chunks = [block * _blocks_a_chunk(num) for block, num in zip(blocks, num_blocks, strict=True)]
    if len(space) > 3:
        chunks[:-3] = blocks[:-3]
    return (*blocks, *colours), (*chunks, *colours)


def _blocks_a_chunk(num_blocks: int) -> int:
    if num_blocks <= MAX_CHUNK:
        return num_blocks
    return min(range(MIN_CHUNK, MAX_CHUNK + 1), key=lambda size: -num_blocks % size)  # least padding


def checksum(path: Path, offset: int, length: int) -> str:
    """Return the SHA-256 of a range of bytes of a file (of what there is, if the file is shorter)."""
    found = hashlib.sha256()
    with path.open("rb") as handle:
        handle.seek(offset)
        while length > 0 and (part := handle.read(min(length, 1 << 20))):
            found.update(part)
            length -= len(part)
    return found.hexdigest()


class VolumeReader:
    """Read volumes, or boxes of them, where they lie; small, picklable and safe in forked or spawned workers.

    Args:
        folder: the one that holds the shards.
        volumes: a table with ``volume, shard, offset, length, sha256``; ``read`` counts its rows from 0.
    """

    def __init__(self, folder: Path, volumes: pl.DataFrame) -> None:
        self.folder = folder
        self._ids = np.array(volumes["volume"].to_list(), dtype=np.bytes_)
        self._shards = volumes["shard"].to_numpy()
        self._offsets = volumes["offset"].to_numpy()
        self._lengths = volumes["length"].to_numpy()
        self._digests = np.frombuffer(bytes.fromhex("".join(volumes["sha256"])), np.uint8).reshape(-1, 32)
        self._checked = np.zeros(len(self), bool)
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, row: int, box: Box | None = None) -> NDArray[Any]:
        """Return the volume of ``row``, or its ``box``: one slice an axis, leading axes first; a writable copy.

        Raises:
            CorruptShard: the stored bytes differ from their checksum (looked at when this process first
                reads the volume: most flipped bits decode silently to wrong voxels), or the shard is missing.
        """
        path = shard_path(self.folder, int(self._shards[row]))
        self._check(row, path)
        # Memory mapping leaves the untouched blocks on disk; one thread, as blosc2's threads do not survive a fork.
        stored = blosc2.open(
            str(path), mode="r", offset=int(self._offsets[row]), mmap_mode="r", dparams=blosc2.DParams(nthreads=1)
        )
        found: NDArray[Any] = stored[() if box is None else box]
        return found

    def check(self, row: int) -> None:
        """Compare the stored bytes of ``row`` with their checksum, once a process.

        Raises:
            CorruptShard: they differ, or the shard is missing.
        """
        self._check(row, shard_path(self.folder, int(self._shards[row])))

    def _check(self, row: int, path: Path) -> None:
        if self._process != os.getpid():
            self._checked, self._process = np.zeros(len(self), bool), os.getpid()
        if self._checked[row]:
            return
        volume = self._ids[row].decode()
        try:
            found = checksum(path, int(self._offsets[row]), int(self._lengths[row]))
        except FileNotFoundError:
            raise CorruptShard(f"volume {volume}: its shard {path.name} is missing from {self.folder}") from None
        if bytes.fromhex(found) != self._digests[row].tobytes():
            raise CorruptShard(
                f"volume {volume}: its bytes in shard {path.name} differ from their checksum; "
                "restore that file or ingest its studies again"
            )
        self._checked[row] = True
