"""What the run folder of a fine-tuned model says: its scores beside what needs no fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medssl.review.findings import Measured, described, latest_of, measured_of
from medssl.review.grids import Cell, Grid, Row, by_system
from medssl.review.words import name, sentence, system_name
from medssl.tracking.records import RunRecord

MODEL = "model"
BETTER = "Fine-tuned model better by"


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model on one task by role, and on test patients its baselines; what was not measured is empty."""

    run: RunRecord
    task: str
    measured: tuple[Measured, ...]
    differences: tuple[Measured, ...]
    systems: Grid
    metrics: Grid


def finetunings(records: Sequence[RunRecord]) -> list[Finetuned]:
    """Return the latest fine-tuned model of each task."""
    found = [finetuned(run, data) for run, data in described(records, "finetune", "finetune.json")]
    return latest_of(found, lambda tuned: tuned.task)


def finetuned(run: RunRecord, data: Mapping[str, Any]) -> Finetuned:
    """Return what ``data`` (``finetune.json``) says."""
    measured = tuple(measured_of({MODEL: data.get("scores"), **(data.get("baselines") or {})}, run))
    differences = tuple(measured_of({"difference": data.get("differences")}, run))
    metrics = by_system(data.get("metrics") or {}, "Every metric of this kind of task, on test patients.")
    return Finetuned(run, str(data.get("task") or ""), measured, differences, _systems(measured, differences), metrics)


def _systems(measured: Sequence[Measured], differences: Sequence[Measured]) -> Grid:
    """Return a row a system; the difference stands beside what it is taken to."""
    left = {found.name: found.score for found in differences}
    rows = [
        Row(
            f"{sentence(system_name(found.system))}, {name(found.name)}",
            (Cell(found.score), Cell(left.get(found.system))),
            found.system == MODEL,
        )
        for found in measured
    ]
    metrics = dict.fromkeys(name(found.score.metric) for found in measured)
    caption = (
        "Measured on patients that no training has seen. Baselines learnt from the same labels; differences are by one "
        "paired bootstrap on the same test patients."
    )
    return Grid(caption, (sentence(" or ".join(metrics)), BETTER), tuple(rows))
