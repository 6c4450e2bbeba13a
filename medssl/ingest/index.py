"""Phase 1: every file's header, read in parallel into the work folder; only one light row a file comes back."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from medssl.dicom.deidentify import Described, Pseudonyms, describe
from medssl.dicom.header import Header, Ids
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import Reason
from medssl.ingest.executors import Died, Executor, alone
from medssl.ingest.headers import AnyHeader, read_header
from medssl.ingest.known import NamedFile, mark_of
from medssl.ingest.sources import SourceFile
from medssl.ingest.work import Work, name_of

CHUNK, MAX_CHUNK = 256, 1024  # files a task: on average, and at most


@dataclass(frozen=True)
class Entry:
    """One input file under its pseudonym: an image with its header, else a reason."""

    source_key: str
    file: SourceFile
    header: AnyHeader | None
    reason: Reason | None
    ids: Ids | None


class Row(NamedTuple):
    """What the main process keeps of one file; no identifier among it.

    ``kind`` is that of an image (picture, slice, file) and None for any other file; ``voxel_bytes`` are decoded.
    """

    source_key: str
    num_bytes: int
    mark: int | None
    reason: Reason | None
    patient: str | None
    series: str | None
    sop: str | None
    kind: str | None
    voxel_bytes: int


@dataclass(frozen=True)
class Chunk:
    """Some files in the order of their paths; ``name`` is a hash of all that their headers depend on."""

    name: str
    num_files: int


@dataclass(frozen=True)
class Entries:
    """The entries of chunks, read from the work folder each time they are gone through."""

    work: Work
    chunks: Sequence[Chunk]

    def __iter__(self) -> Iterator[Entry]:
        for chunk in self.chunks:
            yield from self.of(chunk.name)

    def of(self, name: str, places: Iterable[int] | None = None) -> list[Entry]:
        """Return the entries of one chunk, or those at some ``places`` in it."""
        packed = self.work.headers(name) or ()
        return [pickle.loads(packed[i]) for i in (range(len(packed)) if places is None else places)]


@dataclass(frozen=True)
class _Task:
    work: Work
    name: str
    pseudonyms: Pseudonyms
    modality: str | None


class Listing:
    """Writes the list of files down in chunks, so that no process ever holds all of it.

    Where a chunk ends depends on its last file alone: a file that comes or goes changes one chunk.
    """

    def __init__(self, work: Work, modality: str | None) -> None:
        self.work, self.modality = work, modality
        self.chunks: list[Chunk] = []
        self._part: list[NamedFile] = []

    def add(self, key: str, file: SourceFile) -> None:
        """Append a file."""
        self._part.append((key, file))
        if int(key[-8:], 16) % CHUNK == 0 or len(self._part) == MAX_CHUNK:
            self.close()

    def close(self) -> None:
        """Write what is left."""
        if self._part:
            name = name_of(self.modality, *self._part)
            self.work.keep_list(name, self._part)
            self.chunks.append(Chunk(name, len(self._part)))
            self._part = []


def index(
    chunks: Sequence[Chunk],
    work: Work,
    workers: Executor,
    pseudonyms: Pseudonyms,
    modality: str | None = None,
    on_progress: Callable[[list[Row]], object] = lambda _: None,
) -> Iterator[list[Row]]:
    """Yield a row for every file of each chunk; the headers are in the work folder then.

    Args:
        chunks: what to read.
        work: where it goes; what lies there already is not read again.
        workers: read it.
        pseudonyms: name it.
        modality: of NIfTI files, which do not say.
        on_progress: gets the rows just read.
    """
    tasks = (_Task(work, chunk.name, pseudonyms, modality) for chunk in chunks)
    for chunk, rows in zip(chunks, workers.run(_read, tasks), strict=True):
        if isinstance(rows, Died):  # find out which file it was
            entries = _without_killers(work.listed(chunk.name), modality)
            with work.writing():
                work.keep_headers(chunk.name, entries)
            rows = [_row(entry, pseudonyms) for entry in entries]
        on_progress(rows)
        yield rows


def described(header: AnyHeader, pseudonyms: Pseudonyms) -> Described:
    """Return everything that may leave a header."""
    return describe(header, pseudonyms) if isinstance(header, Header) else header.describe(pseudonyms)


def _read(task: _Task) -> list[Row]:
    """Read the headers of a chunk unless that was done."""
    if task.work.headers(task.name) is None:
        entries = _entries(task.modality, task.work.listed(task.name))
        with task.work.writing():
            task.work.keep_headers(task.name, entries)
    else:
        entries = Entries(task.work, ()).of(task.name)
    return [_row(entry, task.pseudonyms) for entry in entries]


def _entries(modality: str | None, files: Sequence[NamedFile]) -> list[Entry]:
    with quiet():
        return [_entry(key, file, modality) for key, file in files]


def _entry(key: str, file: SourceFile, modality: str | None) -> Entry:
    header, reason, ids = read_header(file, modality)
    if reason is not None and file.reason is None and not _is_unchanged(file):
        reason = Reason.SOURCE_CHANGED  # half written still, or gone
    return Entry(key, file, header, reason, ids)


def _is_unchanged(file: SourceFile) -> bool:
    try:
        return file.is_unchanged()
    except OSError:
        return False


def _without_killers(files: Sequence[NamedFile], modality: str | None) -> list[Entry]:
    """Read files in processes of their own, in halves, until those that kill them are left."""
    found = alone(partial(_entries, modality), files)
    if not isinstance(found, Died):
        return found
    if len(files) == 1:
        return [Entry(*files[0], None, Reason.CORRUPT, None)]
    half = len(files) // 2
    return [*_without_killers(files[:half], modality), *_without_killers(files[half:], modality)]


def _row(entry: Entry, pseudonyms: Pseudonyms) -> Row:
    ids, header = entry.ids, entry.header
    of_file = entry.source_key, entry.file.num_bytes, mark_of(entry.source_key, entry.file, pseudonyms), entry.reason
    patient = pseudonyms.patient(ids.patient_id, ids.issuer, ids.study_uid) if ids else None
    sop = pseudonyms.uid("sop", ids.sop_uid) if ids and ids.sop_uid else None
    series = pseudonyms.uid("series", ids.series_uid) if ids and ids.series_uid else None
    if header is None:
        return Row(*of_file, patient, series, sop, None, 0)
    kind = str(header.kind) if isinstance(header, Header) else "file"
    return Row(*of_file, patient, series, sop, kind, header.num_bytes)
