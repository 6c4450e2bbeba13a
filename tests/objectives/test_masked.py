"""Masked objectives against naive loops, in two and three dimensions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medssl.objectives.masked import masked_mse, normalised_patches, patchify, unpatchify

shapes = st.integers(2, 3).flatmap(
    lambda n: st.tuples(st.tuples(*[st.integers(1, 3)] * n), st.tuples(*[st.integers(1, 4)] * n))
)


@given(shapes, st.integers(1, 3), st.integers(1, 3))
def test_patches_are_raster_ordered_and_round_trip(sizes: tuple, batch: int, channels: int) -> None:
    grid, patch = sizes
    shape = tuple(g * p for g, p in zip(grid, patch, strict=True))
    images = torch.arange(batch * channels * int(np.prod(shape)), dtype=torch.float64).reshape(batch, channels, *shape)
    patches = patchify(images, patch)
    assert torch.equal(unpatchify(patches, patch, shape), images)
    for token, place in enumerate(np.ndindex(*grid)):
        box = tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True))
        expected = images[(slice(None), slice(None), *box)].flatten(2).transpose(1, 2).flatten(1)
        assert torch.equal(patches[:, token], expected)


def test_patch_order_equals_a_strided_convolutions() -> None:
    images = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    by_conv = torch.nn.functional.conv2d(images, weight, stride=4).flatten(2).transpose(1, 2)
    assert torch.allclose(patchify(images, (4, 4)) @ weight.flatten(1).T, by_conv, atol=1e-5)


def test_loss_equals_a_naive_double_loop_over_hidden_patches() -> None:
    g = torch.Generator().manual_seed(0)
    images, predicted = torch.rand(3, 1, 8, 8, generator=g), torch.randn(3, 4, 16, generator=g)
    hidden = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 1], [1, 0, 0, 0]])
    target = normalised_patches(patchify(images, (4, 4)), 1e-4)
    for b in range(3):
        errors = []
        for token, (y, x) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
            if hidden[b, token]:
                p = images[b, 0, y : y + 4, x : x + 4].flatten()
                wanted = (p - p.mean()) / max(float(p.var()), 1e-4) ** 0.5
                errors.append(float(((predicted[b, token] - wanted) ** 2).mean()))
        assert masked_mse(predicted, target, hidden)[b].item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_air_does_not_become_amplified_noise() -> None:
    air = 1e-5 * torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
    assert normalised_patches(air, 1e-4).abs().max() < 0.01
    tissue = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
    assert normalised_patches(tissue, 1e-4).std() == pytest.approx(1, abs=1e-5)


def test_kept_patches_do_not_enter_the_loss() -> None:
    predicted, target = torch.zeros(1, 4, 2), torch.ones(1, 4, 2)
    hidden = torch.tensor([[1.0, 1, 0, 0]])
    before = masked_mse(predicted, target, hidden)
    predicted[0, 2:] = 1e6
    assert torch.equal(masked_mse(predicted, target, hidden), before)
