"""Encoders: any size and channel count, tokens really dropped, weights that reload."""

from pathlib import Path
from typing import Any

import pytest
import torch

from medssl.core.errors import EncoderError
from medssl.core.types import Geometry, Need
from medssl.models.build import build_encoder, load_encoder, save_encoder
from medssl.models.encoders.base import ENCODERS, TokenPlan
from medssl.models.positions import sincos

SMALL: dict[str, dict[str, Any]] = {
    "vit": {"width": 24, "depth": 2, "heads": 2, "patch": 4},
    "resnet": {"depth": 10, "width": 8, "stem": 2},
}


def small(name: str, shape: tuple[int, ...] = (16, 24), channels: int = 1, seed: int = 0, **changes: Any) -> Any:
    config = ENCODERS.load(name).config_class.parse({**SMALL[name], **changes})
    ENCODERS.load(name).check(config, Geometry(shape, channels))
    return build_encoder(name, config, Geometry(shape, channels), seed=seed).eval()


def test_every_encoder_has_a_small_form_in_these_tests() -> None:
    assert set(SMALL) == set(ENCODERS.names())


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize(("shape", "channels"), [((16, 24), 1), ((32, 32), 3), ((8, 48), 2)])
def test_features_have_the_promised_shapes(name: str, shape: tuple[int, ...], channels: int) -> None:
    encoder = small(name, shape, channels)
    features = encoder(torch.rand(3, channels, *shape))
    assert features.pooled.shape == (3, encoder.width)
    if Need.TOKENS in encoder.provides:
        assert features.tokens.shape == (3, shape[0] * shape[1] // 16, encoder.width)
    if Need.MAPS in encoder.provides:
        assert features.maps[-1].shape[:2] == (3, encoder.width)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_seed_decides_the_weights_and_the_global_generator_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (small(name, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_saved_encoder_gives_the_same_features_after_loading(name: str, tmp_path: Path) -> None:
    encoder, images = small(name), torch.rand(2, 1, 16, 24)
    save_encoder(encoder, tmp_path, {"name": name, "config": SMALL[name]})
    loaded, about = load_encoder(tmp_path)
    assert torch.equal(loaded.eval()(images).pooled, encoder(images).pooled)
    assert about["geometry"] == {"shape": [16, 24], "channels": 1}


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
    ],
)
def test_an_impossible_encoder_says_which_value_is_wrong(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        small(name, **changes)


def test_a_folder_without_an_encoder_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"no encoder\.json there"):
        load_encoder(tmp_path)
    save_encoder(small("resnet"), tmp_path, {"name": "resnet", "config": {**SMALL["resnet"], "width": 16}})
    with pytest.raises(EncoderError, match="does not fit"):
        load_encoder(tmp_path)
