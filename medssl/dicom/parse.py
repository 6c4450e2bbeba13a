"""The layout of a DICOM file: sniffed, read up to its pixels, bounded in bytes, cut files recognised."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Literal

from pydicom import uid

from medssl.core.places import Place
from medssl.dicom.elements import ITEM, SEQUENCE_END, UNDEFINED, Found, Walk, Wanted
from medssl.dicom.fields import Fields, tag_of
from medssl.dicom.reasons import DicomProblem, Reason

MAX_INFLATED = 256 << 20  # bytes; a deflated file of 0.6 MB can hold 1.3 GB
PIXEL_TAGS = {0x7FE00010: "PixelData", 0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}
AFTER_META = range(0x00030000, 1 << 32)
META = Wanted({tag_of(f"{word}UID")[0] for word in ("TransferSyntax", "MediaStorageSOPClass")}, (), (), ())
MAGIC = {
    b"PK\x03\x04": Reason.ARCHIVE,
    b"\x1f\x8b": Reason.ARCHIVE,
    b"7z\xbc\xaf": Reason.ARCHIVE,
    b"\x89PNG": Reason.OTHER_IMAGE_FORMAT,
    b"\xff\xd8\xff": Reason.OTHER_IMAGE_FORMAT,
    b"II*\x00": Reason.OTHER_IMAGE_FORMAT,
    b"MM\x00*": Reason.OTHER_IMAGE_FORMAT,
}


@dataclass(frozen=True)
class PixelSpan:
    """Where the value of the pixel element lies, in the file or (``inflate_from`` given) in its inflated data set.

    ``encapsulated`` values hold the offset table and ``num_fragments`` fragments, without the closing delimiter.
    """

    keyword: str
    vr: str
    offset: int
    length: int
    encapsulated: bool
    num_fragments: int = 0
    inflate_from: int | None = None


@dataclass(frozen=True)
class Parsed:
    """The wanted elements before the pixels, the items of the wanted sequences, and where the pixels are."""

    fields: Fields
    items: dict[int, list[Found]]
    transfer_syntax: str
    media_class: str  # the SOP class that the file meta information names; blank without it
    pixels: PixelSpan | None
    is_cut: bool  # the file ended inside an element


@dataclass(frozen=True)
class Opened:
    """A walk that has its data set before it, from ``start`` on, in the file or inflated from there."""

    walk: Walk
    start: int
    syntax: uid.UID
    media_class: str
    inflate_from: int | None


def parse(place: Place, wanted: Wanted) -> Parsed:
    """Read the wanted elements of the file at ``place``.

    Raises:
        DicomProblem: empty, not DICOM, cut before its data set, inflating beyond ``MAX_INFLATED``, nested too deeply.
        OSError: the file cannot be read.
    """
    with place.open() as file:
        opened = open_walk(file)
        walk, syntax = opened.walk, opened.syntax
        walk.top(opened.start, wanted, PIXEL_TAGS)
        span = _span(walk, opened.inflate_from)
    syntax = syntax or (uid.ImplicitVRLittleEndian if walk.implicit else uid.ExplicitVRLittleEndian)
    if not walk.little and syntax == uid.ExplicitVRLittleEndian:
        syntax = uid.ExplicitVRBigEndian
    fields = Fields(walk.found, little=walk.little)
    return Parsed(fields, walk.items, str(syntax), opened.media_class, span, walk.is_cut)


def open_walk(file: BinaryIO) -> Opened:
    """Read the file meta information.

    Raises:
        DicomProblem: empty, not DICOM, cut before its data set, inflating beyond ``MAX_INFLATED``.
    """
    walk = Walk(file)
    start = walk.top(_sniff(walk.read(0, 132)), META, AFTER_META)
    fields = Fields(walk.found)
    syntax = uid.UID(fields.text("TransferSyntaxUID"))
    inflate_from = None
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        file.seek(start)
        walk, inflate_from, start = Walk(inflate(file)), start, 0
    implicit, little = _encoding(walk.read(start, 6), syntax)
    walk.encoded(implicit=implicit, little=little)
    return Opened(walk, start, syntax, fields.text("MediaStorageSOPClassUID"), inflate_from)


def inflate(file: BinaryIO) -> BinaryIO:
    """Return the rest of ``file`` inflated, in memory.

    Raises:
        DicomProblem: it grows beyond ``MAX_INFLATED`` bytes, or is cut or corrupt.
    """
    stream, found = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO()
    try:
        while not stream.eof:
            packed = stream.unconsumed_tail or file.read(64 << 10)
            if not packed:
                raise DicomProblem(Reason.TRUNCATED)
            found.write(stream.decompress(packed, 1 << 20))
            if found.tell() > MAX_INFLATED:
                raise DicomProblem(Reason.TOO_LARGE)
    except zlib.error:
        raise DicomProblem(Reason.CORRUPT) from None
    found.seek(0)
    return found


def _span(walk: Walk, inflate_from: int | None) -> PixelSpan | None:
    """Return where the pixel value lies; None, and ``is_cut``, where the file ends before it does."""
    if walk.stopped is None:
        return None
    tag, vr, offset, length = walk.stopped
    end, num_fragments = (offset + length, 0) if length != UNDEFINED else _fragments(walk, offset)
    if end > walk.size:
        walk.is_cut = True
        return None
    named = vr.decode() or "OW"
    return PixelSpan(PIXEL_TAGS[tag], named, offset, end - offset, length == UNDEFINED, num_fragments, inflate_from)


def _fragments(walk: Walk, here: int) -> tuple[int, int]:
    """Return where the last fragment ends (beyond the file if that ends first), and their number."""
    order: Literal["little", "big"] = "little" if walk.little else "big"
    num = -1  # the first item is the offset table
    while here + 8 <= walk.size:
        item = walk.read(here, 8, ahead=512)
        tag = int.from_bytes(item[:2], order) << 16 | int.from_bytes(item[2:4], order)
        if tag == SEQUENCE_END:
            return here, max(num, 0)
        if tag != ITEM:
            raise DicomProblem(Reason.CORRUPT)
        here += 8 + int.from_bytes(item[4:], order)
        num += 1
    return walk.size + 1, num


def _sniff(head: bytes) -> int:
    """Return where the file meta information or the data set starts."""
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


def _encoding(head: bytes, syntax: uid.UID) -> tuple[bool, bool]:
    """Return whether the data set is implicit VR and little endian; a file without meta information is looked at."""
    if len(head) < 6:
        raise DicomProblem(Reason.TRUNCATED)
    little = syntax != uid.ExplicitVRBigEndian if syntax else int.from_bytes(head[:2], "little") < 0x0100
    if syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, ""):
        return not (head[4:6].isalpha() and head[4:6].isupper()), little  # writers do mistake one for the other
    return False, little
