"""``medssl predict``: class probabilities for new scans, prepared exactly as the model's own were."""

from __future__ import annotations

import csv
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.text import Text

from medssl.core.errors import PoolError
from medssl.core.files import atomic
from medssl.data.prepare import PrepareConfig, prepare
from medssl.engine.distributed import device_for
from medssl.finetune.classify import Classifier, load_classifier
from medssl.ingest.ingest import ingest
from medssl.pool.catalog import whole
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.tracking.journal import Journal
from medssl.verbs.ingest import name_quarantined
from medssl.verbs.result import OK, QUARANTINED, Result


def predict(model: Path, inputs: Sequence[Path], *, out: Path = Path("predictions.csv"), workers: int = 1) -> Result:
    """Write one row a volume: ids and a probability for each class.

    A pool gives pseudonyms; DICOM files are read into a temporary pool and give their own study and SOP UIDs, since
    whoever names the files may see them.

    Raises:
        EncoderError: no fine-tuned model there.
        PoolError: nothing to predict on.
    """
    classifier, about = load_classifier(model)
    if len(inputs) == 1 and (inputs[0] / "pool.json").is_file():
        made = _predicted(classifier, about, Pool.open(inputs[0]), None)
        num_quarantined = 0
    else:
        made, num_quarantined = _from_files(classifier, about, inputs, workers)
    _write(out, made.rows)
    if model.resolve().parent.name == "runs":
        _journal(model, about, made, num_quarantined)
    said: list[str | Text] = [f"{len(made.rows)} volumes predicted by {about['run']} for task {about['task']}: {out}"]
    if num_quarantined:
        said.append(Text(f"{num_quarantined} files were quarantined (named above) and have no row", style="yellow"))
    if made.num_left_out:
        said.append(Text(f"{made.num_left_out} volumes are not of the shape that the model sees", style="yellow"))
    said.append("research use only: no output of this is a diagnosis")
    facts = {"rows": len(made.rows), "out": str(out), "quarantined": num_quarantined, "left_out": made.num_left_out}
    return Result(facts, tuple(said), QUARANTINED if num_quarantined else OK)


@dataclass(frozen=True)
class Predicted:
    """One row a volume, and how many volumes the model cannot see (3D ones for a 2D model)."""

    rows: list[dict[str, Any]]
    num_left_out: int


def _from_files(
    model: Classifier, about: Mapping[str, Any], inputs: Sequence[Path], workers: int
) -> tuple[Predicted, int]:
    with tempfile.TemporaryDirectory() as scratch:
        key = Key(secrets.token_bytes(32))
        pool = Pool.create(Path(scratch) / "pool", key)
        linkage = Path(scratch) / "linkage.csv"
        report = ingest(inputs, pool, key, workers=workers, linkage=linkage)
        name_quarantined(report)
        if not report.num_volumes:
            raise PoolError(f"none of {report.num_files} input files holds an image to predict on; nothing was written")
        with linkage.open(newline="", encoding="utf-8") as handle:
            original = {row["volume"]: row for row in csv.DictReader(handle) if row["volume"]}
        return _predicted(model, about, pool, original), len(report.quarantined)


def _predicted(
    model: Classifier, about: Mapping[str, Any], pool: Pool, original: Mapping[str, Mapping[str, str]] | None
) -> Predicted:
    data = prepare(pool, PrepareConfig.parse(about["prepare"], "model.json"))
    probabilities = model.probabilities(data, device_for())
    named = data.catalog.volumes.select(whole(), "study").with_columns(pl.Series("scores", probabilities))
    volumes = named.group_by("volume", "study", maintain_order=True).agg("scores")
    rows = []
    for volume, study, each in volumes.iter_rows():
        scores = np.mean(each, axis=0)  # over its time points
        if original is None:
            ids = {"study": study, "volume": volume}
        else:
            found = original[volume]
            ids = {"study_uid": found["study_uid"], "sop_uid": found["sop_uid"]}
        rows.append(
            ids | {name: f"{p:.6f}" for name, p in zip(model.classes, scores, strict=True)} | {"model": about["run"]}
        )
    return Predicted(rows, len(pool.catalog) - len(rows))


def _journal(model: Path, about: Mapping[str, Any], made: Predicted, num_quarantined: int) -> None:
    """Record the prediction beside the run of its model; `medssl review` pushes it to MLflow."""
    workspace, parents = model.resolve().parent.parent, {"finetune": about["run"]}
    with Journal.start(workspace, "predict", about["study"], {"task": about["task"]}, parents=parents) as journal:
        journal.finish(
            summary={"volumes": len(made.rows), "left_out": made.num_left_out, "quarantined": num_quarantined}
        )


def _write(out: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    with atomic(out) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows(rows)
