"""Methods train in several processes as in one: with whole parameters (DDP) and with sharded ones (FSDP2)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.curves import BATCH, IMAGES, Feed, bodies
from memory_feed import CPU, Memory, Ready
from ranks import on_ranks
from small_methods import SHAPES, doubled, share, small_method

from medssl.core.collectives import world_size
from medssl.data.sampler import Sampler
from medssl.engine.distributed import full
from medssl.engine.loop import Session, train
from medssl.engine.optim import LoopConfig

LOOP = {"epochs": 2, "batch_size": BATCH, "accumulate": 2, "lr": 1e-2, "clip_norm": 1.0, "log_steps": 1}
CASES = [
    *((name, 2, "ddp") for name in ("dino", "moco_v3", "mae", "rotation")),
    *((name, 2, "fsdp") for name in ("dino", "moco_v3", "rotation")),
    ("dino", 3, "ddp"), ("moco_v3", 3, "fsdp"),
]  # fmt: skip
TAUGHT = ("dino", "moco_v3")


class Share(Feed):
    """This process's part of every micro-batch, in float64."""

    def steps(self, first: int, total: int) -> Any:
        for made in super().steps(first, total):
            yield [Ready(share(doubled(ready.made))) for ready in made]


def trained(folder: Path) -> dict[str, Any]:
    """Return each method's whole state and its last loss after four steps of two micro-batches."""
    found = {}
    for case in CASES:
        name, ndim, distribution = case
        method = small_method(name, ndim).double()
        recipe = type(method).views(method.config, method.encoder.geometry)
        feed, journal = Share(bodies(IMAGES, SHAPES[ndim]), recipe, Sampler(IMAGES, BATCH, 2, 0)), Memory()
        session = Session(folder / "-".join(map(str, (*case, world_size()))), journal)
        train(method, feed, LoopConfig.parse(LOOP | {"distribution": distribution}), session, CPU)
        state = {key: np.asarray(value) for key, value in full(dict(method.state_dict())).items()}
        found[case] = state, [values["loss"] for _, values in journal.seen if "loss" in values][-1]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    return trained(folder)


@pytest.fixture(scope="module")
def together(folder: Path) -> list[dict[str, Any]]:
    return on_ranks(2, trained, folder)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(
    case: tuple[str, int, str], alone: dict[str, Any], together: list[dict[str, Any]]
) -> None:
    state, loss = alone[case]
    for other, other_loss in (found[case] for found in together):
        assert other_loss == pytest.approx(loss, abs=1e-9)
        for key, value in state.items():
            assert np.allclose(other[key], value, rtol=0, atol=1e-9), key
    assert any("teacher" in key for key in state) == (case[0] in TAUGHT)
