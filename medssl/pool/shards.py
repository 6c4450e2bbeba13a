"""Shards: plain tar files of frames that are opened in place and decoded block by block, or not at all."""

from __future__ import annotations

import hashlib
import io
import tarfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from medssl.core.files import atomic
from medssl.pool.frames import Codec, encode


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
        return self.add_frame(name, encode(array, self._codec))

    def add_frame(self, name: str, frame: bytes) -> Member:
        """Append the bytes of a frame as they are."""
        info = tarfile.TarInfo(f"{name}.b2nd")  # mtime, uid and gid are 0
        info.size = len(frame)
        offset = self._tar.offset + tarfile.BLOCKSIZE  # a USTAR header is one block
        self._tar.addfile(info, io.BytesIO(frame))
        return Member(self._shard, offset, len(frame), hashlib.sha256(frame).hexdigest())


def checksum(path: Path, offset: int, length: int) -> str:
    """Return the SHA-256 of a range of bytes of a file (of what there is, if the file is shorter)."""
    found = hashlib.sha256()
    with path.open("rb") as handle:
        handle.seek(offset)
        while length > 0 and (part := handle.read(min(length, 1 << 20))):
            found.update(part)
            length -= len(part)
    return found.hexdigest()
