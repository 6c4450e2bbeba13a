"""Pictures of what an encoder sees: colours, attention and feature maps lie where the image says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_feed import IMAGES, method

from medssl.core.types import Geometry
from medssl.engine.monitors.base import evaluating
from medssl.engine.pictures import (
    RED,
    TINT,
    encoder_pictures,
    on_grid,
    planes,
    principal_colours,
    tiles,
    tinted,
)
from medssl.models.build import build_encoder
from medssl.models.encoders.base import ENCODERS, Encoder

VIT = {"width": 24, "depth": 2, "heads": 2, "patch": 4}


def built(name: str, geometry: Geometry, **config: Any) -> Encoder:
    return build_encoder(name, ENCODERS.load(name).config_class.parse(config), geometry, seed=0)


@pytest.mark.parametrize("shape", [(16, 16), (8, 16, 16)])
def test_an_encoder_with_tokens_shows_them_and_its_attention(shape: tuple[int, ...]) -> None:
    encoder = built("vit", Geometry(shape), width=24, depth=2, heads=2, patch=4)
    images = torch.rand(2, 1, *shape)
    with evaluating(encoder):
        sheets = encoder_pictures(encoder, images)
    assert list(sheets) == ["tokens", "attention"]
    assert list(sheets["attention"]) == ["image", "all heads", "head 1", "head 2"]
    assert all(part.shape == (2, 3, *shape) for part in (sheets["tokens"]["tokens"], sheets["attention"]["head 1"]))
    pictures, captions, columns = tiles(sheets["attention"])
    planes_each = 1 if len(shape) == 2 else 3
    assert len(pictures) == len(captions) == 2 * 4 * planes_each
    assert columns == 4
    assert [picture.ndim for picture in pictures[:4]] == [2, 3, 3, 3]  # a row is one image or plane, in every column
    assert len({picture.shape[:2] for picture in pictures[:4]}) == 1


@pytest.mark.parametrize(
    ("name", "shape", "config"),
    [
        ("resnet", (32, 32), {"depth": 10, "width": 8, "stem": 1}),
        ("resnet", (16, 32, 32), {"depth": 10, "width": 8, "stem": 2}),
    ],
)
def test_an_encoder_without_tokens_shows_its_coarsest_feature_maps(
    name: str, shape: tuple[int, ...], config: dict[str, Any]
) -> None:
    encoder = built(name, Geometry(shape), **config)
    images = torch.rand(2, 1, *shape)
    with evaluating(encoder):
        sheets = encoder_pictures(encoder, images)
    assert list(sheets) == ["features"]
    columns = sheets["features"]
    assert len(columns) == 4
    assert all(part.shape == (2, 3, *shape) for part in list(columns.values())[1:])
    assert all(0 <= float(part.min()) <= float(part.max()) <= 1 for part in columns.values())


def test_feature_maps_take_the_place_of_what_they_saw() -> None:
    """The half that is bright and the half that is dark never share a colour."""
    encoder = built("resnet", Geometry((64, 64)), depth=10, width=8, stem=2, norm="group")
    images = torch.zeros(2, 1, 64, 64)
    images[:, :, :, 32:] = torch.rand(2, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    with evaluating(encoder):
        (coarse, *_) = list(encoder_pictures(encoder, images)["features"].values())[1:]
    left, right = coarse[..., 8], coarse[..., -8]
    assert not torch.isclose(left, right, atol=0.05).all(dim=1).any()


def test_a_volume_shows_the_middle_plane_of_each_axis() -> None:
    volume = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 1, 3, 4, 5)
    shown = planes(volume)
    assert [tuple(p.shape) for p in shown] == [(1, 4, 5), (1, 3, 5), (1, 3, 4)] * 2
    assert torch.equal(shown[0], volume[0, :, 1].flip(-2, -1))  # head up, right side left
    assert torch.equal(shown[5], volume[1, :, :, :, 2].flip(-2, -1))


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([3, 8, 24]))
def test_colours_of_tokens_ignore_a_rotation_of_the_feature_space(seed: int, width: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, 16, width, generator=rng) * torch.arange(1, width + 1)
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=rng))
    colours, turned = principal_colours(tokens), principal_colours(tokens @ turn)
    assert colours.shape == (2, 16, 3)
    assert 0 <= colours.min() <= colours.max() <= 1
    flipped = [torch.allclose(turned[..., i], c, atol=1e-3) or torch.allclose(turned[..., i], 1 - c, atol=1e-3)
               for i, c in enumerate(colours.unbind(-1))]  # fmt: skip
    assert all(flipped)


def test_token_values_land_on_their_patches() -> None:
    encoder: Any = method("mae", "vit", VIT).encoder
    maps = on_grid(torch.arange(16.0).view(1, 16, 1), encoder, IMAGES[:1])
    assert maps.shape == (1, 1, 16, 16)
    assert torch.equal(maps[0, 0, ::4, ::4], torch.arange(16.0).view(4, 4))


def test_attention_reddens_the_image_and_leaves_it_grey_elsewhere() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 500.0]).repeat_interleave(torch.tensor([300, 300, 300, 1])).view(1, 1, 1, -1)
    shown = tinted(torch.full((1, 1, 1, 901), 0.5), values)[0, :, 0]
    assert torch.allclose(shown[:, 0], torch.tensor(0.5))
    assert torch.allclose(shown[:, 300], 0.5 + TINT / 2 * (torch.tensor(RED) - 0.5))
    assert torch.allclose(shown[:, -1], 0.5 + TINT * (torch.tensor(RED) - 0.5))  # an outlier takes no more
