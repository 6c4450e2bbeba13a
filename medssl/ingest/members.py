"""The bytes of an archive's members, found by offset: stored, deflated, or behind gzip; in memory a few blocks."""

from __future__ import annotations

import io
import logging
import threading
import zlib
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, cast

import indexed_gzip

from medssl.core.places import Place
from medssl.dicom.reasons import DicomProblem, Reason

BLOCK_BYTES = 64 << 10
FAR_BYTES = 1 << 20  # further than this a stored member is jumped over, at the price of its checksum
LOCAL_HEADER, LOCAL_HEADER_BYTES = b"PK\x03\x04", 30
MIN_SPACING = 4 << 20
logging.getLogger("indexed_gzip").setLevel(logging.CRITICAL + 1)  # it would name the archive
MAX_SEEK_POINTS = 2048  # of a gzip file, 32 KiB each: 64 MiB for each of the files kept open


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A stored or deflated member of a zip file."""

    archive: Place
    offset: int  # of its local header
    packed_bytes: int
    num_bytes: int
    crc: int
    is_deflated: bool

    def open(self) -> BinaryIO:
        """Return its bytes.

        Raises:
            DicomProblem: its local header is damaged; later, on reading: so are its bytes.
            OSError: the archive cannot be read.
        """
        handle = self.archive.open()
        handle.seek(self.offset)
        head = handle.read(LOCAL_HEADER_BYTES)
        if len(head) < LOCAL_HEADER_BYTES or not head.startswith(LOCAL_HEADER):
            handle.close()
            raise DicomProblem(Reason.CORRUPT)
        start = self.offset + LOCAL_HEADER_BYTES + sum(int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
        return io.BufferedReader(_Unzipped(handle, start, self), BLOCK_BYTES)

    def mark(self) -> str:
        """Return that of the archive and its checksum."""
        return self.marked(self.archive.mark())

    def marked(self, archive: str) -> str:
        """Return its mark in an archive of this mark."""
        return f"{archive} {self.crc:08x}"

    def __str__(self) -> str:
        return f"{self.archive} at {self.offset}"


@dataclass(frozen=True, slots=True)
class Part:
    """A run of bytes of a larger file: a member of a tar file."""

    whole: Place
    offset: int
    num_bytes: int

    def open(self) -> BinaryIO:
        """Return its bytes."""
        return io.BufferedReader(_Window(self.whole.open(), self.offset, self.num_bytes), BLOCK_BYTES)

    def mark(self) -> str:
        """Return that of the whole."""
        return self.whole.mark()

    def __str__(self) -> str:
        return f"{self.whole} at {self.offset}"


@dataclass(frozen=True, slots=True)
class Gunzipped:
    """What a gzip file holds. Each process keeps an index of the files it used last, made as it reads on."""

    packed: Place
    num_bytes: int

    def open(self) -> BinaryIO:
        """Return its bytes; any number of them can be open and read side by side."""
        index = _index(
            cast(Hashable, self.packed), self.packed.mark(), max(MIN_SPACING, self.num_bytes // MAX_SEEK_POINTS)
        )
        return io.BufferedReader(_View(index, self.num_bytes), BLOCK_BYTES)

    def mark(self) -> str:
        """Return that of the gzip file."""
        return self.packed.mark()

    def __str__(self) -> str:
        return str(self.packed)


class FreeReads:
    """A file that refuses to read much at once: what a damaged or hostile directory asks for."""

    def __init__(self, handle: BinaryIO, most: int) -> None:
        self._handle, self._most = handle, most
        self.seek, self.tell, self.seekable = handle.seek, handle.tell, handle.seekable

    def read(self, num: int = -1) -> bytes:
        """Read ``num`` bytes.

        Raises:
            DicomProblem: that is too much.
        """
        found = self._handle.read(min(num, self._most + 1) if num >= 0 else self._most + 1)
        if len(found) > self._most:
            raise DicomProblem(Reason.ARCHIVE_BOMB)
        return found


class _Seekable(io.RawIOBase):
    """Reading from ``at``; seeking only sets it."""

    def __init__(self, size: int) -> None:
        self.size, self.at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + (0, self.at, self.size)[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        found = self.piece(min(len(buffer), max(0, self.size - self.at)))
        buffer[: len(found)] = found
        self.at += len(found)
        return len(found)

    def piece(self, num: int) -> bytes:
        """Return up to ``num`` bytes from ``at`` on."""
        raise NotImplementedError


class _Window(_Seekable):
    def __init__(self, handle: BinaryIO, offset: int, size: int) -> None:
        super().__init__(size)
        self.handle, self.offset = handle, offset

    def piece(self, num: int) -> bytes:
        self.handle.seek(self.offset + self.at)
        return self.handle.read(num)

    def close(self) -> None:
        self.handle.close()
        super().close()


class _Unzipped(_Seekable):
    """Decompresses on the way; checks the checksum where everything passed by, which reading pixels to the end does."""

    def __init__(self, handle: BinaryIO, start: int, about: ZipMember) -> None:
        super().__init__(about.num_bytes)
        self.handle, self.start, self.about = handle, start, about
        self.held, self.held_at = b"", 0
        self._rewind()

    def piece(self, num: int) -> bytes:
        if num and not self.held_at <= self.at < self.held_at + len(self.held):
            self._move()
            left = self.size - self.at
            self.held, self.held_at = self._read(left if left - num <= BLOCK_BYTES else num), self.at
            if self.done == self.size and self.crc not in (None, self.about.crc):
                raise DicomProblem(Reason.CORRUPT)
        start = self.at - self.held_at
        return self.held[start : start + num] if num else b""

    def close(self) -> None:
        self.handle.close()
        super().close()

    def _rewind(self) -> None:
        self.handle.seek(self.start)
        self.inflater = zlib.decompressobj(-zlib.MAX_WBITS) if self.about.is_deflated else None
        self.unread, self.done = self.about.packed_bytes, 0
        self.crc: int | None = 0

    def _move(self) -> None:
        """Bring the decoder to ``at``."""
        if self.at < self.done:
            self._rewind()
        if self.inflater is None and self.at - self.done > FAR_BYTES:
            self.handle.seek(self.start + self.at)
            self.unread, self.done, self.crc = self.about.packed_bytes - self.at, self.at, None
        while self.done < self.at:
            self._read(min(self.at - self.done, BLOCK_BYTES))

    def _read(self, num: int) -> bytes:
        """Return the next ``num`` bytes.

        Raises:
            DicomProblem: there are not so many.
        """
        blocks, missing = [], num
        while missing:
            block = self._block(missing)
            if not block:
                raise DicomProblem(Reason.CORRUPT)
            blocks.append(block)
            missing -= len(block)
            self.done += len(block)
            self.crc = None if self.crc is None else zlib.crc32(block, self.crc)
        return b"".join(blocks)

    def _block(self, most: int) -> bytes:
        if self.inflater is None:
            return self._packed(most)
        try:
            while not self.inflater.eof:
                packed = self.inflater.unconsumed_tail or self._packed(BLOCK_BYTES)
                block = self.inflater.decompress(packed, most)
                if block or not packed:
                    return block
        except zlib.error:
            raise DicomProblem(Reason.CORRUPT) from None
        return b""

    def _packed(self, most: int) -> bytes:
        found = self.handle.read(min(most, self.unread))
        self.unread -= len(found)
        return found


class _Index:
    """An indexed gzip file, to be used by one reader at a time."""

    def __init__(self, packed: Place, spacing: int) -> None:
        self.handle, self.lock = packed.open(), threading.Lock()
        self.file = indexed_gzip.IndexedGzipFile(fileobj=self.handle, spacing=spacing)

    def __del__(self) -> None:
        self.file.close()
        self.handle.close()


class _View(_Seekable):
    def __init__(self, index: _Index, size: int) -> None:
        super().__init__(size)
        self.index = index

    def piece(self, num: int) -> bytes:
        with self.index.lock:
            self.index.file.seek(self.at)
            return bytes(self.index.file.read(num))


@lru_cache(maxsize=2)
def _index(packed: Hashable, mark: str, spacing: int) -> _Index:
    return _Index(cast(Place, packed), spacing)
