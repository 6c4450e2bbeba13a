"""`medssl pretrain` under torchrun: the same run, journal and encoder as one process, and nothing said twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_pool import STUDY, make_pool

TRAIN = ["loop.epochs=2", "loop.batch_size=8", "loop.log_steps=1", "watch.pictures_epochs=2"]


def launched(study: Path, *arguments: str, num: int) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)]
    command = [sys.executable, *torchrun, "-m", "medssl", *arguments[:1], str(study), *arguments[1:], "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["ddp", "fsdp"])
def test_two_processes_leave_the_encoder_of_one(distribution: str, tmp_path: Path) -> None:
    make_pool(tmp_path / "pool", 20)
    study = tmp_path / "small.yaml"
    study.write_text(STUDY.format(pool=tmp_path / "pool", workspace=tmp_path / "work"))
    folders = []
    for num in (1, 2):
        options = [*TRAIN, f"loop.distribution={distribution}", f"workspace={tmp_path / str(num)}"]
        ended = launched(study, "pretrain", *options, num=num)
        assert ended.returncode == 0, ended.stderr[-3000:]
        folders.append(Path(json.loads(ended.stdout)["encoder"]))
    one, two = (load_file(folder / "encoder.safetensors") for folder in folders)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    assert len(list((tmp_path / "2" / "runs").iterdir())) == 1


@pytest.mark.slow
def test_two_processes_write_the_table_of_one_with_its_losses(tmp_path: Path) -> None:
    make_pool(tmp_path / "pool", 150)  # more volumes than a chunk holds
    study = tmp_path / "small.yaml"
    study.write_text(STUDY.format(pool=tmp_path / "pool", workspace=tmp_path / "work"))
    trained = launched(study, "pretrain", "loop.epochs=1", num=1)
    assert trained.returncode == 0, trained.stderr[-3000:]
    tables = []
    for num in (1, 2):
        shutil.rmtree(tmp_path / "work" / "scores", ignore_errors=True)
        out = tmp_path / f"{num}.parquet"
        ended = launched(study, "embed", "loop.epochs=1", "--losses", "--out", str(out), num=num)
        assert ended.returncode == 0, ended.stderr[-3000:]
        parts = sorted(p.name for p in (tmp_path / "work" / "scores").rglob("*.parquet"))
        assert parts == [f"{name}-{chunk:06d}.parquet" for name in ("embedding", "loss") for chunk in range(2)]
        tables.append(out.read_bytes())
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_other_verbs_say_that_they_run_in_one_process(tmp_path: Path) -> None:
    study = tmp_path / "small.yaml"
    study.write_text(STUDY.format(pool=tmp_path / "pool", workspace=tmp_path / "work"))
    assert "evaluate runs in one process" in launched(study, "evaluate", num=2).stderr
