"""Phase 1: every file's header, read in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from medssl.dicom.header import Ids
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import Reason
from medssl.ingest.executors import Died, Workers, alone
from medssl.ingest.headers import AnyHeader, read_header
from medssl.ingest.sources import SourceFile

FILES_A_TASK = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One input file under its pseudonym: an image with its header, else a reason."""

    source_key: str
    file: SourceFile
    header: AnyHeader | None
    reason: Reason | None
    ids: Ids | None


def index(
    files: Sequence[tuple[str, SourceFile]],
    workers: Workers,
    on_progress: Callable[[int], object],
    modality: str | None = None,
) -> list[Entry]:
    """Read the header of every (source key, file).

    Args:
        files: what to read.
        workers: read it.
        on_progress: gets the number of files just read.
        modality: of NIfTI files, which do not say.
    """
    tasks = [files[start : start + FILES_A_TASK] for start in range(0, len(files), FILES_A_TASK)]
    found: list[Entry] = []
    read = partial(_read_all, modality)
    for task, reads in zip(tasks, workers.run(read, [[file for _, file in task] for task in tasks]), strict=True):
        if isinstance(reads, Died):  # then file by file, to find out which
            one_by_one = (alone(read, [file]) for _, file in task)
            reads = [(None, Reason.CORRUPT, None) if isinstance(r, Died) else r[0] for r in one_by_one]
        found += (Entry(key, file, *one) for (key, file), one in zip(task, reads, strict=True))
        on_progress(len(task))
    return found


def _read_all(
    modality: str | None, files: Sequence[SourceFile]
) -> list[tuple[AnyHeader | None, Reason | None, Ids | None]]:
    with quiet():
        return [read_header(file, modality) for file in files]
