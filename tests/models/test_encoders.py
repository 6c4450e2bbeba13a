"""The contract of every encoder, found by file: any size and channel count, 2D and 3D, weights that reload."""

from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import files_of_at_most
from small_encoders import SMALL, small
from torch import Tensor

from medssl.core.errors import EncoderError
from medssl.core.types import Need
from medssl.models.build import load_encoder, save_encoder, verify_reload
from medssl.models.encoders.base import ENCODERS, Features, TokenPlan
from medssl.models.positions import sincos

NAMES = ENCODERS.names()
SEEN = [(name, shape) for name in NAMES for shape in ((16, 24), (8, 24, 16)) if len(shape) in ENCODERS.load(name).dims]
every_in_each_dimension = pytest.mark.parametrize(("name", "shape"), SEEN)


def parts(features: Features) -> list[Tensor]:
    return [features.pooled, *([] if features.tokens is None else [features.tokens]), *features.maps]


def test_every_encoder_has_a_small_form_in_these_tests() -> None:
    assert set(SMALL) == set(NAMES)


@every_in_each_dimension
@pytest.mark.parametrize("channels", [1, 3])
def test_features_have_the_promised_shapes(name: str, shape: tuple[int, ...], channels: int) -> None:
    encoder = small(name, shape, channels)
    features = encoder(torch.rand(2, channels, *shape))
    assert features.pooled.shape == (2, encoder.width)
    assert (features.tokens is not None) == (Need.TOKENS in encoder.provides)
    if Need.TOKENS in encoder.provides:
        assert features.tokens.shape == (2, prod(encoder.grid), encoder.width)
    assert bool(features.maps) == (Need.MAPS in encoder.provides)
    if Need.MAPS in encoder.provides:
        assert features.maps[0].shape[:2] == (2, encoder.width)
        assert all(m.ndim == 2 + len(shape) for m in features.maps)


@pytest.mark.parametrize(("name", "shape"), [s for s in SEEN if Need.MAPS in ENCODERS.load(s[0]).provides])
def test_maps_go_from_coarse_to_fine_and_see_the_image_where_it_is(name: str, shape: tuple[int, ...]) -> None:
    encoder, image = small(name, shape), torch.full((1, 1, *shape), 0.5)
    maps = encoder(image).maps
    for coarse, fine in pairwise(maps):
        assert all(c <= f for c, f in zip(coarse.shape[2:], fine.shape[2:], strict=True))
        assert coarse.shape[2:] != fine.shape[2:] or Need.TOKENS in encoder.provides
    image[(0, 0, *(0,) * len(shape))] += 5
    changed = (encoder(image).maps[-1] - maps[-1]).abs().sum(1)[0]
    assert all(place <= 2 for place in torch.unravel_index(changed.argmax(), changed.shape))


@every_in_each_dimension
def test_a_seed_decides_the_weights_and_the_global_generator_is_left_alone(name: str, shape: tuple[int, ...]) -> None:
    before = torch.get_rng_state()
    first, again, other = (small(name, shape, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@every_in_each_dimension
def test_layers_are_called_and_hold_most_parameters(name: str, shape: tuple[int, ...]) -> None:
    encoder, called = small(name, shape), []
    for i, layer in enumerate(encoder.layers()):
        layer.register_forward_hook(lambda *_, i=i: called.append(i))
    encoder(torch.rand(1, 1, *shape))
    assert called == list(range(len(encoder.layers())))
    held = {id(p): p.numel() for layer in encoder.layers() for p in layer.parameters()}
    assert sum(held.values()) > 0.95 * sum(p.numel() for p in encoder.parameters())


@every_in_each_dimension
def test_other_sizes_are_seen_too(name: str, shape: tuple[int, ...]) -> None:
    encoder = small(name, shape)
    for other in ((*shape[:-1], 2 * shape[-1]), tuple(reversed(shape))):
        features = encoder(torch.rand(2, 1, *other))
        assert features.pooled.shape == (2, encoder.width)
        assert features.tokens is None or features.tokens.shape[1] == prod(other) // prod(encoder.patch)


@every_in_each_dimension
def test_a_saved_encoder_gives_the_same_features_after_loading(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    encoder, images = small(name, shape), torch.rand(2, 1, *shape)
    about = {"name": name, "config": SMALL[name]}
    save_encoder(encoder, tmp_path / "own", about)
    save_encoder(small(name, shape, seed=1), tmp_path / "given", about, encoder.state_dict())
    for folder in ("own", "given"):
        loaded, described = load_encoder(tmp_path / folder)
        for one, other in zip(parts(loaded.eval()(images)), parts(encoder(images)), strict=True):
            assert torch.equal(one, other)
        assert described["geometry"] == {"shape": list(shape), "channels": 1}
    verify_reload(encoder, about, images, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given", "own"]


@every_in_each_dimension
def test_the_gradient_reaches_every_parameter(name: str, shape: tuple[int, ...]) -> None:
    encoder, generator = small(name, shape).train(), torch.Generator().manual_seed(0)
    for parameter in encoder.parameters():  # branches that start at zero let nothing through yet
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    features = encoder(torch.rand(4, 1, *shape, generator=generator))
    sum(p.mul(torch.randn(p.shape, generator=generator)).sum() for p in parts(features)).backward()
    still = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not still


@every_in_each_dimension
def test_channels_last_images_give_the_same_features(name: str, shape: tuple[int, ...]) -> None:
    layout = torch.channels_last if len(shape) == 2 else torch.channels_last_3d
    encoder, images = small(name, shape, 3), torch.rand(2, 3, *shape)
    expected = parts(encoder(images))
    found = parts(encoder.to(memory_format=layout)(images.to(memory_format=layout)))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_dropped_tokens_cannot_influence_what_is_kept() -> None:
    encoder = small("vit", (16, 16))
    images = torch.rand(1, 1, 16, 16)
    keep = torch.tensor([[0, 5, 10]])
    kept = encoder(images, TokenPlan(keep=keep)).tokens
    images[..., 12:, 12:] += 5  # token 15, dropped
    assert kept.shape == (1, 3, 24)
    assert torch.equal(encoder(images, TokenPlan(keep=keep)).tokens, kept)
    images[..., :4, :4] += 5  # token 0, kept
    assert not torch.allclose(encoder(images, TokenPlan(keep=keep)).tokens, kept)


def test_keeping_every_token_in_order_is_the_plain_forward() -> None:
    encoder, images = small("vit", (16, 16)), torch.rand(2, 1, 16, 16)
    keep = torch.arange(16).repeat(2, 1)
    assert torch.allclose(encoder(images, TokenPlan(keep=keep)).tokens, encoder(images).tokens, atol=1e-6)


def test_positions_tell_every_place_apart_on_any_grid() -> None:
    for grid in ((4, 6), (3, 4, 5)):
        places = sincos(grid, 48)
        assert places.shape[1] == 48
        assert torch.cdist(places, places).add(torch.eye(len(places)) * 9).min() > 0.1


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vit", {"patch": 5}, "encoder.patch: 5 does not divide prepare.shape"),
        ("vit", {"heads": 5}, "encoder.heads: 5 does not divide encoder.width 24"),
        ("resnet", {"width": 12}, "encoder.width: 12 is not a multiple of 8"),
        ("resenc", {"max_width": 4}, "encoder.max_width: 4 is below encoder.width 8; raise it"),
        ("resenc", {"shape": (1, 1)}, r"prepare.shape: \[1, 1\] is a single voxel"),
        ("swin", {"heads": 5}, "encoder.heads: 5 does not divide encoder.width 12"),
        (
            "swin",
            {"shape": (20, 24)},
            r"prepare.shape: \[20, 24\] is not made of multiples of 8.*shorten encoder.depths",
        ),
    ],
)
def test_an_impossible_encoder_says_which_value_is_wrong(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderError, match=message) as error:
        small(name, **changes)
    assert "\n" not in str(error.value)


def test_a_folder_without_an_encoder_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"no encoder\.json there"):
        load_encoder(tmp_path)
    save_encoder(small("resnet"), tmp_path, {"name": "resnet", "config": {**SMALL["resnet"], "width": 16}})
    with pytest.raises(EncoderError, match="does not fit"):
        load_encoder(tmp_path)


def test_an_encoder_that_a_full_disk_does_not_take_is_one_line(tmp_path: Path) -> None:
    with (
        files_of_at_most(2000),
        pytest.raises(EncoderError, match=r"safetensors cannot be written .*GiB free"),
    ):
        save_encoder(small("resnet"), tmp_path, {"name": "resnet", "config": SMALL["resnet"]})
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_would_not_come_back_is_refused_before_training(tmp_path: Path) -> None:
    encoder, about = small("resnet").train(), {"name": "resnet", "config": SMALL["resnet"]}
    encoder.net.maxpool = torch.nn.AvgPool2d(3, 1, 1)  # of which neither config nor weights know
    with pytest.raises(EncoderError, match=r"encoder resnet: saved and loaded again .* other features \(by up to"):
        verify_reload(encoder, about, torch.rand(2, 1, 16, 24), tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(EncoderError, match="does not fit"):
        verify_reload(small("resnet"), {**about, "config": {"width": 16}}, torch.rand(1, 1, 16, 24), tmp_path)
