"""Ingest: list, index, build, settle, commit; a pool is extended by all or nothing, and a killed run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import polars as pl

from medssl.core.errors import MedsslError
from medssl.core.live import Tally
from medssl.dicom.deidentify import Pseudonyms
from medssl.dicom.reasons import Reason
from medssl.dicom.vocabulary import MODALITIES
from medssl.ingest import linkage as linkage_file
from medssl.ingest.building import appear, build_all, collected
from medssl.ingest.cases import with_cases
from medssl.ingest.dicomweb import Downloads
from medssl.ingest.executors import Executor, Workers
from medssl.ingest.images import ImageTable
from medssl.ingest.index import Chunk, Entries, Listing, index
from medssl.ingest.known import Known, expect_transform
from medssl.ingest.labels import LabelFile, Resolved
from medssl.ingest.masks import drawn, segmentations
from medssl.ingest.naming import expect_anonymous, names_of
from medssl.ingest.nifti import ABOUT, is_nifti
from medssl.ingest.planning import ROWS, plan, table
from medssl.ingest.raster import with_images
from medssl.ingest.report import IngestReport, expect_images, reported
from medssl.ingest.rules import Rules
from medssl.ingest.settling import settle
from medssl.ingest.sources import SourceFile, said, stream
from medssl.ingest.tasks import Transform
from medssl.ingest.work import Work
from medssl.pool.catalog import INSTANCES, VOLUMES
from medssl.pool.key import Key
from medssl.pool.masks import path_of
from medssl.pool.pool import Pool
from medssl.pool.shards import shard_path

LISTED = 1000  # files between two words about how far the listing is
LABEL_SOURCE = "ingest"  # also the annotator: who drew the labels of a CSV is not known
OUTCOME = {str(reason): str(reason.outcome) for reason in Reason}


class Progress(Protocol):
    """Hears how far a stage (listing, headers, volumes, commit) has come, in files; a total of 0 is not known yet."""

    def __call__(self, stage: str, done: int, total: int, /) -> object: ...


def ingest(
    sources: Sequence[Path | str],
    pool: Pool,
    key: Key,
    *,
    labels: LabelFile | None = None,
    workers: int | Executor = 1,
    linkage: Path | None = None,
    progress: Progress | None = None,
    tally: Tally | None = None,
    modality: str | None = None,
    transform: Transform | None = None,
    rules: Rules | None = None,
    fresh: bool = False,
    images: ImageTable | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> IngestReport:
    """Add everything below ``sources`` that ``pool`` does not know yet.

    NIfTI files are of ``modality``, else of what their ``dataset.json`` says, else MR. With ``transform`` the pool
    holds what that makes of the volumes, and never the volumes themselves.

    Every file gets one row with an outcome and a reason. The result does not depend on ``workers``. Killed at any
    point the pool is as before; what was done by then lies in the folder ``<POOL>.ingest``, from which the next run
    goes on unless it is to start ``fresh``. With more than one worker the calling script must be importable
    (``if __name__ == "__main__"``).

    Args:
        sources: folders, files, archives, addresses; see ``medssl.ingest.sources.stream``.
        pool: what to extend.
        key: of the pool.
        labels: of what is in the sources.
        workers: how many processes, or who runs the tasks.
        linkage: a file, outside the pool, to write pseudonyms beside original identifiers to.
        progress: hears how far it has come.
        tally: is kept up to date with outcomes and bytes.
        modality: see above.
        transform: see above.
        rules: what the operator allows.
        fresh: forget what a killed run has done.
        images: which raster images are to be volumes, and what is known of them.
        tell: gets lines for the operator's terminal; they may hold paths.

    Raises:
        MedsslError: no files, no image among them, an unknown modality, or nowhere to write.
        PoolError: another key or transform, or another process is writing.
        LabelError: labels with unknown, ambiguous or conflicting ids; nothing was added.
    """
    expect_transform(pool, transform)
    if modality is not None and modality not in MODALITIES:
        raise MedsslError(f"modality {modality!r}: expected one of {', '.join(sorted(MODALITIES))}")
    with pool.writing():
        work = Work.beside(pool.path)
        if fresh:
            work.discard()
        work.open(pool.path)
        _discard_shards(pool)  # of a run that was killed while it committed
        try:
            with nullcontext(workers) if not isinstance(workers, int) else Workers(workers) as processes:
                how = How(modality, transform, rules or Rules(), images, tell)
                run = _Run(pool, key, work, processes, progress or _silent, tally or Tally(), how)
                return run.ingest(sources, labels, linkage)
        finally:
            _discard_shards(pool)
            if work.is_empty():
                work.discard()


@dataclass(frozen=True)
class How:
    """What decides what becomes of the files; see ``ingest``."""

    modality: str | None
    transform: Transform | None
    rules: Rules
    images: ImageTable | None
    tell: Callable[[str], object]


def _discard_shards(pool: Pool) -> None:
    """Remove the shards that no volume of the pool is in."""
    used = {shard_path(pool.shards, shard) for shard in pool.catalog.volumes["shard"].unique()}
    for path in pool.shards.glob("*.tar"):
        if path not in used:
            path.unlink(missing_ok=True)


def _silent(stage: str, done: int, total: int) -> None:
    pass


class _Run:
    """One run of ingest, with what the pool knew before it."""

    def __init__(
        self, pool: Pool, key: Key, work: Work, workers: Executor, progress: Progress, tally: Tally, how: How
    ) -> None:
        pool.role_of("", key)  # refuses another key before any work
        self.pool, self.key, self.work, self.workers, self.how = pool, key, work, workers, how
        self.progress, self.tally, self.start = progress, tally, time.perf_counter()
        self.pseudonyms = Pseudonyms(key)
        self.known = Known(pool, self.pseudonyms, how.rules.lifted)

    def ingest(self, sources: Sequence[Path | str], labels: LabelFile | None, linkage: Path | None) -> IngestReport:
        """List, index, build, settle, commit."""
        if linkage is not None:
            linkage_file.check(linkage, self.pool.path)
        asks_all = labels is not None or linkage is not None
        new, old = self._list(sources, asks_all=asks_all)
        self.work.sweep("headers", [chunk.name for chunk in [*new, *old]])
        files = self._index(new, old)
        entries = Entries(self.work, [*new, *old])
        if not self.num_known:
            with self.work.discarded_on_error():
                expect_images(files, said(sources))
        if labels is not None:
            self._expect_known(labels, entries)
        volumes, fates = settle(*self._build(files, new), self.pool)
        asked = segmentations(files, entries)
        with self.work.writing():
            masks, fates = drawn(asked, volumes, fates, self.pool, self.pseudonyms, self.workers, self.work.folder)
        into = {**self.known.volumes, **dict(fates.select("source_key", "volume").iter_rows())} if asks_all else {}
        resolved = None if labels is None else self._resolve(labels, entries, volumes, into)
        given = None if resolved is None else resolved.table(self.pool, LABEL_SOURCE, LABEL_SOURCE)
        report = reported(files, fates, volumes, Entries(self.work, new))
        if linkage is not None:
            linkage_file.write(linkage, entries, into, self.pseudonyms)
        with self.work.writing():  # or the pool's own disk, which is the same
            self._commit(volumes, fates, files, masks)
            num_labels = 0 if given is None else self.pool.add_labels(given)
        self.work.discard()
        return replace(
            report,
            num_known=self.num_known,
            num_changed=self.known.num_changed,
            changed=tuple(self.known.changed),
            num_labels=num_labels,
            num_labels_not_stored=resolved.num_not_stored if resolved else 0,
            seconds=time.perf_counter() - self.start,
        )

    def _list(self, sources: Sequence[Path | str], *, asks_all: bool) -> tuple[list[Chunk], list[Chunk]]:
        """Write down which files there are: the new ones, and the known ones where those are asked for."""
        new, old = Listing(self.work, self.how.modality), Listing(self.work, self.how.modality)
        self.num_known = num = 0
        self.progress("listing", 0, 0)
        with self.work.writing():
            for is_new, key, file in self.known.sort(self._files(sources)):
                if is_new or asks_all:
                    (new if is_new else old).add(key, file)
                self.num_known += not is_new
                num += 1
                if num % LISTED == 0:
                    self.progress("listing", num, 0)
            new.close()
            old.close()
        self.progress("listing", num, num)
        return new.chunks, old.chunks

    def _files(self, sources: Sequence[Path | str]) -> Iterator[SourceFile]:
        """Yield every file; those last that are understood only beside the others of their kind."""
        downloads, table_ = Downloads(self.work.spool, self.known.num_bytes, self.progress), self.how.images
        named = frozenset() if table_ is None else table_.rows.keys()
        held = []
        follow_links = self.how.rules.follow_links
        for file in stream(sources, self.pool.path, downloads, self.how.tell, follow_links=follow_links):
            if is_nifti(file) or file.relative.endswith(f"/{ABOUT}") or file.relative in named or file.below in named:
                held.append(file)
            else:
                yield file
        yield from with_cases(held) if table_ is None else with_images(with_cases(held), table_)

    def _index(self, new: Sequence[Chunk], old: Sequence[Chunk]) -> pl.DataFrame:
        """Read all headers; return a row for every new file (schema ``ROWS``)."""
        tables, done, total = [pl.DataFrame(schema=ROWS)], 0, sum(chunk.num_files for chunk in [*new, *old])
        self.progress("headers", 0, total)
        read = index([*new, *old], self.work, self.workers, self.pseudonyms, self.how.modality)
        for chunk, rows in enumerate(read):
            if chunk < len(new):
                tables.append(table(chunk, rows))
                self.tally.outcomes.update(OUTCOME[row.reason] for row in rows if row.reason is not None)
            done += len(rows)
            self.tally.num_workers = self.workers.num
            self.progress("headers", done, total)
        return pl.concat(tables)

    def _build(self, files: pl.DataFrame, chunks: Sequence[Chunk]) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Build the images; every other file keeps the reason it has."""
        how = self.how
        first = self.pool.next_shard()
        planned = plan(files, chunks, self.known.series, self.work, first, self.key, how.transform, how.rules)
        names = [task.name for task in planned.tasks()]
        self.work.sweep("built", names)
        done, total = 0, planned.images.height
        self.progress("volumes", 0, total)
        for one in build_all(planned.tasks(), self.workers, self.work):
            done += one.num_files
            self.tally.num_workers = self.workers.num
            self.tally.num_bytes += one.num_bytes
            self.tally.outcomes.update(one.outcomes)
            self.progress("volumes", done, total)
        others = files.filter(pl.col("kind").is_null()).select(
            "source_key",
            pl.col("reason").cast(pl.String).replace_strict(OUTCOME, return_dtype=pl.String).alias("outcome"),
            pl.col("reason").cast(pl.String),
            pl.lit(None, pl.String).alias("volume"),
            pl.lit(None, pl.Int32).alias("slice"),
        )
        volumes, fates = collected(names, self.work)
        fates = pl.concat([fates, others])
        self.moves = [(self.work.shards(name), first + i) for i, name in enumerate(names)]
        return volumes, fates.join(files.select("source_key", "sop"), on="source_key", maintain_order="left")

    def _expect_known(self, labels: LabelFile, entries: Entries) -> None:
        """Find unknown ids before the long part."""
        expect_anonymous(labels, entries)
        names = names_of(labels, entries, {}, frozenset(), self.pseudonyms)
        labels.resolve(names.names, names.seen)

    def _resolve(
        self, labels: LabelFile, entries: Entries, volumes: pl.DataFrame, into: Mapping[str, str | None]
    ) -> Resolved:
        stored = {*self.pool.catalog.volumes[labels.level], *volumes[labels.level]}
        names = names_of(labels, entries, into, frozenset(stored), self.pseudonyms)
        return labels.resolve(names.names, names.seen)

    def _commit(self, volumes: pl.DataFrame, fates: pl.DataFrame, files: pl.DataFrame, masks: pl.DataFrame) -> None:
        """Show the shards in the pool, then the rows, ordered by their keys, which tells nothing of the paths."""
        if files.is_empty():
            return
        self.progress("commit", 0, files.height)
        for folder, shard in self.moves:
            if shard_path(folder, shard).exists():
                appear(shard_path(folder, shard), shard_path(self.pool.shards, shard))
        for mask in masks["mask"]:
            appear(path_of(self.work.folder, mask), path_of(self.pool.path, mask))
        patients = {p: str(self.pool.role_of(p, self.key)) for p in volumes["patient"].unique()}
        roles = pl.col("patient").replace_strict(patients, default=None, return_dtype=pl.String)
        of_file = files.select("source_key", "bytes", "mark", "patient")
        instances = fates.join(of_file, on="source_key").sort("source_key")
        if instances.height != files.height:
            raise RuntimeError(f"{instances.height} rows for {files.height} files: this is a bug")
        rows = volumes.with_columns(role=roles).select(list(VOLUMES))
        self.pool.append(rows, instances.select(list(INSTANCES)), masks)
        self.progress("commit", files.height, files.height)
