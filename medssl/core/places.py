"""Where the bytes of an input file lie: on a disk, inside an archive, behind an address; small, so that it travels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


class Place(Protocol):
    """One file, wherever it is; picklable, so that any process can open it. Its text may name a patient."""

    def open(self) -> BinaryIO:
        """Return its bytes, to be read and sought in.

        Raises:
            OSError: they cannot be had.
        """

    def mark(self) -> str:
        """Return what changes when the bytes change, without reading them: size and time, a checksum, an ETag.

        Raises:
            OSError: it is gone.
        """


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on a disk."""

    path: Path

    def open(self) -> BinaryIO:
        """Return its bytes."""
        return self.path.open("rb")

    def mark(self) -> str:
        """Return its size and the time of its last change."""
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def __str__(self) -> str:
        return str(self.path)
