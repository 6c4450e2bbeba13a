"""The demo works in small, and nothing that it leaves for others to see names a patient."""

import csv
import gzip
import io
import json
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path

import blosc2
import numpy as np
import polars as pl
import pytest

from medssl.verbs.demo import demo

SMALL = [
    "loop.epochs=1", "encoder.width=32", "encoder.depth=1", "encoder.heads=2", "method.decoder_depth=1",
    "tasks.finding.loop.epochs=2", "selection.budget=6", "selection.pilot_val=4", "selection.pilot_test=12",
    "selection.pretext.loop.epochs=1", "selection.pretext.encoder.width=8", "evaluation.bootstrap=100",
    "evaluation.shot_draws=2", "evaluation.gate.draws=1",
    "evaluation.tuning={least: 10, most: 10, rates: [0.003]}",
    "evaluation.audit.images=100", "evaluation.pictures.images=2", "watch.pictures=2",
]  # fmt: skip
VISIBLE = ("pool", "runs", "rounds", "mlflow.db", "mlflow-artifacts", "report.html", "study.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    result = demo(out, patients=40, overrides=SMALL)
    assert all(Path(result.data[what]).exists() for what in ("pool", "worklist", "model", "report", "study"))
    return out


def decoded(place: Path) -> Iterator[tuple[str, str]]:
    """Yield (where, text) of everything below ``place``, decoded: tables, voxels, archives, databases, pages."""
    for path in sorted([place] if place.is_file() else (p for p in place.rglob("*") if p.is_file())):
        raw = path.read_bytes()
        yield f"{path} (name)", str(path.relative_to(place.parent))
        yield f"{path} (bytes)", raw.decode("latin-1")
        if path.suffix == ".parquet":
            yield str(path), json.dumps(pl.read_parquet(path).to_dicts(), default=str)
        elif path.suffix == ".tar":
            with tarfile.open(path) as shard:
                for member in shard:
                    yield f"{path}:{member.name}", json.dumps(member.get_info(), default=str)
                    frame = shard.extractfile(member)
                    assert frame is not None
                    voxels = blosc2.ndarray_from_cframe(frame.read())[()]
                    yield f"{path}:{member.name}", voxels.astype(np.uint8).tobytes().decode("latin-1")
        elif path.suffix == ".db":
            with sqlite3.connect(path) as store:
                yield str(path), "\n".join(store.iterdump())
        elif path.suffix == ".gz":
            yield str(path), gzip.GzipFile(fileobj=io.BytesIO(raw)).read().decode("latin-1")


def identifiers(out: Path) -> set[str]:
    """Return what names a patient in the export: numbers, UIDs, folder names, and the names in the headers."""
    import pydicom

    found = set()
    with (out / "linkage.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            found |= {row["patient_id"], row["study_uid"], row["sop_uid"], Path(row["path"]).name}
            if row["sop_uid"]:
                header = pydicom.dcmread(row["path"], stop_before_pixels=True)
                found |= {str(header.PatientName), *str(header.PatientName).split("^"), str(header.PatientBirthDate)}
    return {word for word in found if len(word) > 4}


def test_nothing_that_is_kept_or_shown_names_a_patient(made: Path) -> None:
    planted = identifiers(made)
    assert len(planted) > 100
    texts = [(where, text) for name in VISIBLE for where, text in decoded(made / name)]
    leaks = {(word, where) for where, text in texts for word in planted if word in text}
    assert not leaks


def test_the_search_finds_what_does_leak(made: Path, tmp_path: Path) -> None:
    planted = identifiers(made)
    word = min(planted)
    pl.DataFrame({"a": [word]}).write_parquet(tmp_path / "leaky.parquet", compression="zstd")
    with sqlite3.connect(tmp_path / "leaky.db") as store:
        store.execute("create table t (a text)")
        store.execute("insert into t values (?)", (word,))
    found = {where for where, text in decoded(tmp_path) if word in text}
    assert {Path(w).name for w in found} >= {"leaky.parquet", "leaky.db"}
    linked = {w for where, text in decoded(made / "linkage.csv") for w in planted if w in text}
    assert len(linked) > 50  # the linkage file is where they are


def test_the_linkage_file_and_the_key_are_for_their_owner_only(made: Path) -> None:
    assert (made / "linkage.csv").stat().st_mode & 0o077 == 0
    assert (made / "site.key").stat().st_mode & 0o077 == 0
