"""``medssl review``: the runs of a study side by side, MLflow brought up to date, the report."""

from __future__ import annotations

from pathlib import Path

from rich.console import RenderableType

from medssl.core.errors import StudyError
from medssl.review.page import report
from medssl.review.tables import runs_table
from medssl.study import Study
from medssl.tracking.records import RunRecord, read_runs
from medssl.verbs.context import sink
from medssl.verbs.result import Result


def review(study: Study, *, html: Path | None = None) -> Result:
    """List the runs; push to MLflow what it has not seen; write the report where asked."""
    if html is not None and html.is_dir():
        raise StudyError(f"--html {html}: a folder, expected a file such as report.html")
    records = runs_of(study)
    follower = sink(study)
    synced = follower.sync_all()
    tracked = f"MLflow: {follower.where}" if synced else f"MLflow at {follower.where} is behind: {follower.failure}"
    shown: list[RenderableType] = [runs_table(records), tracked]
    if html is not None:
        shown.append(f"report: {report(records, html, study.name)}")
    facts = {
        "runs": [
            {"id": r.id, "kind": r.kind, "status": r.status, "scores": {k: vars(s) for k, s in r.scores.items()}}
            for r in records
        ],
        "mlflow": {"uri": follower.where, "synced": synced},
        "report": None if html is None else str(html),
    }
    return Result(facts, tuple(shown))


def runs_of(study: Study) -> list[RunRecord]:
    """Return the runs of this study, and what was ingested into its workspace."""
    return [r for r in read_runs(study.workspace) if r.study == study.name or r.kind == "ingest"]
