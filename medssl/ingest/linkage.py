"""The linkage file: pseudonyms beside original identifiers, outside the pool, for the operator's eyes only."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from medssl.core.errors import MedsslError
from medssl.core.files import atomic
from medssl.dicom.deidentify import Pseudonyms
from medssl.ingest.index import Entry

COLUMNS = [
    "source_key",
    "volume",
    "patient",
    "study",
    "series",
    "sop",
    "patient_id",
    "study_uid",
    "series_uid",
    "sop_uid",
    "path",
]


def check(path: Path, pool: Path) -> None:
    """Refuse a linkage file that would lie inside the pool.

    Raises:
        MedsslError: it would, or there is something else already.
    """
    if path.resolve().is_relative_to(pool.resolve()):
        raise MedsslError(f"{path}: a linkage file inside the pool would undo its pseudonyms; name a path outside")
    if path.exists() and (not path.is_file() or _header(path) != COLUMNS):
        raise MedsslError(f"{path}: not a linkage file of medssl; name a new file")


def write(path: Path, entries: Iterable[Entry], volumes: Mapping[str, str | None], pseudonyms: Pseudonyms) -> None:
    """Put ``entries`` into the linkage file (mode 0600), one at a time; rows of other files stay.

    Raises:
        MedsslError: it cannot be written.
    """
    written: set[str] = set()
    try:
        with atomic(path) as partial:
            handle = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                table = csv.writer(file, lineterminator="\n")
                table.writerow(COLUMNS)
                for entry in entries:
                    table.writerow(_row(entry, volumes.get(entry.source_key), pseudonyms))
                    written.add(entry.source_key)
                table.writerows(row for row in _rows(path) if row[0] not in written)
    except OSError as error:
        raise MedsslError(f"{path}: cannot write the linkage file ({error.strerror}); name another path") from None


def _row(entry: Entry, volume: str | None, pseudonyms: Pseudonyms) -> list[str]:
    ids, path = entry.ids, str(entry.file.place)
    if ids is None:
        return [entry.source_key, *[""] * (len(COLUMNS) - 2), path]
    patient = pseudonyms.patient(ids.patient_id, ids.issuer, ids.study_uid)
    uids = [ids.study_uid, ids.series_uid, ids.sop_uid]
    names = [
        pseudonyms.uid(level, uid) if uid else "" for level, uid in zip(("study", "series", "sop"), uids, strict=True)
    ]
    return [entry.source_key, volume or "", patient, *names, ids.patient_id, *uids, path]


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return next(csv.reader(file), [])


def _rows(path: Path) -> Iterator[list[str]]:
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            yield from (row for row in islice(csv.reader(file), 1, None) if len(row) == len(COLUMNS))
