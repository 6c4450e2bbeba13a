"""Archives read in place: what a zip or tar file holds, each member a place of its own; nothing is ever unpacked.

A directory is listed once; any process then opens any member. Whatever an archive claims is bounded before it is
believed: the size of its directory, the number and size of members, and what they unpack to.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, BinaryIO, Generic, TypeVar, cast

from medssl.core.places import Place
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.ingest.members import FreeReads, Gunzipped, Part, ZipMember

HEAD_BYTES = 2048  # of a file, to tell its kind
TAR_BLOCK = 512
MAX_MEMBERS = 2_000_000  # folders too
MAX_DIRECTORY_BYTES = 128 << 20  # of a zip: a million members of usual names
MAX_HEADER_BYTES = 1 << 20  # of one tar member: its long name, its extended header
MAX_MEMBER_BYTES = 1 << 36
MAX_TOTAL_BYTES = 1 << 44
MAX_RATIO = 200  # unpacked by packed bytes, of a member or an archive that unpacks to more than the following
FREE_BYTES = 256 << 20
MAX_TRAILER_BYTES = 64 << 20  # after the end mark of a tar file
ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags of a zip member: its data, strongly, the directory itself
DOCUMENTS = ("[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF")  # zip files that are one file to people
P = TypeVar("P", bound=Place)
DAMAGES = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, ValueError, NotImplementedError)


class Kind(Enum):
    """An archive that can be read in place."""

    ZIP = "zip"
    TAR = "tar"
    TAR_GZ = "tar.gz"


@dataclass(frozen=True, slots=True)
class Member(Generic[P]):
    """One file of an archive; ``reason`` says why it cannot be read. ``name`` is as written there: trust nothing."""

    name: str
    place: P
    num_bytes: int
    mark: str
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The members of an archive; ``reason`` says what is wrong with the archive itself."""

    members: tuple[Member[ZipMember] | Member[Part], ...]
    reason: Reason | None = None


def kind_of(place: Place) -> Kind | None:
    """Return what kind of archive lies there, by its first bytes; None for anything else.

    Raises:
        OSError: it cannot be read.
    """
    with place.open() as handle:
        head = handle.read(HEAD_BYTES)
    if head[128:132] == b"DICM":  # whose preamble may be anything
        return None
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Kind.ZIP
    if head.startswith(b"\x1f\x8b"):
        return Kind.TAR_GZ if _is_tar(_inflated(head)) else None
    return Kind.TAR if _is_tar(head) else None


def members(place: Place, kind: Kind) -> Listing | None:
    """List an archive; None for a document that only lies in a zip file.

    A cut tar file gives the members before the cut. One whose checksum fails gives none: nobody knows which are right.

    Raises:
        OSError: it cannot be read.
    """
    try:
        if kind is Kind.ZIP:
            return _zip(place)
        return _tar(place) if kind is Kind.TAR else _tar_gz(place)
    except DicomProblem as problem:
        return Listing((), problem.reason)
    except DAMAGES as error:
        is_cut = isinstance(error, zipfile.BadZipFile) and "not a zip file" in str(error)  # no directory at its end
        return Listing((), Reason.TRUNCATED_ARCHIVE if is_cut else Reason.DAMAGED_ARCHIVE)


def _zip(place: Place) -> Listing | None:
    mark = place.mark()
    with place.open() as handle:
        num_bytes = handle.seek(0, io.SEEK_END)
        with zipfile.ZipFile(FreeReads(handle, MAX_DIRECTORY_BYTES)) as archive:
            found = archive.infolist()
    if found and any(one.filename in DOCUMENTS for one in found[:16]):
        return None
    _expect_bounded(len(found), sum(one.file_size for one in found), num_bytes)
    ordered = sorted(found, key=lambda one: one.header_offset)
    ends = [one.header_offset for one in ordered[1:]] + [num_bytes]
    if any(one.header_offset + 30 + one.compress_size > end for one, end in zip(ordered, ends, strict=True)):
        raise DicomProblem(Reason.ARCHIVE_BOMB)  # members that share their bytes
    files = [one for one in found if not (one.is_dir() or (one.filename.endswith("\\") and not one.file_size))]
    return Listing(tuple(_zip_member(place, mark, one) for one in files))


def _zip_member(place: Place, mark: str, about: zipfile.ZipInfo) -> Member[ZipMember]:
    is_deflated = about.compress_type == zipfile.ZIP_DEFLATED
    reason = None
    if about.flag_bits & ENCRYPTED:
        reason = Reason.ENCRYPTED
    elif not is_deflated and about.compress_type != zipfile.ZIP_STORED:
        reason = Reason.UNSUPPORTED_MEMBER
    elif about.file_size > MAX_MEMBER_BYTES or _is_bomb(about.file_size, about.compress_size):
        reason = Reason.ARCHIVE_BOMB
    where = ZipMember(place, about.header_offset, about.compress_size, about.file_size, about.CRC, is_deflated)
    return Member(about.filename, where, about.file_size, where.marked(mark), reason)


def _tar(place: Place) -> Listing:
    with place.open() as handle:
        num_bytes = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        found, reason, _ = _tar_members(handle, num_bytes, place, place.mark())
    return Listing(tuple(found), reason)


def _tar_gz(place: Place) -> Listing:
    with place.open() as handle:
        packed_bytes = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        unzipped = io.BufferedReader(
            cast(io.RawIOBase, gzip.GzipFile(fileobj=handle))
        )  # small, for a cut costs a block
        found, reason, end = _tar_members(unzipped, packed_bytes, place, place.mark())
        if reason is None:
            end += _drained(unzipped)  # on to the checksum
    inside = Gunzipped(place, end)
    return Listing(tuple(replace(one, place=replace(one.place, whole=inside)) for one in found), reason)


def _tar_members(
    handle: BinaryIO, packed_bytes: int, place: Place, mark: str
) -> tuple[list[Member[Part]], Reason | None, int]:
    """Return the members, what is wrong, and how far the archive was read."""
    found: list[Member[Part]] = []
    places: dict[str, Part] = {}
    num = end = 0
    reason = None
    try:
        with tarfile.open(fileobj=cast(BinaryIO, FreeReads(handle, MAX_HEADER_BYTES)), mode="r:") as archive:
            for entry in archive:
                cast(Any, archive).members.clear()  # which would keep them all
                num, end = num + 1, entry.offset_data + entry.size
                _expect_bounded(num, end, packed_bytes)
                if entry.isreg() and entry.sparse is None:
                    places[entry.name] = Part(place, entry.offset_data, entry.size)
                if not entry.isdir():
                    found.append(_tar_member(entry, places, place, mark))
            end = cast(Any, archive).offset
        handle.seek(end)
        last = handle.read(TAR_BLOCK)  # zeros, unless something came in between: tarfile would not say
        if len(last) < TAR_BLOCK:
            reason = Reason.DAMAGED_ARCHIVE if any(last) else Reason.TRUNCATED_ARCHIVE
        while last and reason is None:  # as are those behind it, unless another archive was appended
            end += len(last)
            _expect_bounded(num, end, packed_bytes)
            reason = Reason.DAMAGED_ARCHIVE if any(last) else None
            last = handle.read(1 << 20)
    except EOFError:
        reason = Reason.TRUNCATED_ARCHIVE
    except tarfile.ReadError as error:
        reason = Reason.TRUNCATED_ARCHIVE if "unexpected end of data" in str(error) else Reason.DAMAGED_ARCHIVE
    return found, reason, end


def _tar_member(entry: tarfile.TarInfo, places: Mapping[str, Part], place: Place, mark: str) -> Member[Part]:
    if entry.islnk() and entry.linkname in places:  # a second name of an earlier file
        lies = places[entry.linkname]
        return Member(entry.name, lies, lies.num_bytes, mark)
    reason = None
    if entry.sparse is not None:
        reason = Reason.UNSUPPORTED_MEMBER
    elif not entry.isreg():
        reason = Reason.UNREADABLE
    elif entry.size > MAX_MEMBER_BYTES:
        reason = Reason.ARCHIVE_BOMB
    return Member(entry.name, Part(place, entry.offset_data, entry.size), entry.size, mark, reason)


def _expect_bounded(num: int, num_bytes: int, packed_bytes: int) -> None:
    if num > MAX_MEMBERS or num_bytes > MAX_TOTAL_BYTES or _is_bomb(num_bytes, packed_bytes):
        raise DicomProblem(Reason.ARCHIVE_BOMB)


def _is_bomb(num_bytes: int, packed_bytes: int) -> bool:
    return num_bytes > FREE_BYTES and num_bytes > MAX_RATIO * packed_bytes


def _drained(handle: BinaryIO) -> int:
    total = 0
    while block := handle.read(1 << 20):
        total += len(block)
        if total > MAX_TRAILER_BYTES:
            raise DicomProblem(Reason.ARCHIVE_BOMB)
    return total


def _is_tar(head: bytes) -> bool:
    try:
        return bool(tarfile.TarInfo.frombuf(head[:TAR_BLOCK], "utf-8", "surrogateescape"))
    except (tarfile.TarError, ValueError):
        return False


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, TAR_BLOCK)
    except zlib.error:
        return b""
