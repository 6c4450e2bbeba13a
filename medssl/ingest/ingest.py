"""Ingest: walk, index, build, settle, commit; a pool is extended by all of it or by nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import polars as pl

from medssl.core.errors import MedsslError, PoolError
from medssl.core.types import Outcome
from medssl.dicom.deidentify import Pseudonyms
from medssl.dicom.vocabulary import MODALITIES
from medssl.ingest import linkage as linkage_file
from medssl.ingest.building import build_all
from medssl.ingest.cases import with_cases
from medssl.ingest.executors import Workers
from medssl.ingest.index import Entry, index
from medssl.ingest.known import Known, NamedFile
from medssl.ingest.labels import LabelFile, Resolved
from medssl.ingest.naming import expect_anonymous, names_of
from medssl.ingest.planning import tasks, units
from medssl.ingest.report import IngestReport, QuarantinedFile
from medssl.ingest.settling import settle
from medssl.ingest.sources import walk
from medssl.ingest.tasks import Built, Fate, Transform
from medssl.pool.catalog import INSTANCES, VOLUMES
from medssl.pool.info import OutcomeCount
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.pool.shards import shard_path

NO_IMAGES = (Outcome.NON_IMAGE, Outcome.LABEL)
LABEL_SOURCE = "ingest"  # also the annotator: who drew the labels of a CSV is not known


class Progress(Protocol):
    """Hears how far a stage ("headers", "volumes") has come, in files."""

    def __call__(self, stage: str, done: int, total: int) -> object: ...


def ingest(
    sources: Sequence[Path],
    pool: Pool,
    key: Key,
    *,
    labels: LabelFile | None = None,
    workers: int = 1,
    linkage: Path | None = None,
    progress: Progress | None = None,
    modality: str | None = None,
    transform: Transform | None = None,
) -> IngestReport:
    """Add everything below ``sources`` that ``pool`` does not know yet.

    NIfTI files are of ``modality``, else of what their ``dataset.json`` says, else MR. With ``transform`` the pool
    holds what that makes of the volumes, and never the volumes themselves.

    Every file gets one row with an outcome and a reason. The result does not depend on ``workers``. Killed at any
    point the pool is as before; running again does the rest. With ``workers`` > 1 the calling script must be importable
    (``if __name__ == "__main__"``).

    Raises:
        MedsslError: no files, no image among them, an unknown modality, or nowhere to write.
        PoolError: another key or transform, or another process is writing.
        LabelError: labels with unknown, ambiguous or conflicting ids; nothing was added.
    """
    _expect_transform(pool, transform)
    if modality is not None and modality not in MODALITIES:
        raise MedsslError(f"modality {modality!r}: expected one of {', '.join(sorted(MODALITIES))}")
    with pool.writing():
        _discard_shards(pool)  # of a run that was killed
        try:
            with Workers(workers) as processes:
                run = _Run(pool, key, processes, progress or _silent, modality, transform)
                return run.ingest(sources, labels, linkage)
        finally:
            _discard_shards(pool)


def _discard_shards(pool: Pool) -> None:
    """Remove the shards that no volume of the pool is in, half written ones of an orphaned worker too."""
    used = {shard_path(pool.shards, shard) for shard in pool.catalog.volumes["shard"].unique()}
    for path in [*pool.shards.glob("*.tar"), *pool.shards.glob(".*.tar.*.partial")]:
        if path not in used:
            path.unlink(missing_ok=True)


def _expect_transform(pool: Pool, transform: Transform | None) -> None:
    """Keep a pool of prepared volumes to one preparation, and free of volumes that are not prepared."""
    made, asked = pool.manifest.settings.prepare, transform.settings if transform is not None else None
    if made == asked:
        return
    if made is None or asked is None:
        wrong = "prepared volumes only; give --prepare STUDY.yaml as before" if made else "volumes as they came"
        raise PoolError(f"{pool.path}: holds {wrong}{'' if made else '; leave --prepare out, or make another pool'}")
    changed = "; ".join(f"{k} {made.get(k)!r}, not {asked.get(k)!r}" for k in asked if made.get(k) != asked[k])
    raise PoolError(f"{pool.path}: holds volumes prepared with {changed}; use that study, or make another pool")


def _silent(stage: str, done: int, total: int) -> None:
    pass


class _Run:
    """One run of ingest, with what the pool knew before it."""

    def __init__(
        self,
        pool: Pool,
        key: Key,
        workers: Workers,
        progress: Progress,
        modality: str | None,
        transform: Transform | None,
    ) -> None:
        pool.role_of("", key)  # refuses another key before any work
        self.pool, self.key, self.workers, self.progress = pool, key, workers, progress
        self.modality, self.transform = modality, transform
        self.pseudonyms, self.known, self.start = Pseudonyms(key), Known.of(pool), time.perf_counter()

    def ingest(self, sources: Sequence[Path], labels: LabelFile | None, linkage: Path | None) -> IngestReport:
        """Walk, index, build, settle, commit."""
        if linkage is not None:
            linkage_file.check(linkage, self.pool.path)
        new, old = self.known.sort(with_cases(walk(sources, exclude=self.pool.path)), self.pseudonyms)
        entries = self._index([*new, *old] if labels is not None or linkage is not None else new)
        fresh = entries[: len(new)]
        if not old:
            _expect_images(sources, fresh)
        if labels is not None:
            self._expect_known(labels, entries)
        built = self._build(fresh)
        volumes = {**self.known.volumes, **{fate.source_key: fate.volume for fate in built.fates}}
        resolved = None if labels is None else self._resolve(labels, entries, built, volumes)
        table = None if resolved is None else resolved.table(self.pool, LABEL_SOURCE, LABEL_SOURCE)
        if linkage is not None:
            linkage_file.write(linkage, entries, volumes, self.pseudonyms)
        if fresh:
            self.pool.append(self._volumes(built), self._instances(fresh, built))
        num_labels = 0 if table is None else self.pool.add_labels(table)
        report = _report(fresh, built, len(old), time.perf_counter() - self.start)
        return replace(report, num_labels=num_labels, num_labels_not_stored=resolved.num_not_stored if resolved else 0)

    def _index(self, files: Sequence[NamedFile]) -> list[Entry]:
        return index(files, self.workers, self._counter("headers", len(files)), self.modality)

    def _build(self, entries: Sequence[Entry]) -> Built:
        """Build the images; every other file keeps the reason it has."""
        found = units(entries, self.pseudonyms, self.known.series)
        planned = tasks(found, self.pool.shards, self.pool.next_shard(), self.key, self.transform)
        self.pool.shards.mkdir(parents=True, exist_ok=True)
        count = self._counter("volumes", sum(len(unit.items) for unit in found))
        built = []
        for part in build_all(planned, self.workers):
            built.append(part)
            count(len(part.fates))
        others = (Fate(e.source_key, e.reason.outcome, e.reason) for e in entries if e.reason is not None)
        return settle([*built, Built((), tuple(others))], self._sops(entries), self.pool)

    def _expect_known(self, labels: LabelFile, entries: Sequence[Entry]) -> None:
        """Find unknown ids before the long part."""
        expect_anonymous(labels, entries)
        names = names_of(labels, entries, {}, frozenset(), self.pseudonyms)
        labels.resolve(names.names, names.seen)

    def _resolve(
        self, labels: LabelFile, entries: Sequence[Entry], built: Built, volumes: Mapping[str, str | None]
    ) -> Resolved:
        stored = {*self.pool.catalog.volumes[labels.level], *(getattr(row, labels.level) for row in built.volumes)}
        names = names_of(labels, entries, volumes, frozenset(stored), self.pseudonyms)
        return labels.resolve(names.names, names.seen)

    def _volumes(self, built: Built) -> pl.DataFrame:
        rows = [asdict(row) | {"role": str(self.pool.role_of(row.patient, self.key))} for row in built.volumes]
        return pl.DataFrame(rows, schema=VOLUMES)

    def _instances(self, entries: Sequence[Entry], built: Built) -> pl.DataFrame:
        """Return the rows in the order of their keys, which tells nothing of the order of the paths."""
        sops, fates = self._sops(entries), {fate.source_key: fate for fate in built.fates}
        rows = [asdict(fates[e.source_key]) | {"bytes": e.file.num_bytes, "sop": sops[e.source_key]} for e in entries]
        return pl.DataFrame(sorted(rows, key=lambda row: row["source_key"]), schema=INSTANCES)

    def _sops(self, entries: Sequence[Entry]) -> dict[str, str | None]:
        return {
            e.source_key: self.pseudonyms.uid("sop", e.ids.sop_uid) if e.ids and e.ids.sop_uid else None
            for e in entries
        }

    def _counter(self, stage: str, total: int) -> Callable[[int], None]:
        done = 0

        def count(num: int) -> None:
            nonlocal done
            done += num
            self.progress(stage, done, total)

        return count


def _expect_images(sources: Sequence[Path], entries: Sequence[Entry]) -> None:
    if not any(e.header or (e.ids and e.reason and e.reason.outcome not in NO_IMAGES) for e in entries):
        counts = Counter(str(e.reason) for e in entries)
        found = ", ".join(f"{num} {reason}" for reason, num in sorted(counts.items()))
        where = ", ".join(map(str, sources))
        raise MedsslError(
            f"no image among {len(entries)} files below {where} ({found}); "
            "expected radiographs, CT or MR as DICOM or NIfTI"
        )


def _report(entries: Sequence[Entry], built: Built, num_known: int, seconds: float) -> IngestReport:
    fates = {fate.source_key: fate for fate in built.fates}
    counts = Counter((fate.outcome, fate.reason) for fate in built.fates)
    quarantined = [
        QuarantinedFile(e.file.relative, str(fates[e.source_key].reason))
        for e in entries
        if fates[e.source_key].outcome is Outcome.QUARANTINED
    ]
    return IngestReport(
        outcomes=tuple(
            OutcomeCount(*key, num) for key, num in sorted(counts.items(), key=lambda c: (c[0][0], c[0][1] or ""))
        ),
        quarantined=tuple(quarantined),
        num_files=len(entries),
        num_known=num_known,
        num_volumes=len(built.volumes),
        num_studies=len({row.study for row in built.volumes}),
        num_patients=len({row.patient for row in built.volumes}),
        num_labels=0,
        num_labels_not_stored=0,
        num_bytes=sum(e.file.num_bytes for e in entries),
        seconds=seconds,
    )
