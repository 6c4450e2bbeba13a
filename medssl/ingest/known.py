"""What the pool knows of the files at hand, so that a second run reads only what is new."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import TypeGuard

import polars as pl

from medssl.core.errors import MedsslError, PoolError
from medssl.dicom.deidentify import Pseudonyms
from medssl.dicom.reasons import PASSING, Reason
from medssl.ingest.dicomweb import WebInstance
from medssl.ingest.headers import read_header
from medssl.ingest.sources import SourceFile
from medssl.ingest.tasks import Transform
from medssl.pool.pool import Pool

NamedFile = tuple[str, SourceFile]  # under its source key
MARK_DIGITS, NO_MARK = 15, -1  # what a signed integer of 64 bits holds
NAMED = 50  # files of a kind on the operator's terminal


class Known:
    """The pool's rows by source key, and its volumes by (patient, series).

    Files with one of the reasons ``lifted`` left nothing in the pool under the rules of an earlier run.

    Attributes:
        num_changed: how many known files, of those sorted so far, are in the pool as they were and are not so now.
        changed: the paths of the first of them.
    """

    def __init__(self, pool: Pool, pseudonyms: Pseudonyms, lifted: Collection[Reason] = ()) -> None:
        self._rows, self._volumes, self.pseudonyms = pool.instances, pool.catalog.volumes, pseudonyms
        self._row = {key: row for row, key in enumerate(self._rows["source_key"])}
        reason = self._rows["reason"].set(self._rows["volume"].is_not_null(), None)  # of what left nothing
        self._is_passing = reason.is_in([*PASSING, *lifted]).fill_null(False).to_numpy()
        self._is_in_pool = self._rows["volume"].is_not_null().to_numpy()
        self._mark = self._rows["mark"].fill_null(NO_MARK).to_numpy()
        self.num_changed, self.changed = 0, list[str]()
        self._bytes, self._has_sop = self._rows["bytes"].to_numpy(), self._rows["sop"].is_not_null().to_numpy()

    @cached_property
    def series(self) -> Mapping[tuple[str, str], frozenset[str]]:
        """The volumes of each (patient, series)."""
        names = self._volumes.group_by("patient", "series").agg("volume")
        return {(patient, series): frozenset(volumes) for patient, series, volumes in names.iter_rows()}

    @cached_property
    def volumes(self) -> Mapping[str, str | None]:
        """The volume that each known file went into."""
        return dict(self._rows.select("source_key", "volume").iter_rows())

    def num_bytes(self, relative: str) -> int | None:
        """Return the size of a file that the pool knows under this name, else None."""
        row = self._row.get(self.pseudonyms.source(relative))
        return None if row is None else int(self._bytes[row])

    def sort(self, files: Iterable[SourceFile]) -> Iterator[tuple[bool, str, SourceFile]]:
        """Yield each file with its source key, and whether it is new.

        A file whose size changed since, such as one that was repaired, is new, under a key of path and size; so is an
        image that a table names now and did not before. New as well, under the key that it has, is one that could not
        be read, or not without a package that was not there, or that the rules of this run allow and others did not;
        so is what left nothing in the pool and has another mark now. What is in the pool stays as it is; such files
        that changed are counted.

        Raises:
            MedsslError: the pool knows other files under these names; after the last of them.
        """
        folders: dict[PurePosixPath, NamedFile] = {}
        for file in files:
            key, row = self._find(file)
            if row is None:
                yield True, key, file
                continue
            if self._is_in_pool[row] and self._has_changed(row, key, file):
                self.num_changed += 1
                self.changed += [file.relative] if self.num_changed <= NAMED else []
            if self._has_sop[row] and file.is_readable and not isinstance(file.place, WebInstance):  # named by its UIDs
                folders.setdefault(PurePosixPath(file.relative).parent, (key, file))
            yield False, key, file
        self._expect_same(list(folders.values()))

    def _find(self, file: SourceFile) -> tuple[str, int | None]:
        """Return the source key of a file, and its row unless another look could find more."""
        key = self.pseudonyms.source(file.relative)
        row = self._row.get(key)
        is_seen = file.reason is not Reason.LINK_OUTSIDE  # else the row tells what an earlier run saw there
        if is_seen and self._is_settled(row) and self._bytes[row] != file.num_bytes:
            key = self.pseudonyms.key.hmac("source", file.relative, str(file.num_bytes))
            row = self._row.get(key)
        if self._is_settled(row) and file.about is not None and not self._has_sop[row]:
            key = self.pseudonyms.key.hmac("source", file.relative, "image")
            row = self._row.get(key)
        is_as_found = self._is_settled(row) and (self._is_in_pool[row] or not self._has_changed(row, key, file))
        return key, row if is_as_found else None

    def _is_settled(self, row: int | None) -> TypeGuard[int]:
        """Say whether the pool has a row of a file, and nothing around the file says that it could be another one."""
        return row is not None and not self._is_passing[row]

    def _has_changed(self, row: int, key: str, file: SourceFile) -> bool:
        """Say whether a file of the same size has another mark than it had; never where one of them is not known."""
        mark = mark_of(key, file, self.pseudonyms)
        return mark is not None and self._mark[row] not in (NO_MARK, mark)

    def _expect_same(self, files: list[NamedFile]) -> None:
        """Look into one known file a folder: two exports often use the same names for other images."""
        asked = self._rows.filter(pl.col("source_key").is_in([key for key, _ in files]))
        sops = dict(asked.select("source_key", "sop").iter_rows())
        found = ((key, read_header(file)[2]) for key, file in files)
        num = sum(ids is None or self.pseudonyms.uid("sop", ids.sop_uid) != sops[key] for key, ids in found)
        if num:
            raise MedsslError(
                f"{num} of {len(files)} folders hold other files under names that this pool knows; give the folder "
                "above as the source, or rename the source folder, so that their names differ"
            )


def mark_of(key: str, file: SourceFile, pseudonyms: Pseudonyms) -> int | None:
    """Return a number that changes when a file changes, and says nothing else; None where nothing would show that."""
    if not file.own_mark:
        return None
    return int(pseudonyms.key.hmac("mark", key, file.own_mark)[:MARK_DIGITS], 16)


def expect_transform(pool: Pool, transform: Transform | None) -> None:
    """Keep a pool of prepared volumes to one preparation, and free of volumes that are not prepared.

    Raises:
        PoolError: another one than before, or one where there was none, or none where there was one.
    """
    made, asked = pool.manifest.settings.prepare, transform.settings if transform is not None else None
    if made == asked:
        return
    if made is None or asked is None:
        wrong = "prepared volumes only; give --prepare STUDY.yaml as before" if made else "volumes as they came"
        raise PoolError(f"{pool.path}: holds {wrong}{'' if made else '; leave --prepare out, or make another pool'}")
    changed = "; ".join(f"{k} {made.get(k)!r}, not {asked.get(k)!r}" for k in asked if made.get(k) != asked[k])
    raise PoolError(f"{pool.path}: holds volumes prepared with {changed}; use that study, or make another pool")
