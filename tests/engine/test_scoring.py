"""Scores are the same for any number of processes, after any stop, and for larger volumes over all their windows."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_feed import CPU, method
from scipy.stats import spearmanr
from small_pool import make_pool

from medssl.core.keys import view_keys
from medssl.data.crops import windows
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.prepared import Prepared
from medssl.data.views import ViewRecipe, make_views
from medssl.engine import scoring
from medssl.engine.scoring import SCORING_EPOCH, embed, pretext_losses
from medssl.methods.rotation import Rotation
from medssl.pool.pool import Pool

JOB = [str(Path(__file__).with_name("scoring_job.py"))]
SMALL, CONFIG = {"depth": 10, "width": 8, "stem": 2}, PrepareConfig(shape=(16, 16))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    make_pool(folder / "pool", 55, labelled=False)  # 110 volumes: 3 chunks of 32 and one of 14
    return folder


@pytest.fixture
def data(folder: Path) -> Prepared:
    return prepare(Pool.open(folder / "pool"), CONFIG)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Rotation:
    monkeypatch.setattr(scoring, "CHUNK", 32)
    made = method("rotation", "resnet", SMALL)
    assert isinstance(made, Rotation)
    return made


@pytest.fixture(scope="module")
def never_stopped(folder: Path) -> dict[str, np.ndarray]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scoring, "CHUNK", 32)
        made, data = method("rotation", "resnet", SMALL), prepare(Pool.open(folder / "pool"), CONFIG)
        return {"losses": pretext_losses(made, data, CPU, 0), "features": embed(made.encoder, data, CPU)}


def test_batched_scores_rank_as_a_loop_over_single_images_does(model: Rotation, data: Prepared) -> None:
    alone = []
    model.eval()
    for row in range(len(data)):
        rows = np.array([row])
        keys = torch.from_numpy(view_keys(7, SCORING_EPOCH, data.keys[rows], 1))
        batch = make_views(data.images(rows), keys, torch.from_numpy(rows), ViewRecipe())
        with torch.no_grad():
            alone.append(float(model.losses(batch)[0]))
    together = pretext_losses(model, data, CPU, 7)
    assert np.allclose(together, alone, atol=1e-6)
    assert spearmanr(together, alone).statistic > 0.9999


def test_scoring_leaves_the_model_as_it_was(model: Rotation, data: Prepared) -> None:
    before = {k: (v.clone(), v.stride()) for k, v in model.state_dict().items()}
    model.train()
    model.encoder.net.layer1.eval()
    features = embed(model.encoder, data, CPU)
    pretext_losses(model, data, CPU, 0)
    assert features.shape == (len(data), model.encoder.width)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.stride() == before[name][1]
    loss, _ = model.losses(
        make_views(data.images(np.arange(2)), torch.zeros(2, 1, dtype=torch.int64), torch.arange(2), ViewRecipe())
    )
    loss.mean().backward()


def test_volumes_larger_than_the_geometry_are_the_mean_of_all_their_windows(model: Rotation, folder: Path) -> None:
    data = prepare(Pool.open(folder / "pool"), PrepareConfig(shape=(16, 16), fit="crop"))
    data = data.of(data.catalog.only(data.catalog.volumes["volume"][:9]))
    assert data.cropped
    features, losses = embed(model.encoder, data, CPU), pretext_losses(model, data, CPU, 3)
    model.eval()
    for row in range(len(data)):
        boxes = windows(tuple(data.shapes[row]), (16, 16))
        assert len(boxes) == 9
        images = torch.from_numpy(np.stack([data.reader.read(row, (slice(None), *b)) for b in boxes])).float()
        keys = torch.from_numpy(view_keys(3, SCORING_EPOCH, data.keys[row] + np.arange(9), 1))
        with torch.no_grad():
            expected = model.encoder(images).pooled.mean(0).numpy()
            batch = make_views(images, keys, torch.full((9,), row), ViewRecipe())
            loss = float(model.losses(batch)[0].mean())
        assert np.allclose(features[row], expected, atol=1e-5)
        assert losses[row] == pytest.approx(loss, abs=1e-5)


def test_finished_parts_are_read_again_and_those_of_another_model_are_not(
    model: Rotation, data: Prepared, tmp_path: Path
) -> None:
    losses = pretext_losses(model, data, CPU, 0, tmp_path)
    written = {p.name: p.stat().st_ino for p in tmp_path.iterdir()}
    assert sorted(written) == [f"loss-{chunk:06d}.parquet" for chunk in range(4)]
    assert np.array_equal(pretext_losses(model, data, CPU, 0, tmp_path), losses)
    assert {p.name: p.stat().st_ino for p in tmp_path.iterdir()} == written
    assert not np.array_equal(pretext_losses(model, data, CPU, 1, tmp_path), losses)  # another seed
    with torch.no_grad():
        model.head.bias[0] += 1
    other = pretext_losses(model, data, CPU, 0, tmp_path)
    assert np.array_equal(other, pretext_losses(model, data, CPU, 0))
    fewer = data.of(data.catalog.only(data.catalog.volumes["volume"][1:]))
    assert np.array_equal(pretext_losses(model, fewer, CPU, 0, tmp_path), pretext_losses(model, fewer, CPU, 0))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "swapped"])
def test_a_damaged_part_is_said_and_computed_again(
    model: Rotation, data: Prepared, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    features = embed(model.encoder, data, CPU, tmp_path)
    path = tmp_path / "embedding-000001.parquet"
    content = bytearray(path.read_bytes())
    if damage == "swapped":
        content = bytearray((tmp_path / "embedding-000002.parquet").read_bytes())
    elif damage == "flipped":
        content[content.index(features[40].tobytes()[:8])] ^= 1
    else:
        content = content[: len(content) // 2] if damage == "cut" else bytearray()
    path.write_bytes(bytes(content))
    assert np.array_equal(embed(model.encoder, data, CPU, tmp_path), features)
    assert ("embedding-000001.parquet is damaged" in capsys.readouterr().err) == (damage != "swapped")
    assert np.array_equal(embed(model.encoder, data, CPU, tmp_path), features)


def test_killed_and_started_again_equals_never_killed(
    folder: Path, tmp_path: Path, never_stopped: dict[str, np.ndarray]
) -> None:
    def job(pause: float) -> list[str]:
        return [sys.executable, *JOB, str(folder / "pool"), str(tmp_path), str(tmp_path / "made"), str(pause)]

    process = subprocess.Popen(job(0.5), env=ENVIRONMENT)
    until = time.monotonic() + 120
    while len(kept := {p.name: p.stat().st_ino for p in tmp_path.glob("loss-*.parquet")}) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("embedding-*"))
    subprocess.run(job(0), check=True, env=ENVIRONMENT)
    for name, values in np.load(tmp_path / "made.0.npz").items():
        assert np.array_equal(values, never_stopped[name])
    assert {name: (tmp_path / name).stat().st_ino for name in kept} == kept


def test_two_processes_score_as_one(folder: Path, tmp_path: Path, never_stopped: dict[str, np.ndarray]) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    made = [*JOB, str(folder / "pool"), str(tmp_path), str(tmp_path / "made"), "0"]
    subprocess.run([*launch, *made], check=True, env=ENVIRONMENT, capture_output=True)
    for rank in range(2):
        for name, values in np.load(tmp_path / f"made.{rank}.npz").items():
            assert np.array_equal(values, never_stopped[name])
    assert len(list(tmp_path.glob("*.parquet"))) == 8
