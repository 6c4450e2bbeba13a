"""Several processes: DDP and FSDP equal one process, checkpoints move between them, and they stop together."""

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.distributed as dist
from memory_feed import CPU, IMAGES, Images, Memory, Ready, method
from ranks import on_ranks
from torch import nn

from medssl.core.batch import Views
from medssl.core.collectives import gathered, rank, summed, world_size
from medssl.core.errors import Preempted
from medssl.engine import checkpoint, scoring
from medssl.engine.distributed import agreed, first, full, told, whole
from medssl.engine.loop import Session, train
from medssl.engine.optim import LoopConfig

VIT = {"width": 24, "depth": 2, "heads": 2, "patch": 4}
LOOP = {"epochs": 2, "batch_size": 6, "accumulate": 2, "lr": 1e-2, "clip_norm": 1.0, "log_steps": 1}


class Share(Images):
    """Each rank's part of every micro-batch, in float64."""

    def steps(self, first: int, total: int) -> Iterator[list[Ready]]:
        for made in super().steps(first, total):
            yield [Ready(self._mine(ready.made)) for ready in made]

    def _mine(self, views: Views) -> Views:
        rows = torch.arange(len(views)).tensor_split(world_size())[rank()]
        return Views(tuple(i[rows].double() for i in views.images), views.keys[rows], views.volume[rows])


def trained(folder: Path, options: dict[str, Any], resume: bool = False, stop_after: int | None = None) -> Any:
    torch.set_default_dtype(torch.float64)
    model: nn.Module = method("mae", "vit", VIT).double()
    journal = Memory()
    session = Session(folder, journal, resume=resume, stop_after=stop_after)
    try:
        train(model, Share(6, 2), LoopConfig.parse(LOOP | options), session, CPU)
    except Preempted:
        return None
    finally:
        torch.set_default_dtype(torch.float32)
    weights = {name: value.numpy() for name, value in full(model.state_dict()).items()}
    return weights, [values["loss"] for _, values in journal.seen if "loss" in values]


def assert_same(one: Any, other: Any, atol: float = 1e-9) -> None:
    (weights, losses), (others, other_losses) = one, other
    assert weights.keys() == others.keys()
    worst = max(abs(weights[name] - others[name]).max() for name in weights)
    assert worst < atol
    assert losses == pytest.approx(other_losses, rel=1e-6)  # losses are fp32 whatever the weights are


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trained(tmp_path_factory.mktemp("alone"), {})


@pytest.mark.parametrize("distribution", ["ddp", "fsdp"])
def test_two_processes_train_as_one(distribution: str, alone: Any, tmp_path: Path) -> None:
    for found in on_ranks(2, trained, tmp_path, {"distribution": distribution}):
        assert_same(found, alone)


def test_a_run_goes_on_with_another_number_and_kind_of_processes(alone: Any, tmp_path: Path) -> None:
    on_ranks(2, trained, tmp_path, {"distribution": "fsdp"}, False, 1)
    on_ranks(2, trained, tmp_path, {"distribution": "ddp"}, True, 2)
    assert checkpoint.newest(tmp_path)["step"] == 2
    assert_same((trained(tmp_path, {}, resume=True)[0], alone[1]), alone)


def _looked_at(folder: Path) -> Any:
    model = method("mae", "vit", VIT)
    seen = []

    class Looks:
        def after_step(self, model: Any, progress: Any, figures: Any) -> None:
            if figures:
                seen.append(model.encoder(IMAGES[:4]).pooled.detach().numpy())

    config = LoopConfig.parse(LOOP | {"distribution": "fsdp"})
    train(model, Images(6, 2), config, Session(folder, Memory(), monitors=[Looks()]), CPU)
    with whole(model):
        return [*seen, model.encoder(IMAGES[:4]).pooled.detach().numpy()]


def test_monitors_and_whoever_comes_after_training_see_the_whole_of_a_sharded_model(tmp_path: Path) -> None:
    one, two = on_ranks(2, _looked_at, tmp_path)
    assert len(one) == 5
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert (one[-1] == one[-2]).all()
    assert (one[0] != one[1]).any()


def test_recomputed_activations_change_nothing(alone: Any, tmp_path: Path) -> None:
    assert_same(trained(tmp_path, {"recompute": True}), alone)


def _collectives() -> Any:
    mine = torch.full((2, 1), float(rank() + 1), requires_grad=True)
    everyone = gathered(mine)
    (everyone * torch.arange(4.0).unsqueeze(1)).sum().backward()
    asked = agreed(rank() == 1), agreed(False)
    worked: list[int] = []
    return everyone.tolist(), mine.grad.tolist(), float(summed(torch.tensor(rank() + 1.0))), asked, told(rank()), first(
        lambda: worked.append(rank()) or "done"
    )  # fmt: skip


def test_collectives_gather_in_rank_order_with_gradient_and_agree() -> None:
    for index, (rows, gradient, total, asked, told_by, worked) in enumerate(on_ranks(2, _collectives)):
        assert rows == [[1.0], [1.0], [2.0], [2.0]]
        assert gradient == [[4.0 * index], [4.0 * index + 2.0]]  # each rank's loss counts
        assert (total, asked, told_by, worked) == (3.0, (True, False), 0, "done")


class _Volumes:
    """Two chunks of volumes, one for each of two ranks."""

    catalog = SimpleNamespace(volumes=pl.DataFrame({"volume": range(2 * scoring.CHUNK)}))

    def __len__(self) -> int:
        return 2 * scoring.CHUNK


def _impatient() -> Any:
    """Score where one rank takes longer than the default group waits; and see that this group does not wait."""
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1), dist.group.WORLD)

    def chunk(score: Any, data: Any, rows: np.ndarray) -> np.ndarray:
        time.sleep(3 * rank())
        return rows * 2.0

    scoring._chunk = chunk
    made: Any = _Volumes()
    found = scoring._scored(lambda block: block.images, made, None, "score")
    time.sleep(3 * rank())
    try:
        dist.all_gather_object([None, None], 0)
    except RuntimeError:
        return found.tolist(), "timed out"
    return found.tolist(), "waited"


def test_scores_of_a_rank_that_takes_longer_than_gradients_may_are_waited_for() -> None:
    for found, default_group in on_ranks(2, _impatient):
        assert found == [2.0 * row for row in range(2 * scoring.CHUNK)]
        assert default_group == "timed out"


def _stopped_by_one(folder: Path) -> str:
    class Signals:
        def after_step(self, model: Any, progress: Any, figures: Any) -> None:
            if progress.step == 2 and rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    try:
        session = Session(folder, Memory(), monitors=[Signals()])
        train(method("rotation", "vit", VIT), Images(6), LoopConfig(epochs=3, batch_size=6), session, CPU)
    except Preempted as stop:
        return str(stop)
    return "went on"


def test_a_signal_to_one_process_stops_all_at_the_same_step_with_one_checkpoint(tmp_path: Path) -> None:
    assert {text[:20] for text in on_ranks(2, _stopped_by_one, tmp_path)} == {"stopped at step 2 of"}
    assert [p.name for p in checkpoint.kept(tmp_path)] == ["step-00000002.pt"]
