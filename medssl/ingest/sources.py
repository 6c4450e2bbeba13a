"""Walking the sources: every file below them once, in a fixed order, named alike on every machine."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from medssl.core.errors import MedsslError
from medssl.core.places import LocalFile, Place
from medssl.dicom.directory import is_directory, referenced
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.ingest import archives, dicomweb, urls
from medssl.ingest.images import About
from medssl.ingest.members import Part, ZipMember
from medssl.ingest.work import Work

ARCHIVE_NAME = re.compile(r"\.(zip|tar|tgz|tar\.gz)$", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
NO_DISKS = ("/proc", "/sys", "/dev")  # reading there may never end
THREADS, BATCH = 8, 256  # that look into files, and how many at a time; on network storage looking is waiting


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source, or a member of an archive in one.

    Attributes:
        place: where it lies.
        relative: its path below its source, that one's own name first; ``/`` as separator, NFC.
        num_bytes: its size; 0 where it cannot be seen.
        mark: that of the place when it was listed.
        reason: why it cannot be read, where that is known before reading it.
        case: of a NIfTI file in a case folder, what that is called; see ``medssl.ingest.cases``.
        modality: of a NIfTI file, what the ``dataset.json`` of its folder says.
        about: what a table of images says of it; see ``medssl.ingest.images``.
    """

    place: Place
    relative: str
    num_bytes: int
    mark: str = ""
    reason: Reason | None = None
    case: str | None = None
    modality: str | None = None
    about: About | None = None

    def is_unchanged(self) -> bool:
        """Return whether the file is as it was when it was listed."""
        return self.place.mark() == self.mark

    @property
    def own_mark(self) -> str:
        """What changes when this file changes; empty of a member that only its whole archive has a mark for."""
        if isinstance(self.place, ZipMember):
            return f"{self.place.crc:08x}"
        return "" if isinstance(self.place, Part) else self.mark

    @property
    def is_readable(self) -> bool:
        """Whether nothing is known against reading it."""
        return self.reason is None

    @property
    def below(self) -> str:
        """The path below the source, without the source's name."""
        return self.relative.partition("/")[2] or self.relative


def walk(
    sources: Sequence[Path | str],
    exclude: Path,
    downloads: dicomweb.Downloads | None = None,
    tell: Callable[[str], object] = lambda line: None,
    *,
    follow_links: bool = False,
) -> list[SourceFile]:
    """Return what ``stream`` yields, sorted by ``relative``."""
    return sorted(stream(sources, exclude, downloads, tell, follow_links=follow_links), key=lambda file: file.relative)


def stream(
    sources: Sequence[Path | str],
    exclude: Path,
    downloads: dicomweb.Downloads | None = None,
    tell: Callable[[str], object] = lambda line: None,
    *,
    follow_links: bool = False,
) -> Iterator[SourceFile]:
    """Yield every file below ``sources`` but those of a pool, folder by folder, archives by their members.

    The order is that of the names, whatever the order of the sources; ten million files are never in memory at once.

    A source is a folder, a file, an archive, a DICOMDIR (then what it refers to in its folder), or an address: of a
    file system (``s3://…``) or of a DICOMweb service (``dicomweb+https://…``). Links inside a source are followed; a
    folder that was visited already is not visited again, so loops end. Nothing is read of /proc and its like.

    Args:
        sources: paths, or addresses as text.
        exclude: the pool, which is no source of itself, nor is the work folder beside it.
        downloads: where instances of DICOMweb services go, and which are not needed.
        tell: gets lines for the operator's terminal.
        follow_links: also those that lead out of their source.

    Raises:
        MedsslError: a source does not exist or cannot be reached, two sources share a name and hold files of one name,
            or there is no file.
    """
    visited = {_identity(path) for path in (exclude, Work.beside(exclude).folder) if path.exists()}
    names, plain = array("Q"), array("Q")  # hashes of them
    directories: list[SourceFile] = []
    for source in sorted(sources, key=lambda source: (str(source).rstrip("/").rpartition("/")[2], str(source))):
        for file in _files(source, visited, downloads, tell, follow_links):
            names.append(_hash(file.relative))
            plain.append(_hash(_without_version(file.relative)))
            if file.relative.rpartition("/")[2].casefold() == "dicomdir":
                directories.append(file)
            yield file
    if not names:
        raise MedsslError(f"no files below {said(sources)}; expected folders that hold DICOM files")
    if len(sources) > 1 and len(np.unique(np.asarray(names))) < len(names):
        raise MedsslError("two sources of one name hold files of one name; give the folder above both as the source")
    for file in directories:
        _tell_missing(file, plain, tell)


def said(sources: Iterable[Path | str]) -> str:
    """Return the names of sources, without users, passwords and filters, which may name a patient."""
    return ", ".join(
        str(one)
        if isinstance(one, Path)
        else dicomweb.shown(one)
        if dicomweb.is_address(one)
        else urls.without_user(one).partition("?")[0]
        for one in sources
    )


def _files(
    source: Path | str,
    visited: set[tuple[int, int]],
    downloads: dicomweb.Downloads | None,
    tell: Callable[[str], object],
    follow_links: bool,
) -> Iterator[SourceFile]:
    if isinstance(source, str) and dicomweb.is_address(source):
        for one in dicomweb.instances(source, downloads, tell):
            yield SourceFile(one.place, one.name, one.num_bytes, one.place.mark(), one.reason)
        return
    if isinstance(source, str) and "://" in source and not source.startswith("file://"):
        yield from _expanded(_listed(source))
        return
    path = Path(unquote(urlsplit(source).path)) if isinstance(source, str) and "://" in source else Path(source)
    if not path.exists():
        raise MedsslError(f"{path}: no such folder or file, expected one that holds DICOM")
    name = _plain(path.resolve().name or "root")
    if path.is_file() and is_directory(LocalFile(path)):
        yield from _of_directory(path, visited, follow_links)
    else:
        yield from _expanded(_walk(path, name, visited, follow_links))


def _listed(url: str) -> Iterator[SourceFile]:
    root = inside(urlsplit(url).path) or urlsplit(url).netloc
    taken: dict[str, int] = {}
    for one in urls.listed(url):
        relative = _free("/".join(filter(None, [root.rpartition("/")[2], inside(one.name)])), taken)
        yield SourceFile(one.file, relative, one.num_bytes, one.mark)


def _of_directory(path: Path, visited: set[tuple[int, int]], follow_links: bool) -> Iterator[SourceFile]:
    """Yield a DICOMDIR, and the files below its folder that it refers to."""
    folder = path.resolve().parent
    try:
        wanted = {"/".join(parts).casefold() for parts in referenced(LocalFile(path)).inside}
    except DicomProblem as problem:
        raise MedsslError(f"{path}: cannot be read ({problem.reason}); give its folder as the source") from None
    for file in _walk(folder, _plain(folder.name or "root"), visited, follow_links):
        if _without_version(file.below) in wanted or file.below == _plain(path.name):
            yield file


def _tell_missing(directory: SourceFile, there: array[int], tell: Callable[[str], object]) -> None:
    """Say how many of the files that a DICOMDIR refers to are not ``there``, or not in its folder."""
    folder = directory.relative.rpartition("/")[0]
    try:
        refers = referenced(directory.place)
    except (DicomProblem, OSError):
        return  # its row says so
    names = {"/".join(filter(None, [folder, *parts])).casefold() for parts in refers.inside}
    promised = np.array([_hash(name) for name in names], np.uint64)
    if num := int(np.isin(promised, np.asarray(there), invert=True).sum()):
        tell(f"{directory.relative}: {num} of the {len(names)} files it refers to are not there")
    if refers.num_outside:
        tell(f"{directory.relative}: {refers.num_outside} references outside its folder were not followed")


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _without_version(name: str) -> str:
    return re.sub(r";\d+$|\.;\d+$", "", name).casefold()  # of ISO 9660, where a file system shows it


def _walk(path: Path, relative: str, visited: set[tuple[int, int]], follow_links: bool) -> Iterator[SourceFile]:
    """Yield the files below a folder, in the order of their names; folders may be nested as deep as a disk has them."""
    root, not_disks = os.path.realpath(path), {os.stat(place).st_dev for place in NO_DISKS if os.path.ismount(place)}
    waiting = [(path, relative, False)]
    while waiting:
        path, relative, is_link = waiting.pop()
        if is_link and not follow_links and not Path(os.path.realpath(path)).is_relative_to(root):
            yield SourceFile(LocalFile(path), relative, 0, reason=Reason.LINK_OUTSIDE)
            continue
        try:
            status = path.stat()
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)) or status.st_dev in not_disks:
                yield SourceFile(LocalFile(path), relative, 0, reason=Reason.UNREADABLE)
                continue
            if stat.S_ISREG(status.st_mode):
                place = LocalFile(path)
                yield SourceFile(place, relative, status.st_size, place.mark())
                continue
            if _identity(path) in visited:
                continue
            visited.add(_identity(path))
            with os.scandir(path) as entries:
                names = sorted((entry.name, entry.is_symlink()) for entry in entries)
        except OSError:
            yield SourceFile(LocalFile(path), relative, 0, reason=Reason.UNREADABLE)
            continue
        taken: dict[str, int] = {}  # two spellings of one name are two files
        below = [(path / name, f"{relative}/{_free(_plain(name), taken)}", is_link) for name, is_link in names]
        waiting += reversed(below)


def _expanded(files: Iterable[SourceFile]) -> Iterator[SourceFile]:
    """Yield the members of archives in their place. One that cannot be read, or not to its end, is named itself."""
    left = iter(files)
    with ThreadPoolExecutor(THREADS) as threads:
        while given := list(islice(left, THREADS * BATCH)):
            parts = [given[start : start + BATCH] for start in range(0, len(given), BATCH)]
            kinds = chain.from_iterable(threads.map(lambda part: [_kind(file) for file in part], parts))
            for file, kind in zip(given, kinds, strict=True):
                yield from [file] if kind is None else _members(file, kind)


def _members(archive: SourceFile, kind: archives.Kind) -> Iterator[SourceFile]:
    try:
        listing = archives.members(archive.place, kind)
    except OSError:
        listing = archives.Listing((), Reason.UNREADABLE)
    if listing is None:
        yield archive
        return
    taken: dict[str, int] = {}
    for member in listing.members:
        name = _free(f"{archive.relative}/{inside(member.name)}", taken)
        yield SourceFile(member.place, name, member.num_bytes, member.mark, member.reason)
    if listing.reason is not None:
        yield replace(archive, reason=listing.reason)


def _kind(file: SourceFile) -> archives.Kind | None:
    if file.reason is not None or not file.num_bytes:
        return None
    if isinstance(file.place, urls.RemoteFile) and not ARCHIVE_NAME.search(file.relative):
        return None  # a look would cost a request a file
    try:
        return archives.kind_of(file.place)
    except OSError:
        return None  # whoever reads it will say so


def inside(name: str) -> str:
    """Return a name from an archive or a store as a path that leads nowhere but down."""
    parts = _plain(name.replace("\\", "/")).split("/")
    return "/".join("%2E%2E" if part == ".." else part for part in parts if part not in ("", "."))


def _free(name: str, taken: dict[str, int]) -> str:
    """Return ``name``, numbered if another file bears it; ``taken`` holds the last number of each."""
    found = name
    while found in taken:  # once, unless another is called like a numbered one
        taken[name] += 1
        found = f"{name} ({taken[name]})"
    taken[found] = 1
    return found


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _plain(name: str) -> str:
    """Return a name as valid text: one spelling of accents, control characters and bytes that are no UTF-8 escaped."""
    data = name.encode("utf-8", "surrogateescape")
    text = unicodedata.normalize("NFC", data.decode("utf-8", "backslashreplace"))
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
