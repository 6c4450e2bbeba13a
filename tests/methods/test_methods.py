"""The contract that every method keeps, found by its file, in two and three dimensions."""

import ast
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from small_methods import batch_of, doubled, part, share, small_method
from torch import Tensor

from medssl.core.batch import Progress, Trainable, Views
from medssl.core.collectives import world_size
from medssl.core.errors import EncoderError
from medssl.data.views import make_views
from medssl.methods.base import METHODS, SCORING_BATCH, Method, check_needs, enough_epochs
from medssl.models.teacher import Teacher

CASES = [(name, ndim) for name in METHODS.names() for ndim in (2, 3)]
EVERY = pytest.mark.parametrize(("name", "ndim"), CASES)


def gradients(method: Any, parts: list[Views], progress: Progress) -> None:
    """Leave in ``method`` the gradient of one optimiser step over its micro-batches and over all processes."""
    weights = torch.stack([method.normaliser(p) for p in parts]).double()
    for piece, weight in zip(parts, weights / weights.sum(), strict=True):
        (method.training_step(piece, progress).loss * weight / world_size()).backward()
    for p in method.parameters():
        if p.grad is not None and world_size() > 1:
            dist.all_reduce(p.grad)


def trained(method: Any, cuts: list[int], steps: int = 2) -> dict[str, Tensor]:
    """Take SGD steps over a batch cut into micro-batches, each process on its share of each; return all state."""
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for step in range(steps):
        batch = doubled(batch_of(method, cuts[-1], epoch=step))
        optimiser.zero_grad()
        gradients(method, [share(part(batch, slice(a, b))) for a, b in pairwise([0, *cuts])], Progress(step, 10))
        optimiser.step()
        method.on_step_end(Progress(step + 1, 10))
    return {name: value.detach().clone() for name, value in method.state_dict().items()}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert np.allclose(value, other[name], rtol=0, atol=1e-9), name


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_says_what_it_is_and_is_trainable(name: str) -> None:
    method = METHODS.load(name)
    assert issubclass(method, Method)
    assert method.paper
    assert method.__doc__
    assert isinstance(small_method(name), Trainable)
    assert isinstance(method.batch_coupled, bool)


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_knows_no_other_method(name: str) -> None:
    source = Path(str(METHODS.load(name).__module__).replace(".", "/") + ".py")
    tree = ast.parse((Path(__file__).parents[2] / source).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {m for m in imported if m and m.startswith("medssl.methods")} == {"medssl.methods.base"}


@pytest.mark.parametrize("name", METHODS.names())
def test_what_is_settled_by_rule_stays_where_the_study_says_otherwise(name: str) -> None:
    method = METHODS.load(name)
    settled = method.fitted(method.config_class(), 5000, 64)
    assert None not in {v for k, v in settled.data().items() if k in ("prototypes", "hidden", "teacher_momentum")}
    assert method.fitted(settled, 10**6, 4096) == settled
    epochs = method.epochs(5000, 64)
    assert epochs is None or epochs >= 1


@EVERY
def test_the_loss_is_finite_scalar_and_reaches_every_parameter(name: str, ndim: int) -> None:
    method = small_method(name, ndim)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):  # residual branches start at zero: gradients pass through them from the second step
        optimiser.zero_grad()
        output = method.training_step(batch_of(method, 4), Progress(step, 10))
        output.loss.backward()
        optimiser.step()
    assert output.loss.ndim == 0
    assert all(torch.isfinite(value).all() and value.ndim == 0 for value in (output.loss, *output.metrics.values()))
    silent = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent
    grouped = [id(p) for group in method.parameter_groups(0.1) for p in group.params]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters() if p.requires_grad)


@EVERY
def test_accumulated_micro_batches_equal_one_batch(name: str, ndim: int) -> None:
    if METHODS.load(name).batch_coupled:
        pytest.skip("the loss couples the batch")
    whole = trained(small_method(name, ndim).double(), [6])
    assert_same(trained(small_method(name, ndim).double(), [1, 4, 6]), whole)


def _on_a_rank() -> dict[str, Any]:
    made = {(name, ndim): trained(small_method(name, ndim).double(), [2, 6]) for name, ndim in CASES}
    return {case: {name: value.numpy() for name, value in state.items()} for case, state in made.items()}


@pytest.fixture(scope="module")
def ranks() -> list[dict[Any, Any]]:
    return on_ranks(2, _on_a_rank)


@EVERY
def test_two_processes_equal_one(name: str, ndim: int, ranks: list[dict[Any, Any]]) -> None:
    alone = trained(small_method(name, ndim).double(), [2, 6])
    for found in ranks:
        assert_same(found[name, ndim], {key: value.numpy() for key, value in alone.items()})


@EVERY
def test_a_teacher_moves_once_an_optimiser_step_and_never_in_a_micro_batch(name: str, ndim: int) -> None:
    method = small_method(name, ndim)
    teachers = [module for module in method.modules() if isinstance(module, Teacher)]
    before = [p.clone() for teacher in teachers for p in teacher.parameters()]
    gradients(method, [batch_of(method, 4, epoch) for epoch in range(3)], Progress(0, 10))
    for p in method.parameters():
        p.data += 0.1 if p.requires_grad else 0.0
    for teacher in teachers:
        assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    method.on_step_end(Progress(1, 10))
    moved = [not torch.equal(a, b) for a, b in zip(before, (p for t in teachers for p in t.parameters()), strict=True)]
    assert sum(moved) == sum(p.requires_grad for t in teachers for n in t for p in getattr(method, n).parameters())


@EVERY
def test_pretext_losses_are_fp32_one_an_image_and_independent_of_the_batch(name: str, ndim: int) -> None:
    method, num = small_method(name, ndim).train(), SCORING_BATCH + 3
    batch = batch_of(method, num)
    recipe = type(method).scoring_views(method.config, method.encoder.geometry)
    batch = make_views(batch.images[0], batch.keys[:, : len(recipe.views)], batch.volume, recipe, patient=batch.patient)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    losses = method.pretext_losses(batch)
    assert losses.shape == (num,)
    assert losses.dtype == torch.float32
    assert losses.unique().numel() > num // 2
    assert method.training
    alone = torch.cat([method.pretext_losses(part(batch, slice(i, i + 1))) for i in range(num)])
    assert torch.allclose(losses, alone, atol=1e-5)
    assert torch.equal(losses, method.pretext_losses(batch))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses, method.pretext_losses(batch))
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())


@EVERY
def test_scoring_views_draw_nothing(name: str, ndim: int) -> None:
    method = small_method(name, ndim)
    recipe = type(method).scoring_views(method.config, method.encoder.geometry)
    images = torch.rand(2, 1, *method.encoder.geometry.shape)
    made = make_views(images, torch.zeros(2, 1, dtype=torch.int64), torch.arange(2), recipe)
    assert torch.equal(made.images[0], images)


@EVERY
def test_a_few_steps_learn_a_repeated_batch(name: str, ndim: int) -> None:
    method = small_method(name, ndim)
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=2e-3)
    batch, losses = batch_of(method, 8), []
    for step in range(40):
        output = method.training_step(batch, Progress(step, 40))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.9 * losses[0]


@EVERY
def test_half_precision_gives_a_full_precision_loss_close_to_it(name: str, ndim: int) -> None:
    method = small_method(name, ndim)
    full = method.training_step(batch_of(method, 4), Progress(0, 10)).loss
    with torch.autocast("cpu", torch.bfloat16):
        half = small_method(name, ndim).training_step(batch_of(method, 4), Progress(0, 10)).loss
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.1)


@EVERY
def test_export_leaves_an_encoder_of_the_right_width_and_pictures_fit_the_batch(name: str, ndim: int) -> None:
    method = small_method(name, ndim)
    encoder = method.export()
    assert encoder(torch.rand(2, 1, *method.encoder.geometry.shape)).pooled.shape == (2, encoder.width)
    with torch.no_grad():
        shown = method.pictured(batch_of(method, 2))
    assert all(len(images) == 2 and images.ndim == 2 + ndim for images in shown.values())


def test_an_encoder_without_droppable_tokens_is_refused_with_one_that_has_them() -> None:
    with pytest.raises(
        EncoderError, match=r"method mae needs token dropping, tokens, which encoder resnet lacks; .*vit"
    ):
        check_needs("mae", "resnet")


def test_a_small_pool_is_gone_through_more_often() -> None:
    assert enough_epochs(1_281_167, 1024, epochs=100) == 100
    assert enough_epochs(600, 32, epochs=100) == 278  # of 18 whole steps: 5004
