"""The HTML report: one file that a browser opens anywhere, made from run folders only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from medssl.core.files import atomic
from medssl.review import curves, evaluated, findings, plots
from medssl.review.evaluated import Evaluated
from medssl.review.finetuned import BETTER, finetunings
from medssl.review.html import environment
from medssl.review.tables import key_figures
from medssl.tracking.records import RunRecord

JOURNEY = ("ingest", "pretrain", "evaluate", "select", "finetune")
VERDICTS = {
    "go": ("Go", "✓", "The pretrained encoder transfers. Build on it."),
    "no_go": ("No go", "✕", "The pretrained encoder does not earn its place. Do not build on it."),
    "undecided": ("Undecided", "?", "The evidence does not settle it yet."),
}
CURVES = {
    "loss": "Loss",
    "lr": "Learning rate",
    "feature_std": "Feature standard deviation (0 = collapsed)",
    "rankme": "RankMe, effective number of feature dimensions",
    "knn": "Nearest neighbours on dev patients, AUROC",
    "probe": "Linear probe on dev patients, AUROC",
    "pretext_accuracy": "Pretext task, share right",
    "teacher_entropy": "Entropy of the teacher's answers",
    "kl": "Student's divergence from the teacher",
    "prototypes_used": "Prototypes in use",
    "gradient_norm": "Gradient norm",
    "images_per_second": "Images a second",
    "data_wait": "Share of time spent waiting for data",
}
WATCHED = ("knn", "probe")  # scores of a training run, whose last values are shown with their intervals
MOST_ROWS = 10


def report(records: Sequence[RunRecord], out: Path, title: str) -> Path:
    """Write the report of ``records`` (oldest first) to ``out``; nothing in it is fetched from outside.

    Links to run folders are relative to ``out``, so that a workspace can be moved with its report.
    """
    html, judged = environment().get_template("report.html.j2"), evaluated.evaluations(records)
    text = html.render(
        title=title,
        generated=datetime.now(UTC),
        records=records,
        by_id={run.id: run for run in records},
        journey=[(kind, next((r for r in reversed(records) if r.kind == kind), None)) for kind in JOURNEY],
        pools=findings.pools(records),
        trainings=findings.trainings(records),
        evaluations=judged,
        contents=_contents(judged),
        worklists=findings.worklists(records),
        finetunings=finetunings(records),
        better=BETTER,
        verdicts=VERDICTS,
        curves=lambda run: Markup(plots.curves(run.metrics, CURVES)),
        curve=lambda found: Markup(curves.svg(found)),
        tables=curves.tables,
        intervals=lambda *rows, **words: Markup(plots.intervals(*rows, **words)),
        link=partial(_link, out.parent),
        key_figures=key_figures,
        most_rows=MOST_ROWS,
        watched=WATCHED,
    )
    with atomic(out) as partial_file:
        partial_file.write_text(text, encoding="utf-8")
    return out


def _contents(judged: Sequence[Evaluated]) -> list[tuple[str, str]]:
    """Return what each evaluation has to show, as places on the page and words; nothing of a short page."""
    parts = [
        (f"transfer-{i}{place}", words, f"{one.task} {one.method}".strip())
        for i, one in enumerate(judged, 1)
        for place, words, there in (
            ("", "Every system", one.measured),
            ("-metrics", "All metrics", one.metrics.rows),
            ("-others", "Other encoders", one.others.rows),
            ("-external", "Other pools", one.external.rows),
            ("-domains", "Distance between pools", one.domains.rows),
            ("-labels", "How many labels", one.curve),
            ("-few", "A handful of labels", one.few_shot.rows),
            ("-structure", "Clusters and nearest images", one.structure.rows),
            ("-subgroups", "Who is served worse", one.subgroups.rows),
            ("-audits", "Audits", one.audits or one.covered.rows),
            ("-pictures", "Pictures", one.pictures),
        )
        if there
    ]
    several = len(judged) > 1
    return (
        [(place, f"{words} ({whose})" if several else words) for place, words, whose in parts] if len(parts) > 2 else []
    )


def _link(start: Path, path: Path) -> str:
    return quote(Path(os.path.relpath(path.resolve(), start.resolve())).as_posix())
