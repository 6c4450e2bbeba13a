"""The whole journey on real radiographs: a DICOM export of 300 images, through the pipeline that the README names."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from small_pool import KEY

from medssl.pool.pool import Pool
from medssl.tracking.records import read_runs
from medssl.verbs.ingest import ingest

ROOT = Path(__file__).parents[2]
SMALL = [
    "loop.epochs=2", "encoder.width=64", "encoder.depth=2", "method.decoder_depth=1", "tasks.pneumonia.loop.epochs=5",
    "selection.budget=20", "selection.pilot_val=20", "selection.pilot_test=40", "selection.pretext.encoder.depth=10",
    "selection.pretext.encoder.width=8", "selection.pretext.loop.epochs=1", "evaluation.bootstrap=200",
    "evaluation.shot_draws=2", "evaluation.gate.draws=1",
    "evaluation.tuning={least: 10, most: 10, rates: [0.003]}",
    "evaluation.audit.images=0", "evaluation.pictures.images=2", "watch.pictures=2",
]  # fmt: skip
OUTCOMES = {"image": "stored", "duplicate": "duplicate", "truncated": "quarantined", "non_image": "non_image"}


@pytest.fixture(scope="module")
def export(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chest") / "export"
    tool, data = shared / "tools" / "cxr_to_dicom.py", shared / "data" / "chest_xray_224"
    limits = ["--limit", "300", "--seed", "7", "--truncated", "40"]
    subprocess.run([sys.executable, tool, data, out, *limits], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chest_xray", ROOT / "pipelines" / "chest_xray.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_planted_file_ends_with_the_right_outcome_and_label(export: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY.secret)
    linkage = tmp_path / "linkage.csv"
    told = ingest(
        [export], tmp_path / "pool", labels=export / "ground_truth.csv", tasks=["pneumonia=label"],
        key_file=tmp_path / "key", linkage=linkage, workspace=tmp_path / "workspace",
    )  # fmt: skip
    assert told.exit_code == 3
    truth = pl.read_csv(export / "ground_truth.csv", infer_schema=False).to_dicts()
    pool = Pool.open(tmp_path / "pool")
    outcome = dict(pool.instances.select("source_key", "outcome").iter_rows())
    linked = {Path(row["path"]).name: row for row in pl.read_csv(linkage, infer_schema=False).to_dicts()}
    found = Counter((row["kind"], outcome[linked[Path(row["path"]).name]["source_key"]]) for row in truth)
    assert found == Counter((row["kind"], OUTCOMES[row["kind"]]) for row in truth)
    assert Counter(row["kind"] for row in truth) == {"image": 300, "truncated": 40, "duplicate": 8, "non_image": 5}
    assert pool.instances.height == len(truth) + 1  # and ground_truth.csv itself
    values = dict(pool.catalog.targets("pneumonia").iter_rows())
    images = [row for row in truth if row["kind"] == "image"]
    assert {linked[Path(row["path"]).name]["volume"]: row["label"] for row in images} == values


def test_the_pipeline_runs_from_dicom_to_predictions(
    export: Path, pipeline: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(KEY.secret)
    places = [f"pool={tmp_path / 'pool'}", f"workspace={tmp_path / 'workspace'}"]
    study = ["--study", str(ROOT / "configs" / "chest_xray.yaml"), "--key", str(tmp_path / "key"), "--rounds", "2"]
    pipeline.main([str(export), *study, *places, *SMALL])
    records = read_runs(tmp_path / "workspace")
    assert Counter(r.kind for r in records) == {
        "ingest": 1, "pretrain": 1, "pretext": 1, "evaluate": 3, "select": 2, "import": 2, "finetune": 2, "predict": 1,
    }  # fmt: skip
    assert all(r.status == "finished" for r in records)
    final = json.loads(([r for r in records if r.kind == "evaluate"][-1].folder / "evaluation.json").read_text())
    assert (final["num_train"], final["num_val"]) == (40, 20)
    assert final["verdict"]["decision"] in ("go", "no_go", "undecided")
    predicted = pl.read_csv(tmp_path / "workspace" / "predictions.csv", infer_schema=False)
    assert predicted.columns == ["study_uid", "sop_uid", "NORMAL", "PNEUMONIA", "model"]
    assert predicted["study_uid"].str.starts_with("1.2.826").all()
    assert "<html" in (tmp_path / "workspace" / "report.html").read_text()
    said = capsys.readouterr().out
    assert all(f"round {n}: select" in said for n in (0, 1))
