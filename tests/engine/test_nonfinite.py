"""A batch that went wrong is kept by ids, and drawn again bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from memory_feed import CPU, IMAGES, Images, Memory, Regression
from ranks import on_ranks
from torch import Tensor, nn

from medssl.core.batch import Progress, StepOutput, Views
from medssl.core.collectives import rank, world_size
from medssl.core.errors import TrainingError
from medssl.core.files import read_json
from medssl.engine.loop import Session, train
from medssl.engine.nonfinite import capture, replay
from medssl.engine.optim import LoopConfig
from medssl.engine.step import Stepper

VOLUMES = [f"{i:016x}" for i in range(len(IMAGES))]
NOW = Progress(12, 40, 3)


class Scale(torch.autograd.Function):
    """The identity, whose gradient is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, by: float) -> Tensor:
        ctx.by = by
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.by, None


class Chain(nn.Module):
    """Three layers; between the second and the third a gradient may break."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor, broken: float) -> Tensor:
        x = self.layers[1](self.layers[0](x))
        return self.layers[2](Scale.apply(x, broken)).sum()


def step(number: int = 12, **fate: Any) -> list[Views]:
    return [batch.made for batch in next(Images(6, 2, **fate).steps(number, number + 1))]


def test_what_is_kept_names_batch_and_origin(tmp_path: Path) -> None:
    model, micro = Chain(), step()
    model(torch.ones(1, 4), torch.inf).backward()
    path = capture(tmp_path, NOW, 7, micro, VOLUMES, model)
    assert path == tmp_path / "nonfinite" / "step-00000012.json"
    about = read_json(path)
    assert (about["step"], about["epoch"], about["seed"]) == (12, 3, 7)
    assert [m["volumes"] for m in about["micro_batches"]] == [[VOLUMES[r] for r in b.volume.tolist()] for b in micro]
    assert [m["keys"] for m in about["micro_batches"]] == [b.keys.tolist() for b in micro]
    assert (about["volumes"], about["parameters"]) == ([], [])
    assert about["gradients"] == [f"layers.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")]
    assert about["first"] == "gradient of layers.1.bias"


def test_voxels_come_before_weights_and_weights_before_the_loss(tmp_path: Path) -> None:
    model = Chain()
    (model(torch.ones(1, 4), 1.0) * torch.nan).backward()
    assert read_json(capture(tmp_path, NOW, 0, step(), VOLUMES, model))["first"] == "loss"
    with torch.no_grad():
        model.layers[2].weight[0, 0] = torch.inf
    assert read_json(capture(tmp_path, NOW, 0, step(), VOLUMES, model))["first"] == "parameter layers.2.weight"
    spoilt = step(poison=0)
    about = read_json(capture(tmp_path, NOW, 0, spoilt, VOLUMES, model))
    assert about["first"] == "voxels"
    assert about["volumes"] == sorted(VOLUMES[row] for batch in spoilt for row in batch.volume.tolist())


def test_the_views_of_a_captured_step_are_drawn_again_bit_for_bit(tmp_path: Path) -> None:
    micro = step()
    path = capture(tmp_path, NOW, 0, micro, VOLUMES, Chain())
    for drawn, before in zip(replay(path, Images(6, 2), VOLUMES, CPU), micro, strict=True):
        assert torch.equal(drawn.images[0], before.images[0])
        assert torch.equal(drawn.keys, before.keys)
    with pytest.raises(TrainingError, match="other views at step 12; open the study that the run had"):
        replay(path, Images(6, 2), VOLUMES[::-1], CPU)


def _captured(folder: Path) -> str:
    def mine(part: Tensor) -> Tensor:
        return part.chunk(world_size())[rank()]

    micro = [Views((mine(batch.images[0]),), mine(batch.keys), mine(batch.volume)) for batch in step()]
    model = Chain()
    model(torch.ones(1, 4), torch.inf if rank() else 1.0).backward()
    return capture(folder, NOW, 0, micro, VOLUMES, model).name


def test_processes_write_one_file_of_the_whole_step(tmp_path: Path) -> None:
    assert on_ranks(2, _captured, tmp_path / "two") == ["step-00000012.json"] * 2
    two = read_json(tmp_path / "two" / "nonfinite" / "step-00000012.json")
    one = read_json(capture(tmp_path / "one", NOW, 0, step(), VOLUMES, Chain()))
    assert two["micro_batches"] == one["micro_batches"]
    assert two["first"] == "gradient of layers.1.bias"
    replay(tmp_path / "two" / "nonfinite" / "step-00000012.json", Images(6, 2), VOLUMES, CPU)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_training_keeps_each_batch_that_it_skips(precision: Any, tmp_path: Path) -> None:
    config = LoopConfig(epochs=5, batch_size=6, precision=precision)
    with pytest.raises(TrainingError, match="not finite in 5 steps"):
        train(Regression(), Images(6, poison=2), config, Session(tmp_path, Memory()), CPU)
    kept = sorted((tmp_path / "nonfinite").iterdir())
    assert [path.name for path in kept] == [f"step-{i:08d}.json" for i in range(2, 7)]
    assert read_json(kept[0])["first"] == "voxels"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_loss_that_is_not_finite_changes_nothing_though_its_gradient_is(precision: str) -> None:
    class Off(Regression):
        def training_step(self, batch: Views, progress: Progress) -> StepOutput:
            done = super().training_step(batch, progress)
            return StepOutput(done.loss + torch.inf, done.metrics)

    model = Off()
    before = [p.detach().clone() for p in model.parameters()]
    stepper = Stepper(model, LoopConfig(precision=precision, batch_size=6), CPU)
    micro = [block.views(CPU) for block in next(iter(Images(6).steps(0, 20)))]
    assert stepper.take(micro, Progress(3, 20)) is None
    assert all(map(torch.equal, before, model.parameters()))
