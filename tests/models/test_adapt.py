"""Weights of our own encoders in another shape, other channels or another dimension give the features they should."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from foreign_weights import GREY, saved
from hypothesis import given
from hypothesis import strategies as st
from small_encoders import small

from medssl.core.errors import EncoderError
from medssl.models.adapt import (
    fold_normalisation,
    inflated,
    load_weights,
    resized_offsets,
    resized_patch,
    spread_channels,
)
from medssl.models.encoders.base import ENCODERS, centred
from medssl.models.weights import IMAGENET, Normalisation

every = pytest.mark.parametrize("name", ENCODERS.names())


@every
def test_the_same_encoder_is_taken_whole(name: str, tmp_path: Path) -> None:
    source, target = small(name, (32, 32)), small(name, (32, 32), seed=1)
    done = load_weights(target, saved(source, name, tmp_path))
    assert (done.share, done.adapted, done.missing, done.unexpected) == (1.0, {}, {}, ())
    assert set(done.matched) == set(source.state_dict())
    assert torch.equal(target(GREY).pooled, source(GREY).pooled)


@pytest.mark.parametrize("kept", ["encoder.safetensors", "checkpoint", "checkpoint of a teacher"])
def test_the_file_in_a_run_is_as_good_as_its_folder(kept: str, tmp_path: Path) -> None:
    source, target, student = (small("vit", (32, 32), seed=seed) for seed in range(3))
    path = saved(source, "vit", tmp_path) / "encoder.safetensors"
    if kept != "encoder.safetensors":
        model = {f"encoder.{name}": tensor for name, tensor in source.state_dict().items()} | {"head.weight": GREY}
        if "teacher" in kept:
            model = {f"teacher.{name}": tensor for name, tensor in model.items()}
            model |= {f"encoder.{name}": tensor for name, tensor in student.state_dict().items()}
        path = tmp_path / "step-00000012.pt"
        torch.save({"model": model, "optimiser": {}, "scaler": {}, "step": 12, "kept": {}, "identity": {}}, path)
    assert load_weights(target, path).share == 1.0
    assert torch.equal(target(GREY).pooled, source(GREY).pooled)


@every
@pytest.mark.parametrize("channels", [3, 4])
def test_a_grey_image_and_its_copy_in_every_channel_have_the_same_features(
    name: str, channels: int, tmp_path: Path
) -> None:
    colour, grey = small(name, (32, 32), channels), small(name, (32, 32), seed=1)
    copies = GREY.expand(-1, channels, -1, -1)
    done = load_weights(grey, saved(colour, name, tmp_path / "colour"))
    assert list(done.adapted.values()) == [f"{channels} channels to 1"]
    assert torch.allclose(grey(GREY).pooled, colour(copies).pooled, atol=1e-5)
    again = small(name, (32, 32), channels, seed=2)
    load_weights(again, saved(grey, name, tmp_path / "grey"))
    assert torch.allclose(again(copies).pooled, grey(GREY).pooled, atol=1e-5)


def test_one_channel_is_the_sum_of_three_to_1e_6() -> None:
    conv = torch.rand(8, 3, 7, 7, dtype=torch.float64)
    image = torch.rand(1, 1, 30, 30, dtype=torch.float64)
    ours = F.conv2d(image, spread_channels(conv, 1), padding=3)
    assert torch.allclose(ours, F.conv2d(image.expand(1, 3, -1, -1), conv, padding=3), atol=1e-6)


@given(st.sampled_from([1, 3]), st.sampled_from([2, 3]))
def test_a_folded_normalisation_is_a_normalised_image(channels: int, ndim: int) -> None:
    scale = IMAGENET if channels == 3 else Normalisation((0.2,), (0.7,))
    conv, image = torch.rand(4, channels, *(3,) * ndim).double(), torch.rand(1, channels, *(6,) * ndim).double()
    mean, std = (torch.tensor(v).double().view(1, -1, *(1,) * ndim) for v in (scale.mean, scale.std))
    convolve = (F.conv2d, F.conv3d)[ndim - 2]
    weight, bias = fold_normalisation(conv, scale)
    assert torch.allclose(convolve(centred(image), weight, bias), convolve((image - mean) / std, conv), atol=1e-6)


@pytest.mark.parametrize("name", ["resnet", "resenc"])
def test_2d_weights_start_a_3d_encoder(name: str, tmp_path: Path) -> None:
    plane, space = small(name, (32, 32), 3), small(name, (16, 32, 32), 1, seed=1)
    done = load_weights(space, saved(plane, name, tmp_path))
    assert done.share == 1
    assert "inflated to 3D" in done.adapted.values() and "3 channels to 1, inflated to 3D" in done.adapted.values()
    with pytest.raises(EncoderError, match="of the encoder's parameters, expected at least 90%; missing"):
        load_weights(plane, saved(space, name, tmp_path))


def test_an_inflated_convolution_sees_a_still_volume_as_the_plane_it_repeats() -> None:
    conv, image = torch.rand(4, 2, 3, 3), torch.rand(1, 2, 8, 8)
    volume = image.unsqueeze(2).expand(-1, -1, 5, -1, -1)
    seen = F.conv3d(volume, inflated(conv, 3))
    assert torch.allclose(seen, F.conv2d(image, conv).unsqueeze(2).expand_as(seen), atol=1e-6)


@given(st.sampled_from([(4, 4), (4, 6), (2, 3, 4)]), st.integers(1, 3))
def test_a_patch_embedding_gives_enlarged_patches_the_same_token(size: tuple[int, ...], factor: int) -> None:
    weight, patch = torch.rand(5, 2, *size).double(), torch.rand(1, 2, *size).double()
    larger = tuple(n * factor + 1 for n in size)
    mode = ("bilinear", "trilinear")[len(size) - 2]
    tokens = (F.interpolate(patch, larger, mode=mode) * resized_patch(weight, larger)).flatten(1).sum(1)
    assert torch.allclose(tokens, (patch * weight).flatten(1).sum(1))
    assert torch.allclose(resized_patch(weight, size), weight)


@pytest.mark.parametrize("ndim", [2, 3])
def test_relative_positions_of_another_window_keep_centre_and_symmetry(ndim: int) -> None:
    offsets = torch.stack(torch.meshgrid(*[torch.arange(-2, 3.0)] * ndim, indexing="ij")).square().sum(0)
    table = offsets.reshape(-1, 1).expand(-1, 2)
    larger = resized_offsets(table, 9**ndim, ndim).reshape(*(9,) * ndim, 2)
    assert torch.allclose(larger, larger.flip(list(range(ndim))), atol=1e-5)
    assert larger[(4,) * ndim].abs().max() < 1e-5
    assert torch.allclose(resized_offsets(table, len(table), ndim), table, atol=1e-5)


def test_another_window_and_patch_are_adapted(tmp_path: Path) -> None:
    source = saved(small("swin", (32, 32)), "swin", tmp_path)
    done = load_weights(small("swin", (32, 32), window=5, patch=4), source)
    assert done.share == 1
    assert done.adapted["net.patch_embed.proj.weight"] == "patch (2, 2) to (4, 4)"
    assert done.adapted["net.layers1.blocks.0.attn.relative_position_bias_table"] == "25 relative positions to 81"
    with pytest.raises(
        EncoderError, match=r"missing .*relative_position_bias_table \(\(25, 2\) there, \(125, 2\) here"
    ):
        load_weights(small("swin", (16, 16, 16)), source)
    whole = {k: v.half() for k, v in small("swin", (32, 32)).state_dict().items() if v.is_floating_point()}
    torch.save(whole, tmp_path / "half.pt")
    assert load_weights(small("swin", (32, 32), window=5), tmp_path / "half.pt").share == 1
