"""On a CUDA device: the draws, boxes and views of a CPU, its first losses, and training in every precision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from memory_feed import CPU, Memory
from small_methods import batch_of, small_method
from small_pool import make_pool

from medssl.core.batch import Progress
from medssl.core.keys import uniform, view_keys
from medssl.data.crops import cut
from medssl.data.loader import TrainingFeed
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.sampler import Sampler
from medssl.data.views import View, draw
from medssl.engine.loop import Session, train
from medssl.engine.optim import LoopConfig
from medssl.engine.scoring import embed
from medssl.engine.step import Stepper

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CUDA = torch.device("cuda")
METHODS = ("mae", "dino", "moco_v3", "rotation")


def test_draws_are_those_of_a_cpu() -> None:
    keys = torch.from_numpy(view_keys(0, 3, np.arange(50), 1))[:, 0]
    assert torch.equal(uniform(keys, 7, 2), uniform(keys.to(CUDA), 7, 2).cpu())


@pytest.mark.parametrize("shape", [(20, 24), (10, 12, 14)])
def test_boxes_and_views_are_those_of_a_cpu(shape: tuple[int, ...]) -> None:
    images, keys = torch.rand(6, 1, *shape).half(), torch.from_numpy(view_keys(0, 1, np.arange(6), 1))[:, 0]
    first, which = torch.randint(0, 4, (6, len(shape))), torch.arange(6)
    part, mirrored = tuple(n - 4 for n in shape), torch.arange(6) % 2 == 0
    on_cuda = cut(images.to(CUDA), which.to(CUDA), first.to(CUDA), part, mirrored.to(CUDA))
    assert torch.equal(cut(images, which, first, part, mirrored), on_cuda.cpu().float())
    view = View(crop_scale=(0.3, 1.0), crop_ratio=4 / 3, flip=0.5, contrast=0.2, gamma=0.2, noise=0.05, blur=1.0)
    assert torch.allclose(draw(images, keys, view), draw(images.to(CUDA), keys.to(CUDA), view).cpu(), atol=2e-3)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_first_losses_are_those_of_a_cpu(name: str, ndim: int) -> None:
    losses = []
    for device in (CPU, CUDA):
        method = small_method(name, ndim).to(device).train()
        stepper = Stepper(method, LoopConfig(lr=1e-3), device)
        batch = batch_of(method.cpu() if device == CPU else method, 8).to(device)
        seen = [stepper.take([batch], Progress(step, 10)) for step in range(3)]
        losses.append([float(output.loss) for output in seen if output is not None])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_from_shards_goes_to_its_end_and_embeds_as_a_cpu_does(
    tmp_path: Path, precision: str, workers: int
) -> None:
    data = prepare(make_pool(tmp_path / "pool", 8, labelled=False), PrepareConfig(shape=(16, 16)))
    method, journal = small_method("mae"), Memory()
    recipe = type(method).views(method.config, data.geometry)
    feed = TrainingFeed(data, recipe, Sampler.of(data, 4, 2, seed=0), workers)
    loop = LoopConfig(epochs=2, batch_size=4, accumulate=2, precision=precision, log_steps=1)
    train(method, feed, loop, Session(tmp_path / "run", journal), CUDA)
    assert all(torch.isfinite(p).all() for p in method.parameters())
    encoder = method.export()
    there = embed(encoder, data, CUDA)
    assert np.allclose(embed(encoder.cpu(), data, CPU), there, atol=1e-3)
