"""The layout of a DICOM file: sniffed, read up to its pixels, bounded in bytes, cut files recognised."""

from __future__ import annotations

import io
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason

MAX_INFLATED = 256 << 20  # bytes; a deflated file of 0.6 MB can hold 1.3 GB
UNDEFINED = 0xFFFFFFFF
PIXEL_TAGS = {0x7FE00010: "PixelData", 0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}
ITEM, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
MAGIC = {
    b"PK\x03\x04": Reason.ARCHIVE,
    b"\x1f\x8b": Reason.ARCHIVE,
    b"7z\xbc\xaf": Reason.ARCHIVE,
    b"\x89PNG": Reason.OTHER_IMAGE_FORMAT,
    b"\xff\xd8\xff": Reason.OTHER_IMAGE_FORMAT,
    b"II*\x00": Reason.OTHER_IMAGE_FORMAT,
    b"MM\x00*": Reason.OTHER_IMAGE_FORMAT,
}


@dataclass(frozen=True, slots=True)
class PixelSpan:
    """Where the value of the pixel element lies, in the file or (``inflate_from`` given) in its inflated data set.

    ``encapsulated`` values hold the offset table and the fragments, without the closing delimiter.
    """

    keyword: str
    vr: str
    offset: int
    length: int
    encapsulated: bool
    inflate_from: int | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """The elements before the pixels, and where those are."""

    dataset: Dataset
    transfer_syntax: str
    media_class: str  # the SOP class that the file meta information names; blank without it
    pixels: PixelSpan | None
    is_cut: bool  # the file ended inside an element


def parse(path: Path, tags: Collection[int]) -> Parsed:
    """Read the elements ``tags`` of the file at ``path``, nested sequences and pixels skipped.

    Raises:
        DicomProblem: empty, not DICOM, cut before its data set, inflating beyond ``MAX_INFLATED``.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file, quiet() as caught:
        start = _sniff(file)
        file.seek(start)
        meta = _meta(file)
        named = meta.get("TransferSyntaxUID")
        syntax = uid.UID(named) if named else None
        stream: BinaryIO = file
        inflate_from = None
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            inflate_from = file.tell()
            stream = inflate(file)
        watch = _Watch(stream)
        implicit, little = _encoding(stream, syntax)
        dataset = read_dataset(stream, implicit, little, stop_when=watch, specific_tags=list(tags))
        eof = any("End of file" in str(w.message) or "EOF" in str(w.message) for w in caught)
        span = watch.span(inflate_from) if watch.keyword and not eof else None
        syntax = syntax or (uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian)
        if not little and syntax == uid.ExplicitVRLittleEndian:
            syntax = uid.ExplicitVRBigEndian
        media_class = str(meta.get("MediaStorageSOPClassUID") or "")
        return Parsed(dataset, str(syntax), media_class, span, is_cut=eof or watch.is_cut)


def inflate(file: BinaryIO) -> BinaryIO:
    """Return the rest of ``file`` inflated, in memory.

    Raises:
        DicomProblem: it grows beyond ``MAX_INFLATED`` bytes, or is cut or corrupt.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(file.read(MAX_INFLATED), MAX_INFLATED)
    except zlib.error:
        raise DicomProblem(Reason.CORRUPT) from None
    if stream.unconsumed_tail:
        raise DicomProblem(Reason.TOO_LARGE)
    if not stream.eof:
        raise DicomProblem(Reason.TRUNCATED)
    return io.BytesIO(data)


class _Watch:
    """Looks at every top-level element before its value is read; stops at the pixels or where the file ends."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.keyword, self.vr, self.is_cut = stream, "", "", False
        here = stream.tell()
        self.size = stream.seek(0, io.SEEK_END)
        stream.seek(here)
        self.offset = self.length = 0

    def __call__(self, tag: int, vr: str | None, length: int) -> bool:
        here = self.stream.tell()
        if tag in PIXEL_TAGS:
            self.keyword, self.vr, self.offset, self.length = PIXEL_TAGS[tag], vr or "OW", here, length
            return True
        if length != UNDEFINED and here + length > self.size:
            self.is_cut = True
        return self.is_cut

    def span(self, inflate_from: int | None) -> PixelSpan | None:
        """Return where the pixel value lies; None, and ``is_cut``, where the file ends before it does."""
        end = self.offset + self.length if self.length != UNDEFINED else self._end_of_fragments()
        if end is None or end > self.size:
            self.is_cut = True
            return None
        encapsulated = self.length == UNDEFINED
        return PixelSpan(self.keyword, self.vr, self.offset, end - self.offset, encapsulated, inflate_from)

    def _end_of_fragments(self) -> int | None:
        here = self.offset
        while here + 8 <= self.size:
            self.stream.seek(here)
            item = self.stream.read(8)
            if item[:4] == SEQUENCE_END:
                return here
            if item[:4] != ITEM:
                raise DicomProblem(Reason.CORRUPT)
            here += 8 + int.from_bytes(item[4:], "little")
        return None


def _sniff(file: BinaryIO) -> int:
    """Return where the file meta information or the data set starts."""
    head = file.read(132)
    if not head:
        raise DicomProblem(Reason.EMPTY)
    if head[128:] == b"DICM":
        return 132
    for magic, reason in MAGIC.items():
        if head.startswith(magic):
            raise DicomProblem(reason)
    group = int.from_bytes(head[:2], "little"), int.from_bytes(head[:2], "big")
    if len(head) < 132 or (group[0] not in (2, 8) and group[1] not in (2, 8)) or head[2:4].count(0) == 0:
        raise DicomProblem(Reason.NOT_DICOM)
    return 0


def _meta(file: BinaryIO) -> Dataset:
    """Read the file meta information (empty without it) and leave ``file`` where the data set starts."""
    start = file.tell()
    has_meta = file.read(2) == b"\x02\x00"
    file.seek(start)
    if not has_meta:
        return Dataset()
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    here = file.tell()
    if not file.read(1):
        raise DicomProblem(Reason.TRUNCATED)
    file.seek(here)
    return meta


def _encoding(stream: BinaryIO, syntax: uid.UID | None) -> tuple[bool, bool]:
    """Return whether the data set is implicit VR and little endian; a file without meta information is looked at."""
    here = stream.tell()
    head = stream.read(6)
    stream.seek(here)
    little = syntax != uid.ExplicitVRBigEndian if syntax else int.from_bytes(head[:2], "little") < 0x0100
    if syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, None):
        return not (head[4:6].isalpha() and head[4:6].isupper()), little  # writers do mistake one for the other
    return False, little
