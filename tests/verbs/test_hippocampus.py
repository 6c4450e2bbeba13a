"""The 3D study of the repository on real MR crops: from NIfTI to a verdict, by the pipeline that its page names."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from small_pool import KEY

from medssl.tracking.records import read_runs

ROOT = Path(__file__).parents[2]
SMALL = [
    "encoder.width=48", "encoder.depth=2", "method.decoder_width=32", "method.decoder_depth=1", "loop.epochs=2",
    "loop.batch_size=8", "watch.pictures_epochs=2", "evaluation.bootstrap=100", "evaluation.shot_draws=1",
    "evaluation.gate={draws: 1, min_test_patients_per_class: 1}", "evaluation.audit.images=0",
    "evaluation.tuning={least: 2, most: 2, rates: [0.003]}",
]  # fmt: skip


def test_the_pipeline_goes_from_nifti_to_a_verdict_without_an_alarm(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for path in sorted((shared / "data" / "hippocampus" / part).iterdir())[:32]:
            shutil.copy(path, tmp_path / "data" / part)
    (tmp_path / "key").write_bytes(KEY.secret)
    spec = importlib.util.spec_from_file_location("hippocampus_3d", ROOT / "pipelines" / "hippocampus_3d.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    places = [f"pool={tmp_path / 'pool'}", f"workspace={tmp_path / 'work'}"]
    study = ["--study", str(ROOT / "configs" / "hippocampus_3d.yaml"), "--key", str(tmp_path / "key")]
    module.main([str(tmp_path / "data"), *study, *places, *SMALL])
    shown = capsys.readouterr().out
    assert "gate: " in shown
    runs = {run.kind: run for run in read_runs(tmp_path / "work")}
    assert {"ingest", "pretrain", "evaluate"} <= runs.keys()
    assert all(run.status == "finished" for run in runs.values())
    assert not [note for note in runs["pretrain"].notes if "collaps" in note or "not finite" in note]
    page = (tmp_path / "work" / "report.html").read_text()
    assert "volume" in page
    assert not any(path.name in page for path in (tmp_path / "data" / "images").iterdir())
