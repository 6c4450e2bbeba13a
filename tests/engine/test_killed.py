"""Twenty steps equal ten, a kill -9, and ten more: weights, optimiser, teacher, centre, bit for bit on a CPU."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_feed import CPU, Memory
from ranks import PRELOADED
from small_pool import make_pool

from medssl.core.types import Geometry
from medssl.data.loader import TrainingFeed
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.engine import checkpoint
from medssl.engine.loop import Session, train
from medssl.engine.optim import LoopConfig
from medssl.methods.base import METHODS
from medssl.models.build import build_encoder, seeded
from medssl.models.encoders.base import ENCODERS
from medssl.pool.pool import Pool

SHAPE = {2: (16, 16), 3: (16, 16, 16)}
ENCODER = {
    "vit": {"width": 24, "depth": 2, "heads": 2, "patch": 4, "drop_path": 0.2},
    "resnet": {"depth": 10, "width": 8},  # batch norm: its statistics are state as well
}
SMALL = {"dino": {"prototypes": 32, "hidden": 32, "bottleneck": 16, "local_crops": 2}}
Case = tuple[str, str, int, int, str]
CASES: list[Case] = [
    *(("mae", "vit", ndim, workers, "") for ndim in (2, 3) for workers in (0, 2)),
    *(("rotation", "resnet", ndim, workers, "") for ndim in (2, 3) for workers in (0, 2)),
    *(("dino", "vit", ndim, 0, "") for ndim in (2, 3)),
    ("dino", "resnet", 2, 2, ""),
    ("moco_v3", "vit", 2, 0, ""),
    ("moco_v3", "resnet", 3, 0, ""),
    ("mae", "vit", 3, 2, "crops"),
    ("rotation", "resnet", 3, 0, "crops"),
    ("mae", "vit", 2, 0, "balance"),
]
LONG: list[Case] = [  # what is left has every method, dimension, kind of network and number of workers
    ("mae", "vit", 2, 2, ""), ("mae", "vit", 3, 0, ""), ("mae", "vit", 3, 2, "crops"),
    ("rotation", "resnet", 2, 0, ""), ("rotation", "resnet", 3, 2, ""), ("dino", "resnet", 2, 2, ""),
]  # fmt: skip
FEED = {"": {}, "crops": {"crops": 2}, "balance": {"balance": "patient"}}
CONFIG = LoopConfig(epochs=2, batch_size=4, accumulate=2, lr=1e-2, checkpoint_epochs=1, log_steps=1, clip_norm=3.0)


class KillsItself:
    """Ends the process without a word after a step."""

    def after_step(self, model: Any, progress: Any, figures: Any) -> None:
        if progress.step == 13:
            os.kill(os.getpid(), signal.SIGKILL)


def run(pool: Path, folder: Path, case: Case, *, killed: bool = False, resume: bool = False) -> None:
    torch.set_num_threads(1)
    name, encoder, ndim, workers, fed = case
    data: Prepared = prepare(Pool.open(pool), PrepareConfig(shape=SHAPE[ndim], fit="crop" if fed == "crops" else "pad"))
    num = 40 if fed == "crops" else 80  # 10 steps of 8 images an epoch
    data = data.of(data.catalog.only(data.catalog.volumes["volume"][:num]))
    loop = LoopConfig(**CONFIG.model_dump(exclude_unset=True), **FEED[fed])
    made = build_encoder(
        encoder, ENCODERS.load(encoder).config_class.parse(ENCODER[encoder]), Geometry(SHAPE[ndim]), seed=0
    )
    plugin = METHODS.load(name)
    config = plugin.fitted(plugin.config_class.parse(SMALL.get(name, {})), len(data), 8, loop.crops)
    model = seeded(lambda: plugin(config, made), "method")
    sampler = Sampler.of(data, loop.batch_size, loop.accumulate, 0, loop.crops, loop.balance)
    feed = TrainingFeed(data, plugin.views(config, data.geometry), sampler, workers)
    session = Session(folder, Memory(), monitors=[KillsItself()] if killed else [], resume=resume)
    train(model, feed, loop, session, CPU)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("pools")
    for ndim in (2, 3):
        pool = make_pool(folder / str(ndim), ndim=ndim)
        prepare(pool, PrepareConfig(shape=SHAPE[ndim]))
        prepare(pool, PrepareConfig(shape=SHAPE[ndim], fit="crop"))
    return {ndim: folder / str(ndim) for ndim in (2, 3)}


def assert_equal(one: Any, other: Any, where: str = "state") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}.{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id="-".join(map(str, case)), marks=[pytest.mark.slow] * (case in LONG)) for case in CASES],
)
def test_killed_after_a_checkpoint_and_resumed_equals_never_killed(
    case: Case, pools: dict[int, Path], tmp_path: Path
) -> None:
    pool, context = pools[case[2]], multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=run, args=(pool, tmp_path / "killed", case), kwargs={"killed": True})
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [p.name for p in checkpoint.kept(tmp_path / "killed")] == ["step-00000010.pt"]
    run(pool, tmp_path / "killed", case, resume=True)
    run(pool, tmp_path / "whole", case)
    whole, resumed = checkpoint.newest(tmp_path / "whole"), checkpoint.newest(tmp_path / "killed")
    assert whole["step"] == 20
    assert_equal(whole, resumed)
