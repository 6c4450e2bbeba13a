"""A plan measures and changes nothing; its figures are those of the pool, the model and the loop."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from memory_feed import CPU, Images, method
from PIL import Image
from small_pool import KEY, make_pool

from medssl.core.errors import PoolError, StudyError, TrainingError
from medssl.data.prepare import prepare
from medssl.engine.optim import LoopConfig
from medssl.engine.trial import trial
from medssl.pool.pool import Pool
from medssl.study import Study, load_study
from medssl.verbs import plan as planning
from medssl.verbs.plan import plan


@pytest.fixture
def study(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    make_pool(tmp_path / "pool", 40)
    monkeypatch.setattr(planning, "SAMPLE_SECONDS", 1.0)
    monkeypatch.setattr(planning, "LOADER_BOUND", 1.0)  # a busy machine waits
    monkeypatch.setattr("medssl.engine.trial.MOST_STEPS", 4)
    return load_study(study_file)


def again(study: Study, *overrides: str) -> Study:
    return load_study(study.pool.parent / "small.yaml", overrides)


def test_a_plan_prepares_and_trains_nothing_and_says_what_it_found(study: Study) -> None:
    before = {p: p.stat().st_mtime_ns for p in study.pool.rglob("*")}
    made = plan(study)
    assert {p: p.stat().st_mtime_ns for p in study.pool.rglob("*")} == before
    assert not (study.workspace / "runs").exists()
    assert json.loads(json.dumps(made.data))["prepared"]["volumes"] == 80
    assert [one["name"] for one in made.data["trainings"]] == ["pretrain", "pretext"]
    num_dev = (Pool.open(study.pool).catalog.volumes["role"] == "dev").sum()
    for one, epochs in zip(made.data["trainings"], (4, 2), strict=True):
        assert one["steps"] == num_dev // 16 * epochs
        assert one["hours"] == pytest.approx(one["steps"] * one["trial"]["step_seconds"] / 3600)
        assert 0 <= one["trial"]["data_wait"] < 1
    assert made.data["warnings"] == []
    shown = np.asarray(Image.open(made.data["sheet"]))
    assert shown.shape[0] > 6 * 32
    assert shown.std() > 10


def test_the_prepared_size_is_near_what_preparing_makes_and_exact_afterwards(study: Study) -> None:
    expected = plan(study).data["prepared"]
    stored = int(prepare(Pool.open(study.pool), study.prepare).catalog.volumes["length"].sum())
    assert expected["bytes"] == pytest.approx(stored, rel=0.05)
    assert plan(study).data["prepared"] == {"volumes": 80, "bytes": stored, "seconds": 0.0}


def test_a_batch_larger_than_the_pool_a_full_disk_and_a_slow_loader_are_warned_of(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(planning, "LOADER_BOUND", -1.0)
    monkeypatch.setattr(planning, "_device_bytes", lambda _: 1000)
    warnings = plan(again(study, "loop.batch_size=64", "selection.pretext=null")).data["warnings"]
    said = " | ".join(warnings)
    for part in ("disk: ", "of memory are needed", "asks for 64 images", "waiting for data; raise loop.workers from 0"):
        assert part in said
    assert len(warnings) == 4


def test_a_batch_that_crops_do_not_divide_and_a_pool_that_does_not_fit_are_refused(study: Study) -> None:
    with pytest.raises(StudyError, match=r"loop\.batch_size: 16 is not a multiple of loop\.crops 3"):
        plan(again(study, "loop.crops=3"))
    Pool.create(study.workspace / "empty", KEY)
    with pytest.raises(PoolError, match=r"no volume of a dev patient fits prepare\.shape \[32, 32\]"):
        plan(again(study, f"pool={study.workspace / 'empty'}"))


def test_memory_is_counted_by_what_is_really_kept() -> None:
    config = LoopConfig.parse({"batch_size": 8, "optimiser": "adamw"})
    model = method("rotation", "resnet", {"depth": 10, "width": 8, "stem": 2, "norm": "group"})
    weights = sum(p.numel() * 4 for p in model.parameters())
    found = trial(model, Images(8), config, CPU, seconds=0)
    assert (found.steps, found.parameters) == (2, weights // 4)
    assert found.memory.gradients == weights
    assert 2 * weights <= found.memory.optimiser <= 2 * weights + 8 * len(list(model.parameters()))
    assert weights <= found.memory.model < 1.2 * weights  # and buffers
    double = trial(model, Images(16), config.model_copy(update={"batch_size": 16}), CPU, seconds=0)
    assert double.memory.activations == pytest.approx(2 * found.memory.activations, rel=0.02)
    less = trial(model, Images(8), config.model_copy(update={"recompute": True}), CPU, seconds=0)
    assert less.memory.activations < 0.8 * found.memory.activations


def test_a_step_that_does_not_fit_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("medssl.engine.step.Stepper.take", full)
    with pytest.raises(TrainingError, match=r"batch_size 8 does not fit .* loop\.recompute=true"):
        trial(
            method("rotation", "resnet", {"depth": 10, "width": 8, "stem": 2}), Images(8), LoopConfig(batch_size=8), CPU
        )


def test_a_sample_reads_few_shards() -> None:
    table = pl.DataFrame({"shard": np.arange(300) // 10, "offset": np.arange(300) % 10})
    chosen = planning._spread(table)
    assert chosen["shard"].unique().to_list() == [0, 10, 19, 29]
    assert chosen.height == 40
