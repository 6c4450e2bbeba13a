"""Patches in two and three dimensions: their order, their way back, and their embedding as a convolution's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medssl.models.patches import PatchEmbedding, patchify, picked, unpatchify

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
        assert torch.equal(patches[:, token], images[(slice(None), slice(None), *box)].flatten(1))


@pytest.mark.parametrize("patch", [(4, 4), (2, 8), (2, 4, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_embedding_is_its_strided_convolution(patch: tuple[int, ...], channels: int) -> None:
    embedding = PatchEmbedding(patch, channels, 12)
    images = torch.randn(2, channels, *(3 * side for side in patch), generator=torch.Generator().manual_seed(0))
    convolved = embedding.proj(images).flatten(2).transpose(1, 2)  # B L D
    assert torch.allclose(embedding(images), convolved, atol=1e-5)
    keep = torch.stack([torch.randperm(convolved.shape[1], generator=torch.Generator().manual_seed(i)) for i in (0, 1)])
    keep = keep[:, :4]
    assert torch.allclose(embedding(images, keep), picked(convolved, keep), atol=1e-5)
