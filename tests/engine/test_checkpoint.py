"""Checkpoints: whole or absent, the last few kept, damage and a full disk survived and said."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import files_of_at_most
from memory_feed import CPU, Images, Memory, Regression
from ranks import PRELOADED

from medssl.core.errors import Preempted, TrainingError
from medssl.engine import checkpoint
from medssl.engine.loop import Session, train
from medssl.engine.monitors.base import Observation
from medssl.engine.optim import LoopConfig
from medssl.engine.step import Stepper

EVERY = LoopConfig(epochs=5, batch_size=6, checkpoint_epochs=1, keep_checkpoints=2)  # 20 steps, a checkpoint every 4


def run(folder: Path, config: LoopConfig = EVERY, journal: Memory | None = None, **options: Any) -> Regression:
    model = Regression()
    train(model, Images(6), config, Session(folder, journal or Memory(), **options), CPU)
    return model


def stopped(folder: Path, after: int) -> None:
    with pytest.raises(Preempted):
        run(folder, stop_after=after)


def test_the_last_few_are_kept_and_the_newest_comes_first(tmp_path: Path) -> None:
    run(tmp_path)
    assert [p.name for p in checkpoint.kept(tmp_path)] == ["step-00000020.pt", "step-00000016.pt"]


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_gives_the_same_weights(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    stopped(tmp_path / "hurt", 14)  # leaves steps 12 and 14
    newest = checkpoint.kept(tmp_path / "hurt")[0]
    newest.write_bytes(newest.read_bytes()[:-500])
    journal = Memory()
    again = run(tmp_path / "hurt", journal=journal, resume=True)
    assert "step-00000014.pt cannot be read" in journal.notes[0]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_one_flipped_bit_is_noticed_and_the_damaged_file_goes_once_the_run_went_on(tmp_path: Path) -> None:
    stopped(tmp_path, 14)
    newest = checkpoint.kept(tmp_path)[0]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    journal = Memory()
    with pytest.raises(Preempted):
        run(tmp_path, EVERY.model_copy(update={"keep_checkpoints": 1}), journal, resume=True, stop_after=13)
    assert "step-00000014.pt cannot be read" in journal.notes[0]
    assert [p.name for p in checkpoint.kept(tmp_path)] == ["step-00000013.pt"]


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_when_all_are_damaged_it_is_one_clear_line(damage: bytes, tmp_path: Path) -> None:
    stopped(tmp_path, 5)
    for path in checkpoint.kept(tmp_path):
        path.write_bytes(damage)
    with pytest.raises(TrainingError, match="2 checkpoints cannot be read; train again without --resume"):
        run(tmp_path, resume=True)


def test_resuming_where_nothing_was_saved_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint; train again without --resume"):
        run(tmp_path, resume=True)


def test_a_full_disk_is_noted_and_training_goes_on_but_the_last_checkpoint_must_be_written(tmp_path: Path) -> None:
    journal = Memory()
    with files_of_at_most(2000), pytest.raises(TrainingError, match=r"step-00000020\.pt cannot be written .*GiB free"):
        run(tmp_path, journal=journal)
    assert sum("cannot be written" in note for note in journal.notes) == 4
    assert not list((tmp_path / checkpoint.FOLDER).iterdir())
    run(tmp_path)
    assert checkpoint.kept(tmp_path)


def test_a_full_disk_leaves_the_checkpoints_before(tmp_path: Path) -> None:
    stopped(tmp_path, 9)
    before = {p.name: p.read_bytes() for p in checkpoint.kept(tmp_path)}
    with files_of_at_most(2000), pytest.raises(TrainingError, match="cannot be written"):
        run(tmp_path, resume=True)
    assert {p.name: p.read_bytes() for p in checkpoint.kept(tmp_path)} == before


class Scores:
    """A monitor that sees these kNN figures at these steps."""

    def __init__(self, values: dict[int, float]) -> None:
        self.values = values

    def after_step(self, model: Any, progress: Any, figures: Any) -> Observation | None:
        return Observation({"knn": self.values[progress.step]}) if progress.step in self.values else None


def dies(stage: str, folder: Path, values: dict[int, float]) -> None:
    """Train until the third checkpoint and be killed at a stage of writing it."""
    saves, saved = 0, torch.save

    def killed_at(name: str, call: Any) -> Any:
        def inner(*args: Any) -> None:
            if (saves, name) == (3, stage):
                os.kill(os.getpid(), signal.SIGKILL)
            call(*args)
            if (saves, f"after {name}") == (3, stage):
                os.kill(os.getpid(), signal.SIGKILL)

        return inner

    def save(state: Any, path: Path) -> None:
        nonlocal saves
        saves += 1
        if (saves, stage) == (3, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        saved(state, path)
        if (saves, stage) == (3, "half"):
            os.truncate(path, 700)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save, os.fsync, os.replace = save, killed_at("fsync", os.fsync), killed_at("rename", os.replace)
    run(folder, monitors=[Scores(values)])


def killed(stage: str, folder: Path, values: dict[int, float]) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=dies, args=(stage, folder, values))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


STAGES = pytest.mark.parametrize("stage", ["before", "half", "fsync", "rename", "after rename"])


@STAGES
def test_killed_at_any_stage_of_writing_a_run_goes_on_to_the_same_weights(stage: str, tmp_path: Path) -> None:
    killed(stage, tmp_path / "killed", {})
    names = [p.name for p in checkpoint.kept(tmp_path / "killed")]
    assert names[0] == ("step-00000012.pt" if stage == "after rename" else "step-00000008.pt")
    whole, again = run(tmp_path / "whole"), run(tmp_path / "killed", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert not list((tmp_path / "killed" / checkpoint.FOLDER).glob(".*"))


@STAGES
def test_killed_at_any_stage_of_writing_a_better_one_leaves_one_that_can_be_read(stage: str, tmp_path: Path) -> None:
    values = {2: 0.6, 7: 0.9}  # the checkpoints of steps 2, 4 and 7
    killed(stage, tmp_path, values)
    assert checkpoint.best(tmp_path)["step"] == (7 if stage == "after rename" else 2)
    run(tmp_path, resume=True, monitors=[Scores(values)])
    assert checkpoint.best(tmp_path)["step"] == 7
    assert [p.name for p in sorted((tmp_path / checkpoint.FOLDER).glob("best*.pt"))] == ["best-00000007.pt"]


def test_the_best_by_the_monitors_figure_is_kept_across_a_resume(tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        run(tmp_path, stop_after=9, monitors=[Scores({3: 0.6, 7: 0.9, 9: 0.7})])
    run(tmp_path, resume=True, monitors=[Scores({12: 0.8, 20: 0.85})])
    state = checkpoint.best(tmp_path)
    assert (state["step"], state["kept"]["best"]) == (7, 0.9)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_best_one_that_is_damaged_or_was_never_kept_is_one_clear_line(damage: bytes | None, tmp_path: Path) -> None:
    run(tmp_path, monitors=[] if damage is None else [Scores({3: 0.6})])
    if damage is not None:
        (tmp_path / checkpoint.FOLDER / "best-00000003.pt").write_bytes(damage)
    with pytest.raises(TrainingError, match=r":best: (it kept none|best-00000003\.pt cannot be read)"):
        checkpoint.best(tmp_path)


def test_rolling_back_puts_the_last_checkpoint_s_weights_and_goes_on_with_later_data(tmp_path: Path) -> None:
    class Poisoned(Images):
        def steps(self, first: int, total: int) -> Any:
            for step, made in enumerate(super().steps(first, total), start=first):
                for ready in made:
                    ready.made.images[0].mul_(float("nan") if 9 <= step < 14 else 1.0)
                yield made

    def poisoned(folder: Path, rollbacks: int, journal: Memory) -> None:
        config = EVERY.model_copy(update={"rollbacks": rollbacks})
        train(Regression(), Poisoned(6), config, Session(folder, journal), CPU)

    with pytest.raises(TrainingError, match="not finite in 5 steps in a row, up to 13"):
        poisoned(tmp_path / "none", 0, Memory())
    journal = Memory()
    poisoned(tmp_path / "one", 1, journal)
    assert any("weights rolled back to those of step 8;" in note for note in journal.notes)


def test_a_checkpoint_due_at_a_skipped_step_is_written_after_the_next_taken_one(tmp_path: Path) -> None:
    class PoisonedOnce(Images):
        def steps(self, first: int, total: int) -> Any:
            for step, made in enumerate(super().steps(first, total), start=first):
                for ready in made:
                    ready.made.images[0].mul_(float("nan") if step == 7 else 1.0)
                yield made

    config = EVERY.model_copy(update={"keep_checkpoints": 9})
    train(Regression(), PoisonedOnce(6), config, Session(tmp_path, Memory()), CPU)
    assert [int(path.stem[5:]) for path in checkpoint.kept(tmp_path)] == [20, 16, 12, 9, 4]


def test_a_long_epoch_is_kept_by_the_clock_but_not_where_a_rollback_may_lead(tmp_path: Path) -> None:
    always = EVERY.model_copy(update={"checkpoint_minutes": 1e-9, "log_steps": 3, "keep_checkpoints": 99})
    train(Regression(), Images(6), always, Session(tmp_path / "clock", Memory()), CPU)
    assert {int(path.stem[5:]) for path in checkpoint.kept(tmp_path / "clock")} == {*range(3, 20, 3), *range(4, 21, 4)}
    train(Regression(), Images(6), always.model_copy(update={"rollbacks": 1}), Session(tmp_path / "r", Memory()), CPU)
    assert {int(path.stem[5:]) for path in checkpoint.kept(tmp_path / "r")} == {*range(4, 21, 4)}


def test_a_state_holds_whole_tensors_on_the_cpu(tmp_path: Path) -> None:
    state = checkpoint.state_of(Stepper(Regression(), EVERY, CPU), 3, {})
    assert all(value.device.type == "cpu" for value in state["model"].values())
