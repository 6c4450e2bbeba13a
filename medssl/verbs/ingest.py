"""``medssl ingest``: DICOM into a pool, every file accounted for."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from medssl.core.errors import MedsslError
from medssl.core.files import write_json
from medssl.core.progress import stages, stderr
from medssl.data.prepare import PrepareConfig, Preparer
from medssl.ingest.ingest import ingest as fill
from medssl.ingest.labels import LabelFile
from medssl.ingest.report import IngestReport
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.tracking.journal import Journal
from medssl.verbs.pool import tables
from medssl.verbs.result import OK, QUARANTINED, Result


def ingest(
    sources: Sequence[Path],
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
) -> Result:
    """Extend a pool, or make one; exit code 3 where files were quarantined.

    With ``prepare`` the pool holds prepared volumes only. The quarantined files are named on stderr only: a path may
    identify a patient, so it is in no result and no run.
    """
    key = Key.load(key_file)
    label_file = LabelFile.read(labels, tasks) if labels else None
    is_new = not (pool_folder / "pool.json").exists()
    transform = Preparer(prepare) if prepare is not None else None
    if is_new:
        pool = Pool.create(pool_folder, key, prepare=transform.settings if transform is not None else None)
    else:
        pool = Pool.open(pool_folder, key)
    try:
        with stages() as progress:
            report = fill(
                sources,
                pool,
                key,
                labels=label_file,
                workers=workers,
                linkage=linkage,
                progress=progress,
                modality=modality,
                transform=transform,
            )
    except MedsslError:
        if is_new and not Pool.open(pool_folder).instances.height:
            shutil.rmtree(pool_folder)  # nothing was ingested: leave nothing behind
        raise
    pool = Pool.open(pool_folder)
    counted = pool.info()
    settings: dict[str, Any] = {
        "sources": len(sources),
        "workers": workers,
        "labels": labels is not None,
        "modality": modality,
    }
    settings["prepare"] = prepare.data() if prepare is not None else None
    prints = {"pool.images": counted.fingerprints.images, "pool.labels": counted.fingerprints.labels}
    with Journal.start(workspace, "ingest", pool_folder.name, settings, fingerprints=prints) as journal:
        write_json(journal.folder / "pool_info.json", summary(pool))
        journal.artifact(journal.folder / "pool_info.json")
        journal.finish(summary={"files": counted.files, "volumes": counted.volumes, "seconds": report.seconds})
    name_quarantined(report)
    made = ("made a key for this site in ~/.config/medssl/key: keep it, it belongs to the pool",) if key.created else ()
    next_step = "next: medssl pretrain STUDY.yaml"
    code = QUARANTINED if report.quarantined else OK
    return Result({"run": journal.id, **summary(pool)}, (*tables(counted), *made, _said(report), next_step), code)


def name_quarantined(report: IngestReport) -> None:
    """Name the quarantined files on the operator's terminal, and nowhere else."""
    for file in report.quarantined:
        stderr.print(f"quarantined ({file.reason}): {file.path}", style="yellow", highlight=False, soft_wrap=True)


def summary(pool: Pool) -> dict[str, object]:
    """Return what a pool holds as plain JSON: counts by role and modality, outcomes, labels, fingerprints."""
    counted, volumes = pool.info(), pool.catalog.volumes
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
    num = len(report.quarantined)
    return f"{report.num_files} new files in {report.seconds:.1f} s ({speed:.0f} a second){known}; {num} quarantined"
