"""Phase 1: every file's header, read in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medssl.dicom.header import Header, Ids, Read
from medssl.dicom.quiet import quiet
from medssl.dicom.read import read_header
from medssl.dicom.reasons import Reason
from medssl.ingest.executors import Died, Workers, alone
from medssl.ingest.sources import SourceFile

FILES_A_TASK = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One input file under its pseudonym: an image with its header, else a reason."""

    source_key: str
    file: SourceFile
    header: Header | None
    reason: Reason | None
    ids: Ids | None


def index(
    files: Sequence[tuple[str, SourceFile]], workers: Workers, on_progress: Callable[[int], object]
) -> list[Entry]:
    """Read the header of every (source key, file); ``on_progress`` gets the number of files just read."""
    tasks = [files[start : start + FILES_A_TASK] for start in range(0, len(files), FILES_A_TASK)]
    found: list[Entry] = []
    for task, reads in zip(tasks, workers.run(_read_all, [[file for _, file in task] for task in tasks]), strict=True):
        if isinstance(reads, Died):  # then file by file, to find out which
            one_by_one = (alone(_read_all, [file]) for _, file in task)
            reads = [Read(None, Reason.CORRUPT) if isinstance(r, Died) else r[0] for r in one_by_one]
        for (key, file), read in zip(task, reads, strict=True):
            found.append(Entry(key, file, read.header, read.reason, read.ids))
        on_progress(len(task))
    return found


def _read_all(files: Sequence[SourceFile]) -> list[Read]:
    with quiet():
        return [read_header(file.path) if file.is_readable else Read(None, Reason.UNREADABLE) for file in files]
