"""Rotation: quarter turns of a plane, the 24 of a cube, and the guards against shortcuts."""

from itertools import product
from math import log
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_methods import batch_of, part, small_method
from torch import Tensor

from medssl.core.batch import Progress
from medssl.core.errors import StudyError
from medssl.core.types import Geometry
from medssl.data.prepare_config import PrepareConfig
from medssl.methods.base import METHODS
from medssl.methods.rotation import ball, turns_of

CPU = torch.device("cpu")
CUBE = Geometry((8, 8, 8), 1, (1.0, 1.0, 1.0))


def on_cubes(**config: object) -> object:
    """Return rotation on cubes; its small encoder is made without a spacing, which only the study's check reads."""
    method = METHODS.load("rotation")
    settings = method.config_class.parse({"turns": "cube", **config})
    method.check(settings, CUBE)
    return method(settings, small_method("rotation", 3, "resenc").encoder)


def turned_by_hand(volume: Tensor, turn: Tensor) -> Tensor:
    """Read every voxel of ``Z Y X`` from where ``turn`` (last axis first) takes its place."""
    size, made = len(volume), torch.empty_like(volume)
    for place in product(range(size), repeat=3):
        centred = torch.tensor([2.0 * i - size + 1 for i in reversed(place)])
        z, y, x = (((turn @ centred) + size - 1) / 2).round().long().flip(0).tolist()
        made[place] = volume[z, y, x]
    return made


def test_turns_are_quarter_turns_inside_the_disc() -> None:
    method = small_method("rotation", 2, "resnet", epsilon_deg=0.0, mask_radius=0.9)
    images = torch.rand(2, 1, 16, 16)
    turned = method.turned(images, torch.tensor([1, 2])).view(4, 2, 1, 16, 16)
    for k in range(4):
        assert torch.allclose(turned[k], torch.rot90(images, k, (2, 3)) * ball(16, 2, 0.9, CPU), atol=1e-5)


def test_a_plane_of_a_volume_turns_within_every_slice() -> None:
    method = small_method("rotation", 3, epsilon_deg=0.0, mask_radius=0.9)
    images = torch.rand(2, 1, 8, 8, 8)
    turned = method.turned(images, torch.tensor([1, 2])).view(4, 2, 1, 8, 8, 8)
    for k in range(4):
        assert torch.allclose(turned[k], torch.rot90(images, k, (3, 4)) * ball(8, 2, 0.9, CPU), atol=1e-5)


def test_the_turns_of_a_cube_are_the_group_of_its_rotations() -> None:
    turns = turns_of("cube", 3)
    assert turns.shape == (24, 3, 3)
    assert torch.equal(turns[0], torch.eye(3))
    assert torch.allclose(torch.linalg.det(turns), torch.ones(24))
    known = {tuple(t.flatten().tolist()) for t in turns + 0.0}
    assert len(known) == 24
    products = turns[:, None] @ turns[None] + 0.0
    assert {tuple(p.tolist()) for p in products.flatten(0, 1).flatten(1)} == known  # closed
    assert {tuple(t.flatten().tolist()) for t in turns.transpose(1, 2) + 0.0} == known  # with inverses


def test_the_turns_of_a_plane_are_among_those_of_the_cube() -> None:
    cube = turns_of("cube", 3)
    assert all(any(torch.equal(turn, other) for other in cube) for turn in turns_of("plane", 3))


def test_a_cube_is_turned_voxel_by_voxel_and_masked_to_a_ball() -> None:
    method = on_cubes(epsilon_deg=0.0, mask_radius=1.0)
    volume = torch.rand(1, 1, 6, 6, 6)
    turned = method.eval().turned(volume, torch.tensor([5]))
    for k, turn in enumerate(method.turns):
        expected = turned_by_hand(volume[0, 0], turn) * ball(6, 3, 1.0, CPU)
        assert torch.allclose(turned[k, 0], expected, atol=1e-5)
    assert (turned[:, :, 0, 0, 0] == 0).all()


def test_a_cube_shows_a_keyed_few_while_training_and_all_when_it_scores() -> None:
    method, keys = on_cubes(copies=4), torch.arange(2000)
    shown = method.shown(keys)
    assert shown.shape == (2000, 4)
    assert all(len(set(row)) == 4 for row in shown[:50].tolist())
    assert torch.bincount(shown.flatten(), minlength=24).min() > 200  # of 333 expected
    assert torch.equal(shown[7:9], method.shown(keys[7:9]))
    assert torch.equal(method.eval().shown(keys[:3]), torch.arange(24).repeat(3, 1))


def test_cube_losses_do_not_depend_on_the_batch_nor_on_how_many_copies_pass_at_once() -> None:
    method, other = on_cubes(copies=4), on_cubes(copies=24)
    other.load_state_dict(method.state_dict())
    batch = batch_of(method, 5)
    losses = method.pretext_losses(batch)
    assert torch.allclose(losses, other.pretext_losses(batch), atol=1e-5)
    assert torch.allclose(losses[2:3], method.pretext_losses(part(batch, slice(2, 3))), atol=1e-5)
    assert method.chance_loss == pytest.approx(log(24))
    assert losses.mean().item() == pytest.approx(log(24), rel=0.1)


@pytest.mark.parametrize("turns", ["plane", "cube"])
def test_the_upright_copy_is_interpolated_too(turns: str) -> None:
    method = small_method("rotation", 2, "resnet", mask_radius=1.0) if turns == "plane" else on_cubes(mask_radius=1.0)
    ndim = 2 if turns == "plane" else 3
    num, size = (300, 16) if turns == "plane" else (40, 8)
    images, num_turns = torch.rand(num, 1, *(size,) * ndim), len(method.turns)
    turned = method.eval().turned(images, torch.arange(num)).view(num_turns, num, 1, *(size,) * ndim)
    mask = ball(size, ndim, 0.8, CPU)  # away from the border, which repeats
    differ = (turned[..., 1:] - turned[..., :-1])[..., mask[..., 1:] * mask[..., :-1] > 0]
    sharpness = differ.flatten(1).std(1)
    assert sharpness[0] / sharpness[1:].mean() == pytest.approx(1, abs=0.03)  # uninterpolated: 1.3
    assert not torch.allclose(turned[0], images * ball(size, ndim, 1.0, CPU), atol=1e-2)


def test_the_corners_are_hidden_whatever_they_hold() -> None:
    method = small_method("rotation", 2, "resnet")
    images = torch.rand(1, 1, 16, 16)
    marked = images.clone()
    marked[..., :2, :2] = 1.0  # a side marker in a corner
    keys = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(method.turned(images, keys)[..., 0, 0], torch.zeros(4, 1))
    assert torch.allclose(*(method.turned(i, keys) for i in (images, marked)), atol=1e-6)


def test_the_loss_is_the_mean_cross_entropy_of_four_turns() -> None:
    method = small_method("rotation", 2, "resnet").eval()
    batch = batch_of(method, 3)
    losses, figures = method.losses(batch)
    logits = method.head(method.encoder(method.turned(batch.images[0], batch.keys[:, 0])).pooled)
    for b in range(3):
        four = [F.cross_entropy(logits[k * 3 + b], torch.tensor(k)) for k in range(4)]
        assert torch.stack(four).mean().item() == pytest.approx(losses[b].item(), rel=1e-5)
    assert 0 <= figures["pretext_accuracy"] <= 1


@pytest.mark.parametrize(
    ("turns", "shape", "spacing", "message"),
    [
        ("plane", (16, 24), None, "not square"),
        ("plane", (8, 16, 16), (3.0, 1.0, 2.0), "differs in them"),
        ("cube", (16, 16), (1.0, 1.0), "needs a cube, but prepare.shape is .16, 16."),
        ("cube", (8, 16, 16), (1.0, 1.0, 1.0), "needs a cube"),
        ("cube", (16, 16, 16), None, "makes no fixed one; set prepare.spacing_mm alike"),
        ("cube", (16, 16, 16), (3.0, 1.0, 1.0), r"makes \[3.0, 1.0, 1.0\]"),
    ],
)
def test_axes_that_are_not_alike_are_not_exchanged(
    turns: str, shape: tuple[int, ...], spacing: tuple[float, ...] | None, message: str
) -> None:
    method = METHODS.load("rotation")
    with pytest.raises(StudyError, match=message):
        method.check(method.config_class(turns=turns), Geometry(shape, 1, spacing))


@pytest.mark.parametrize("prepared", [{"fit": "stretch"}, {"fit": "stretch", "spacing_mm": (1, 1, 1)}, {"fit": "crop"}])
def test_a_plane_whose_axes_have_scales_of_their_own_is_not_turned(prepared: dict[str, Any]) -> None:
    method, geometry = METHODS.load("rotation"), PrepareConfig(shape=(8, 16, 16), **prepared).geometry
    with pytest.raises(StudyError, match=r"betrays the turn; take prepare\.fit pad"):
        method.check(method.config_class(), geometry)
    for kept in ({"fit": "pad"}, {"fit": "crop", "spacing_mm": (5, 1, 1)}):
        method.check(method.config_class(), PrepareConfig(shape=(8, 16, 16), **kept).geometry)
    method.check(method.config_class(), PrepareConfig(shape=(16, 16), fit="crop").geometry)  # pixels are square


def test_axes_that_are_alike_may_be_exchanged() -> None:
    method = METHODS.load("rotation")
    method.check(method.config_class(), Geometry((4, 16, 16), 1, (5.0, 1.0, 1.0)))
    method.check(method.config_class(), Geometry((16, 16)))
    method.check(method.config_class(turns="cube"), CUBE)


def test_a_guessed_and_a_solved_task_are_said_aloud() -> None:
    method = small_method("rotation")
    chance = log(4)
    assert "guessed" in method.alarms({"loss": chance, "pretext_accuracy": 0.25}, Progress(500, 1000))[0]
    assert "too easy" in method.alarms({"loss": 0.01, "pretext_accuracy": 0.99}, Progress(200, 1000))[0]
    for loss, accuracy, step in ((chance, 0.25, 499), (0.01, 0.99, 201), (0.9 * chance, 0.4, 900), (0.01, 0.99, 900)):
        assert not method.alarms({"loss": loss, "pretext_accuracy": accuracy}, Progress(step, 1000))
    assert not method.alarms({"loss": chance, "pretext_accuracy": 0.25}, Progress(20, 20))  # too short to tell


def test_in_bf16_images_are_turned_as_in_fp32() -> None:
    method = small_method("rotation", 2, "resnet")
    images, keys = torch.rand(2, 1, 16, 16), torch.tensor([1, 2])
    plain = method.turned(images, keys)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method.turned(images, keys), plain)
