"""``medssl ingest``: DICOM into a pool, every file accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from medssl.core.files import write_json
from medssl.core.progress import stderr
from medssl.ingest.ingest import ingest as fill
from medssl.ingest.labels import LabelFile
from medssl.ingest.report import IngestReport
from medssl.pool.key import Key
from medssl.pool.pool import Pool, PoolInfo
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
) -> Result:
    """Extend a pool, or make one; exit code 3 where files were quarantined.

    The quarantined files are named on stderr only: a path may identify a patient, so it is in no result and no run.
    """
    key = Key.load(key_file)
    label_file = LabelFile.read(labels, tasks) if labels else None
    is_new = not (pool_folder / "pool.json").exists()
    pool = Pool.create(pool_folder, key) if is_new else Pool.open(pool_folder, key)
    report = fill(sources, pool, key, labels=label_file, workers=workers, linkage=linkage)
    pool = Pool.open(pool_folder)
    counted = pool.info()
    settings = {"sources": len(sources), "workers": workers, "labels": labels is not None}
    prints = {"pool.images": counted.fingerprints.images, "pool.labels": counted.fingerprints.labels}
    with Journal.start(workspace, "ingest", pool_folder.name, settings, fingerprints=prints) as journal:
        write_json(journal.folder / "pool_info.json", summary(counted))
        journal.artifact(journal.folder / "pool_info.json")
        journal.finish(summary={"files": counted.files, "volumes": counted.volumes, "seconds": report.seconds})
    for file in report.quarantined:
        stderr.print(f"quarantined ({file.reason}): {file.path}", style="yellow", highlight=False, soft_wrap=True)
    made = ("made a key for this site in ~/.config/medssl/key: keep it, it belongs to the pool",) if key.created else ()
    next_step = "next: medssl pretrain STUDY.yaml"
    code = QUARANTINED if report.quarantined else OK
    return Result({"run": journal.id, **summary(counted)}, (*tables(counted), *made, _said(report), next_step), code)


def summary(counted: PoolInfo) -> dict[str, object]:
    """Return what a pool holds as plain JSON: counts by role and modality, outcomes, labels, fingerprints."""
    by_role: dict[str, dict[str, int]] = {"patients": {}, "studies": {}, "volumes": {}}
    modalities: dict[str, int] = {}
    for amount in counted.amounts:
        for what, counts in by_role.items():
            counts[amount.role] = counts.get(amount.role, 0) + getattr(amount, what)
        name = amount.modality or "unknown"
        modalities[name] = modalities.get(name, 0) + amount.volumes
    outcomes = [{"outcome": o.outcome, "reason": o.reason, "count": o.files} for o in counted.outcomes]
    labels = [asdict(label) for label in counted.labels]
    rest = {"modalities": modalities, "outcomes": outcomes, "labels": labels, "files": counted.files}
    return {**by_role, **rest, "fingerprint": counted.fingerprints.images}


def _said(report: IngestReport) -> str:
    speed = report.num_files / max(report.seconds, 1e-9)
    known = f", {report.num_known} known before" if report.num_known else ""
    num = len(report.quarantined)
    return f"{report.num_files} new files in {report.seconds:.1f} s ({speed:.0f} a second){known}; {num} quarantined"
