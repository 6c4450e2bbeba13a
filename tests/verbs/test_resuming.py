"""What was stopped, by a signal or by its scheduler, goes on and equals what was never stopped."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from journeys import FAST, changed

from medssl.core.errors import PoolError, Preempted, TrainingError
from medssl.core.types import Signal
from medssl.data.prepare import prepare
from medssl.engine.loop import Session
from medssl.pool.lock import locked
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.tracking.records import read_run, read_runs
from medssl.verbs.finetune import finetune
from medssl.verbs.pretrain import fit, pretrain
from medssl.verbs.select import select
from medssl.verbs.signals import read_signals


def test_told_to_stop_a_process_keeps_a_checkpoint_and_ends_with_75(study: Study) -> None:
    overrides = ["loop.epochs=300", "loop.checkpoint_epochs=300", "watch.pictures_epochs=0"]
    command = [sys.executable, "-m", "medssl", "pretrain", str(study.pool.parent / "small.yaml"), *FAST, *overrides]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until = time.monotonic() + 120
    while not any('"loss"' in path.read_text() for path in study.workspace.glob("runs/pretrain-*/journal.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.terminate()
    said = " ".join(process.communicate(timeout=60)[1].split())
    assert process.returncode == 75
    assert "with a checkpoint; go on with --resume" in said
    assert len(list(study.workspace.glob("runs/pretrain-*/checkpoints/step-*.pt"))) == 1


def test_killed_and_resumed_equals_never_killed(study: Study, tmp_path: Path) -> None:
    overrides = ["loop.epochs=30", "loop.checkpoint_epochs=1", "encoder.drop_path=0.2"]
    overrides += ["watch.pictures_epochs=30", "watch.pictures=2"]
    whole = pretrain(changed(study, *overrides, f"workspace={tmp_path / 'whole'}"))
    command = [sys.executable, "-m", "medssl", "pretrain", str(study.pool.parent / "small.yaml"), *FAST, *overrides]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(study.workspace.glob("runs/pretrain-*/checkpoints/step-*.pt")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (folder,) = study.workspace.glob("runs/pretrain-*")
    assert read_run(folder).status == "unfinished"
    resumed = pretrain(changed(study, *overrides), resume=True)
    assert resumed.data["run"] == folder.name
    assert (folder / "encoder.safetensors").read_bytes() == (
        Path(whole.data["encoder"]) / "encoder.safetensors"
    ).read_bytes()
    steps = [s for s, _ in read_run(folder).metrics["loss"]]
    assert steps == sorted(set(steps))


def test_fine_tuning_stopped_and_resumed_equals_never_stopped(
    labelled_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = changed(labelled_study, "tasks.shape.loop.epochs=4")
    pretrain(study)
    whole = finetune(study, allow_no_go=True)
    with monkeypatch.context() as patch:
        patch.setattr("medssl.verbs.finetune.Session", partial(Session, stop_after=7))
        with pytest.raises(Preempted, match="--resume"):
            finetune(study, allow_no_go=True)
    pool = Pool.open(study.pool)
    other = pool.catalog.labels.head(3).with_columns(task=pl.lit("another task"))
    pool.add_labels(other)  # of what this model does not learn
    resumed = finetune(study, allow_no_go=True, resume=True)
    assert resumed.data["scores"] == whole.data["scores"]
    with pytest.raises(TrainingError, match="no unfinished finetune run"):
        finetune(study, allow_no_go=True, resume=True)


def test_a_requeued_job_starts_where_nothing_was_kept_and_goes_on_where_something_was(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("medssl.verbs.pretrain.Session", partial(Session, stop_after=3))
        with pytest.raises(Preempted):
            pretrain(study, requeued=True)
    pretrain(study, requeued=True)
    assert [r.status for r in read_runs(study.workspace) if r.kind == "pretrain"] == ["finished"]


def test_a_run_that_is_still_written_to_is_not_taken_over(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("medssl.verbs.pretrain.Session", partial(Session, stop_after=3))
        with pytest.raises(Preempted):
            pretrain(study)
    (folder,) = study.workspace.glob("runs/pretrain-*")
    before = (folder / "journal.jsonl").read_bytes()
    with locked(folder / ".lock", "writing this run"), pytest.raises(PoolError, match="is writing this run"):
        pretrain(study, resume=True)
    assert (folder / "journal.jsonl").read_bytes() == before
    pretrain(study, resume=True)


def test_a_role_without_a_class_is_not_scored_and_says_which(labelled_study: Study) -> None:
    study = changed(labelled_study)
    pool = Pool.open(study.pool)
    labels = pool.catalog.labels
    rows = pool.catalog.volumes.filter(pl.col("role") == "dev").head(6)
    third = labels.filter(pl.col("id").is_in(rows["study"].implode()))
    assert third.height
    pool.add_labels(third.with_columns(value=pl.lit("rare"), time=pl.lit("2099-01-01T00:00:00+00:00")))
    pretrain(study)
    result = finetune(study, allow_no_go=True)
    assert result.data["scores"] == {}
    said = " ".join(map(str, result.shown))
    assert "val not scored: no labelled volume of rare" in said
    assert "test not scored: no labelled volume of rare" in said


def test_a_pretext_stopped_while_selecting_goes_on_and_equals_one_never_stopped(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["selection.pretext.loop.epochs=3"]
    whole, stopped = (
        changed(study, *overrides, f"workspace={place}") for place in (tmp_path / "whole", study.workspace)
    )
    pool, pretext = Pool.open(study.pool), whole.selection.pretext
    assert pretext is not None
    data = prepare(pool, whole.prepare)
    fit(whole, pretext, pool, data, kind="pretext")
    losses = partial(read_signals, stopped, pool, data, frozenset({Signal.PRETEXT_LOSSES}), "shape")
    for stop in (2, 4):  # the second stop is of a run that goes on
        with monkeypatch.context() as patch:
            patch.setattr("medssl.verbs.pretrain.Session", partial(Session, stop_after=stop))
            with pytest.raises(Preempted, match=f"step {stop} of .* run the verb again"):
                losses()
    assert losses().parents.keys() == {"pretext"}
    (run,) = [r for r in read_runs(study.workspace) if r.kind == "pretext"]
    (other,) = [r for r in read_runs(tmp_path / "whole") if r.kind == "pretext"]
    assert (run.folder / "encoder.safetensors").read_bytes() == (other.folder / "encoder.safetensors").read_bytes()


def test_a_pretext_that_may_still_be_training_is_left_alone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("medssl.verbs.pretrain.Session", partial(Session, stop_after=2))
        with pytest.raises(Preempted):
            select(study)
    (folder,) = study.workspace.glob("runs/pretext-*")
    journal = folder / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))  # it has not said how it ended
    select(study)
    assert sorted(r.status for r in read_runs(study.workspace) if r.kind == "pretext") == ["finished", "unfinished"]


def test_resuming_nothing_or_a_changed_study_is_one_line(study: Study) -> None:
    with pytest.raises(TrainingError, match="no unfinished pretrain run"):
        pretrain(study, resume=True)
    done = pretrain(study)
    journal = Path(done.data["encoder"]) / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:-1]) + "\n")  # as if killed before it could say how it ended
    with pytest.raises(TrainingError, match=r"method\.mask_ratio was 0\.75 and is now 0\.5"):
        pretrain(changed(study, "method.mask_ratio=0.5"), resume=True)
