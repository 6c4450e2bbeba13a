"""``medssl predict``: class probabilities for new scans, prepared exactly as the model's own were."""

from __future__ import annotations

import csv
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.core.files import atomic
from medssl.data.prepare import PrepareConfig, prepare
from medssl.engine.loop import device_for
from medssl.finetune.classify import Classifier, load_classifier
from medssl.ingest.ingest import ingest
from medssl.pool.key import Key
from medssl.pool.pool import Pool
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
        rows = _rows(classifier, about, Pool.open(inputs[0]), None)
        quarantined = 0
    else:
        rows, quarantined = _from_files(classifier, about, inputs, workers)
    _write(out, rows)
    text = f"{len(rows)} volumes predicted by {about['run']} for task {about['task']}: {out} (research use only)"
    warning = (f"[yellow]{quarantined} files could not be used; `medssl ingest` says why[/]",) if quarantined else ()
    facts = {"rows": len(rows), "out": str(out), "quarantined": quarantined}
    return Result(facts, (text, *warning), QUARANTINED if quarantined else OK)


def _from_files(
    model: Classifier, about: Mapping[str, Any], inputs: Sequence[Path], workers: int
) -> tuple[list[dict[str, Any]], int]:
    with tempfile.TemporaryDirectory() as scratch:
        key = Key(secrets.token_bytes(32))
        pool = Pool.create(Path(scratch) / "pool", key)
        linkage = Path(scratch) / "linkage.csv"
        report = ingest(inputs, pool, key, workers=workers, linkage=linkage)
        with linkage.open(newline="", encoding="utf-8") as handle:
            original = {row["volume"]: row for row in csv.DictReader(handle) if row["volume"]}
        return _rows(model, about, pool, original), len(report.quarantined)


def _rows(
    model: Classifier, about: Mapping[str, Any], pool: Pool, original: Mapping[str, Mapping[str, str]] | None
) -> list[dict[str, Any]]:
    data = prepare(pool, PrepareConfig.parse(about["prepare"], "model.json"))
    probabilities = model.probabilities(data, device_for())
    rows = []
    for volume, scores in zip(data.catalog.volumes.iter_rows(named=True), probabilities, strict=True):
        if original is None:
            ids = {"study": volume["study"], "volume": volume["volume"]}
        else:
            found = original[volume["volume"]]
            ids = {"study_uid": found["study_uid"], "sop_uid": found["sop_uid"]}
        rows.append(
            ids | {name: f"{p:.6f}" for name, p in zip(model.classes, scores, strict=True)} | {"model": about["run"]}
        )
    return rows


def _write(out: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    with atomic(out) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows(rows)
