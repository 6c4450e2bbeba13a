"""``medssl ingest``: DICOM into a pool, every file accounted for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from medssl.core.errors import MedsslError
from medssl.core.files import write_json
from medssl.core.live import Tally, file_table
from medssl.core.progress import stderr
from medssl.data.prepare_config import PrepareConfig
from medssl.ingest.cluster import Cluster
from medssl.ingest.executors import Executor, Workers
from medssl.ingest.images import ImageTable
from medssl.ingest.ingest import ingest as fill
from medssl.ingest.known import NAMED
from medssl.ingest.labels import LabelFile
from medssl.ingest.report import IngestReport, check_list, write_list
from medssl.ingest.rules import Rules
from medssl.ingest.work import Work
from medssl.pool.key import Key
from medssl.pool.pool import Pool, PoolInfo
from medssl.tracking.journal import Journal
from medssl.verbs.pool import tables
from medssl.verbs.result import OK, QUARANTINED, Result


def ingest(
    sources: Sequence[Path | str],
    pool_folder: Path,
    *,
    labels: Path | None = None,
    tasks: Sequence[str] = (),
    workers: int = 1,
    key_file: Path | None = None,
    linkage: Path | None = None,
    workspace: Path = Path("workspace"),
    modality: str | None = None,
    prepare: PrepareConfig | None = None,
    scheduler: str | None = None,
    fresh: bool = False,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    quarantine_list: Path | None = None,
    images: Path | None = None,
) -> Result:
    """Extend a pool, or make one; exit code 3 where files were quarantined.

    With ``prepare`` the pool holds prepared volumes only. The quarantined files are named on stderr, and in
    ``quarantine_list``: a path may identify a patient, so it is in no result and no run. A run that was stopped goes on
    where it was unless it is to start ``fresh``; ``scheduler`` is the address of a Dask cluster that does the work.
    ``images`` is a table of raster images, see ``medssl.ingest.images``.
    """
    if quarantine_list is not None:
        check_list(quarantine_list, pool_folder)
    key = Key.load(key_file)
    label_file = LabelFile.read(labels, tasks) if labels else None
    image_table = ImageTable.read(images) if images else None
    is_new = not (pool_folder / "pool.json").exists()
    transform = None
    if prepare is not None:
        from medssl.data.prepare import Preparer  # torch, which plain ingestion does without

        transform = Preparer(prepare)
    if is_new:
        pool = Pool.create(pool_folder, key, prepare=transform.settings if transform is not None else None)
    else:
        pool = Pool.open(pool_folder, key)
    settings: dict[str, Any] = {
        "sources": len(sources),
        "workers": workers if scheduler is None else "dask",
        "labels": labels is not None,
        "images": images is not None,
        "modality": modality,
        "prepare": prepare.data() if prepare is not None else None,
        "rules": asdict(rules),
    }
    work, tally = Work.beside(pool_folder), Tally()
    if work.folder.exists() and not fresh:
        stderr.print(f"going on with what lies in {work.folder}; --fresh starts anew", highlight=False, soft_wrap=True)
    with (
        _told(work, is_new, pool_folder, workspace, settings),
        _executor(workers, scheduler, pool_folder) as executor,
        file_table(f"ingest → {pool_folder.name}", tally) as progress,
    ):
        report = fill(
            sources,
            pool,
            key,
            labels=label_file,
            workers=executor,
            linkage=linkage,
            progress=progress,
            tally=tally,
            modality=modality,
            transform=transform,
            rules=rules,
            fresh=fresh,
            images=image_table,
            tell=partial(stderr.print, style="yellow", highlight=False, markup=False, soft_wrap=True),
        )
    pool = Pool.open(pool_folder)
    counted = pool.info()
    facts = summary(pool, counted)
    run = _journalled(workspace, pool, settings, counted, facts, report)
    name_quarantined(report)
    name_changed(report)
    if quarantine_list is not None:
        write_list(quarantine_list, report.quarantined)
    made = ("made a key for this site in ~/.config/medssl/key: keep it, it belongs to the pool",) if key.created else ()
    next_step = "next: medssl pretrain STUDY.yaml"
    code = QUARANTINED if report.quarantined else OK
    return Result(
        {"run": run, "changed": report.num_changed, **facts}, (*tables(counted), *made, _said(report), next_step), code
    )


def _journalled(
    workspace: Path,
    pool: Pool,
    settings: Mapping[str, Any],
    counted: PoolInfo,
    facts: Mapping[str, object],
    report: IngestReport,
) -> str:
    """Journal a finished run and return its id."""
    prints = {"pool.images": counted.fingerprints.images, "pool.labels": counted.fingerprints.labels}
    with Journal.start(workspace, "ingest", pool.path.name, settings, fingerprints=prints) as journal:
        write_json(journal.folder / "pool_info.json", facts)
        journal.artifact(journal.folder / "pool_info.json")
        summed = {"files": counted.files, "volumes": counted.volumes, "changed": report.num_changed}
        journal.finish(summary={**summed, "seconds": report.seconds})
    return journal.id


def name_quarantined(report: IngestReport) -> None:
    """Name the first quarantined files on the operator's terminal, and nowhere else."""
    lines = [f"quarantined ({file.reason}): {file.path}" for file in report.quarantined[:NAMED]]
    if more := len(report.quarantined) - len(lines):
        lines.append(f"quarantined: {more:,} more; `medssl ingest … --quarantine-list FILE` writes down all of them")
    for line in lines:
        stderr.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)


def name_changed(report: IngestReport) -> None:
    """Say how many known files changed and what to do, and name the first of them, on the operator's terminal only."""
    if not report.num_changed:
        return
    lines = [f"changed since: {path}" for path in report.changed]
    lines.append(
        f"{report.num_changed:,} known files changed since they were ingested (same size, another time or checksum); "
        "the pool keeps what it has; where it matters, `medssl pool remove … --patient ID`, then ingest again"
    )
    for line in lines:
        stderr.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)


@contextmanager
def _told(work: Work, is_new: bool, pool: Path, workspace: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Journal a run that ends early, if it leaves something to go on with; else leave nothing behind of a new pool."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, MedsslError) or work.folder.exists():
            with Journal.start(workspace, "ingest", pool.name, settings) as journal:
                journal.quotes = False  # a source is named by its folder, which may be named after a patient
                raise
        if is_new and not Pool.open(pool).instances.height:
            shutil.rmtree(pool)
        raise


@contextmanager
def _executor(workers: int, scheduler: str | None, pool: Path) -> Iterator[Executor]:
    with Workers(workers, guarded=True) if scheduler is None else Cluster(scheduler, pool) as found:
        yield found


def summary(pool: Pool, counted: PoolInfo) -> dict[str, object]:
    """Return what a pool holds as plain JSON: counts by role and modality, outcomes, labels, fingerprints."""
    volumes = pool.catalog.volumes
    people, studies = pl.col("patient").n_unique(), pl.col("study").n_unique()
    by_role = volumes.group_by("role").agg(
        people.alias("patients"), studies.alias("studies"), pl.len().alias("volumes")
    )
    modalities = volumes.group_by(pl.col("modality").fill_null("unknown")).len().sort("modality")
    return {
        **{what: dict(by_role.select("role", what).sort("role").iter_rows()) for what in by_role.columns[1:]},
        "modalities": dict(modalities.iter_rows()),
        "outcomes": [{"outcome": o.outcome, "reason": o.reason, "count": o.files} for o in counted.outcomes],
        "labels": [asdict(label) for label in counted.labels],
        "files": counted.files,
        "fingerprint": counted.fingerprints.images,
        "prepare": pool.manifest.settings.prepare,
    }


def _said(report: IngestReport) -> str:
    speed = report.num_files / max(report.seconds, 1e-9)
    known = f", {report.num_known} known before" if report.num_known else ""
    known += f" ({report.num_changed} changed since)" if report.num_changed else ""
    num = len(report.quarantined)
    return f"{report.num_files} new files in {report.seconds:.1f} s ({speed:.0f} a second){known}; {num} quarantined"
