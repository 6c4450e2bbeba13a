"""The contract that every method keeps, found by its file; then what is special to each."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medssl.core.batch import Progress, Trainable, Views
from medssl.core.errors import EncoderError, StudyError
from medssl.core.keys import view_keys
from medssl.core.types import Geometry
from medssl.data.views import make_views
from medssl.methods.base import METHODS, SCORING_BATCH, Method, check_needs
from medssl.methods.rotation import TURNS, disc
from medssl.models.build import build_encoder, seeded
from medssl.models.encoders.base import ENCODERS

ENCODER = {
    "vit": {"width": 24, "depth": 2, "heads": 2, "patch": 4},
    "resnet": {"depth": 10, "width": 8, "norm": "group"},
}


def build(name: str, encoder: str | None = None, size: int = 16, **config: Any) -> Any:
    method = METHODS.load(name)
    able = [e for e in ENCODERS.names() if method.needs <= ENCODERS.load(e).provides]
    encoder = encoder or able[0]
    made = build_encoder(
        encoder, ENCODERS.load(encoder).config_class.parse(ENCODER[encoder]), Geometry((size, size)), seed=0
    )
    return seeded(lambda: method(method.config_class.parse(config), made), "method", 0)


def batch_of(method: Any, num: int, epoch: int = 0, size: int = 16) -> Views:
    coarse = torch.rand(num, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(coarse, size=(size, size), mode="bilinear")
    recipe = type(method).views(method.config, method.encoder.geometry)
    keys = torch.from_numpy(view_keys(0, epoch, np.arange(num), len(recipe.views)))
    return make_views(images, keys, torch.arange(num), recipe)


def part(batch: Views, rows: slice) -> Views:
    return Views(tuple(i[rows] for i in batch.images), batch.keys[rows], batch.volume[rows])


@pytest.fixture(params=METHODS.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_method_says_what_it_is_and_is_trainable(name: str) -> None:
    method = METHODS.load(name)
    assert issubclass(method, Method)
    assert method.paper
    assert method.__doc__
    assert isinstance(build(name), Trainable)
    assert isinstance(method.batch_coupled, bool)


def test_a_method_knows_no_other_method(name: str) -> None:
    source = Path(str(METHODS.load(name).__module__).replace(".", "/") + ".py")
    tree = ast.parse((Path(__file__).parents[2] / source).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {m for m in imported if m and m.startswith("medssl.methods")} == {"medssl.methods.base"}


def test_the_loss_is_finite_scalar_and_reaches_every_parameter(name: str) -> None:
    method = build(name)
    optimiser = torch.optim.SGD(method.parameters(), lr=0.1)
    for step in range(2):  # residual branches start at zero: gradients pass through them from the second step
        optimiser.zero_grad()
        output = method.training_step(batch_of(method, 4), Progress(step, 10))
        output.loss.backward()
        optimiser.step()
    assert output.loss.ndim == 0
    assert torch.isfinite(output.loss)
    silent = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent


def test_accumulated_micro_batches_equal_one_batch(name: str) -> None:
    method = build(name).double()
    if type(method).batch_coupled:
        pytest.skip("the loss couples the batch")
    batch = batch_of(method, 6)
    batch = Views(tuple(i.double() for i in batch.images), batch.keys, batch.volume)
    method.training_step(batch, Progress(0, 10)).loss.backward()
    whole = [p.grad.clone() for p in method.parameters() if p.requires_grad]
    method.zero_grad()
    parts = [part(batch, slice(0, 1)), part(batch, slice(1, 4)), part(batch, slice(4, 6))]
    weights = torch.stack([method.normaliser(p) for p in parts]).double()
    for piece, weight in zip(parts, weights / weights.sum(), strict=True):
        (method.training_step(piece, Progress(0, 10)).loss * weight).backward()
    for one, many in zip(whole, (p.grad for p in method.parameters() if p.requires_grad), strict=True):
        assert torch.allclose(one, many, atol=1e-9, rtol=1e-7)


def test_pretext_losses_are_fp32_one_an_image_and_independent_of_the_batch(name: str) -> None:
    method, num = build(name).train(), SCORING_BATCH + 5
    batch = batch_of(method, num)
    losses = method.pretext_losses(batch)
    assert losses.shape == (num,)
    assert losses.dtype == torch.float32
    assert method.training
    alone = torch.cat([method.pretext_losses(part(batch, slice(i, i + 1))) for i in range(num)])
    assert torch.allclose(losses, alone, atol=1e-5)
    assert torch.equal(losses, method.pretext_losses(batch))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses, method.pretext_losses(batch))


def test_scoring_views_draw_nothing(name: str) -> None:
    method = build(name)
    recipe = type(method).scoring_views(method.config, method.encoder.geometry)
    images = torch.rand(2, 1, 16, 16)
    made = make_views(images, torch.zeros(2, 1, dtype=torch.int64), torch.arange(2), recipe)
    assert torch.equal(made.images[0], images)


def test_a_few_steps_learn_a_repeated_batch(name: str) -> None:
    method = build(name)
    optimiser = torch.optim.AdamW(method.parameters(), lr=2e-3)
    batch = batch_of(method, 8)
    losses = []
    for step in range(30):
        output = method.training_step(batch, Progress(step, 30))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_export_leaves_an_encoder_of_the_right_width(name: str) -> None:
    method = build(name)
    encoder = method.export()
    assert encoder(torch.rand(2, 1, 16, 16)).pooled.shape == (2, encoder.width)


def test_an_encoder_without_droppable_tokens_is_refused_with_one_that_has_them() -> None:
    with pytest.raises(
        EncoderError, match=r"method mae needs token dropping, tokens, which encoder resnet lacks; .*vit"
    ):
        check_needs("mae", "resnet")


# ---- MAE


def test_mae_hides_exactly_its_ratio_and_other_keys_hide_others() -> None:
    method = build("mae", mask_ratio=0.75)
    keys = torch.from_numpy(view_keys(0, 0, np.arange(500), 1))[:, 0]
    keep = method.keep(keys, 16)
    assert keep.shape == (500, 4)
    assert all(len(set(row)) == 4 for row in keep.tolist())
    share = torch.bincount(keep.flatten(), minlength=16) / 500
    assert (share - 0.25).abs().max() < 0.08


def test_mae_encodes_only_what_it_keeps() -> None:
    method, seen = build("mae", mask_ratio=0.75), []
    method.encoder.net.blocks[0].register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[1]))
    method.losses(batch_of(method, 2))
    assert seen == [1 + 4]  # the class token and a quarter of 16


def test_mae_loss_equals_the_papers_formula_written_out() -> None:
    method = build("mae").eval()
    batch = batch_of(method, 3)
    losses, _ = method.losses(batch)
    predicted, hidden = method.reconstruct(batch)
    for b in range(3):
        errors = []
        for token in range(16):
            y, x = divmod(token, 4)
            patch = batch.images[0][b, 0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten()
            target = (patch - patch.mean()) / patch.var().clamp_min(1e-4).sqrt()
            if hidden[b, token]:
                errors.append(((predicted[b, token] - target) ** 2).mean())
        assert len(errors) == 12
        assert torch.stack(errors).mean().item() == pytest.approx(losses[b].item(), rel=1e-5)


def test_mae_decoder_sees_kept_tokens_only_at_their_places() -> None:
    method = build("mae").eval()
    tokens, keep = torch.randn(1, 4, 24), torch.tensor([[3, 7, 8, 15]])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(method.decoder(tokens, keep), method.decoder(tokens[:, order], keep[:, order]), atol=1e-5)


# ---- rotation


def test_rotation_turns_are_quarter_turns_inside_the_disc() -> None:
    method = build("rotation", "resnet", epsilon_deg=0.0, mask_radius=0.9)
    images = torch.rand(2, 1, 16, 16)
    turned = method.turned(images, torch.tensor([1, 2])).view(TURNS, 2, 1, 16, 16)
    mask = disc(16, 0.9, torch.device("cpu"))
    for k in range(TURNS):
        assert torch.allclose(turned[k], torch.rot90(images, k, (2, 3)) * mask, atol=1e-5)


def test_rotation_interpolates_the_upright_copy_too() -> None:
    method = build("rotation", "resnet", epsilon_deg=5.0, mask_radius=1.0)
    images = torch.rand(300, 1, 16, 16)
    turned = method.turned(images, torch.arange(300)).view(TURNS, 300, 1, 16, 16)
    mask = disc(16, 1.0, torch.device("cpu"))
    sharpness = [(t[..., 1:] - t[..., :-1])[..., mask[:, 1:] * mask[:, :-1] > 0].std() for t in turned]
    assert max(sharpness) / min(sharpness) < 1.05  # uninterpolated: 1.36
    assert not torch.allclose(turned[0], images * mask, atol=1e-2)


def test_rotation_hides_the_corners_whatever_they_hold() -> None:
    method = build("rotation", "resnet")
    images = torch.rand(1, 1, 16, 16)
    marked = images.clone()
    marked[..., :2, :2] = 1.0  # a side marker in a corner
    assert torch.equal(method.turned(images, torch.zeros(1, dtype=torch.int64))[..., 0, 0], torch.zeros(4, 1))
    assert torch.allclose(*(method.turned(i, torch.zeros(1, dtype=torch.int64)) for i in (images, marked)), atol=1e-6)


def test_rotation_loss_is_the_mean_cross_entropy_of_four_turns() -> None:
    method = build("rotation", "resnet").eval()
    batch = batch_of(method, 3)
    losses, figures = method.losses(batch)
    logits = method.head(method.encoder(method.turned(batch.images[0], batch.keys[:, 0])).pooled)
    for b in range(3):
        four = [F.cross_entropy(logits[k * 3 + b], torch.tensor(k)) for k in range(TURNS)]
        assert torch.stack(four).mean().item() == pytest.approx(losses[b].item(), rel=1e-5)
    assert 0 <= figures["pretext_accuracy"] <= 1


def test_rotation_refuses_planes_that_are_not_square() -> None:
    method = METHODS.load("rotation")
    with pytest.raises(StudyError, match="not square"):
        method.check(method.config_class(), Geometry((16, 24)))
