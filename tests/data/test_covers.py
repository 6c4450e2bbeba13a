"""Covers take away exactly what they name, and baselines see exactly that."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from medssl.data.covers import FRAME, SIGMA, Cover, covered, region, shuffled
from medssl.data.pixels import BASELINES, corners, frame, thumbnail

KEYS = torch.tensor([3, 1 << 40, -7])
SHAPES = st.sampled_from([(16, 16), (28, 20), (33, 17), (8, 16, 24), (3, 21, 13)])
REGIONS = [Cover.FRAME, Cover.CORNERS, Cover.BORDER, Cover.INTERIOR]


def images(shape: tuple[int, ...], num: int = 3, channels: int = 2) -> torch.Tensor:
    return torch.rand(num, channels, *shape, generator=torch.Generator().manual_seed(sum(shape)))


@given(SHAPES, st.sampled_from(REGIONS))
def test_what_is_covered_leaves_no_trace_and_the_rest_stays(shape: tuple[int, ...], cover: Cover) -> None:
    """Other content under the cover gives the same image, bit by bit, and nothing else changes."""
    before = images(shape)
    hidden = region(shape, cover)[0].expand(before.shape)
    other = torch.where(hidden, 1 - before, before)
    shown = covered(before, cover, KEYS)
    assert torch.equal(shown, covered(other, cover, KEYS))
    assert torch.equal(shown[~hidden], before[~hidden])


def test_the_cover_is_the_mean_of_what_is_left_of_each_image_and_channel() -> None:
    before = images((16, 16))
    shown = covered(before, Cover.FRAME, KEYS)
    assert torch.allclose(shown[..., 0, 0], before[..., 2:-2, 2:-2].mean((-1, -2)))


def test_frame_corners_and_interior_are_where_they_are_said_to_be() -> None:
    outer, inner, squares = (region((32, 32), cover)[0] for cover in (Cover.FRAME, Cover.INTERIOR, Cover.CORNERS))
    assert torch.equal(outer, ~inner)
    assert torch.equal(inner.nonzero().amin(0), torch.tensor([4, 4]))
    assert outer.float().mean() == 1 - (1 - 2 * FRAME) ** 2
    assert squares[:6, :6].all()
    assert squares.sum() == 4 * 36
    assert torch.equal(region((32, 32), Cover.BORDER)[0], outer | squares)


@pytest.mark.parametrize("cover", REGIONS)
def test_in_3d_every_slice_has_the_same_cover(cover: Cover) -> None:
    volume, flat = region((5, 16, 24), cover)[0], region((16, 24), cover)[0]
    assert all(torch.equal(each, flat) for each in volume)


@pytest.mark.parametrize("cover", REGIONS)
def test_windows_of_a_volume_are_covered_as_the_volume_is(cover: Cover) -> None:
    whole = region((10, 32, 48), cover)[0]
    first = torch.tensor([[0, 0, 0], [2, 16, 32], [4, 7, 11]])
    found = region((6, 16, 16), cover, first=first, extent=torch.tensor([[10, 32, 48]]).expand(3, -1))
    for window, (z, y, x) in zip(found, first.tolist(), strict=True):
        assert torch.equal(window, whole[z : z + 6, y : y + 16, x : x + 16])


def test_a_window_that_lies_in_the_frame_altogether_becomes_black() -> None:
    shown = covered(
        images((4, 4), num=1), Cover.FRAME, KEYS[:1], first=torch.zeros(1, 2), extent=torch.tensor([[64, 64]])
    )
    assert (shown == 0).all()


@pytest.mark.parametrize("shape", [(64, 64), (16, 32, 48)])
def test_the_low_pass_is_the_gaussian_of_scipy(shape: tuple[int, ...]) -> None:
    before = images(shape, num=1, channels=1)
    theirs = gaussian_filter(before[0, 0].numpy(), [n * SIGMA for n in shape], mode="nearest", truncate=4.0)
    assert np.allclose(covered(before, Cover.LOW_PASS, KEYS[:1])[0, 0], theirs, atol=2e-4)  # reaches differ by a tap


@given(SHAPES, st.integers(-(2**62), 2**62))
def test_shuffling_keeps_every_patch_and_depends_on_the_key_alone(shape: tuple[int, ...], key: int) -> None:
    before = images(shape, num=2)
    keys = torch.tensor([key, key + 1])
    shown = shuffled(before, keys)
    assert torch.equal(shown, shuffled(before, keys))
    assert torch.equal(shown[1:], shuffled(before[1:], keys[1:]))
    kept = tuple(slice(0, size // 4 * 4 if size >= 4 else size) for size in shape)
    one, other = shown[(..., *kept)], before[(..., *kept)]
    assert torch.equal(one.flatten(2).sort(2).values, other.flatten(2).sort(2).values)


def test_patches_move_whole() -> None:
    ramp = torch.arange(16.0).repeat_interleave(4).view(1, 1, 16, 4).repeat_interleave(4, 3)[..., :16]
    shown = shuffled(ramp, KEYS[:1])[0, 0]
    blocks = shown.view(4, 4, 4, 4).permute(0, 2, 1, 3).reshape(16, 16)
    rows = ramp[0, 0].view(4, 4, 4, 4).permute(0, 2, 1, 3).reshape(16, 16)
    assert sorted(map(tuple, blocks.tolist())) == sorted(map(tuple, rows.tolist()))
    assert not torch.equal(shown, ramp[0, 0])


@pytest.mark.parametrize("shape", [(28, 28), (64, 64), (6, 16, 24)])
def test_baselines_see_their_part_of_an_image_and_nothing_else(shape: tuple[int, ...]) -> None:
    before = images(shape).numpy()
    for see, cover in ((frame, Cover.FRAME), (corners, Cover.CORNERS)):
        hidden = region(shape, cover)[0].numpy()
        assert see(before).shape == (3, 2 * hidden.sum())
        assert np.array_equal(see(np.where(hidden, before, 0)), see(before))
    assert all(see(before).ndim == 2 and len(see(before)) == 3 for see in BASELINES.values())


def test_a_thumbnail_is_the_mean_of_each_cell() -> None:
    before = images((16, 8)).numpy()
    assert np.allclose(thumbnail(before), before.reshape(3, 2, 4, 4, 4, 2).mean((3, 5)).reshape(3, -1))


def test_without_contrast_a_darker_copy_is_the_same_image() -> None:
    before = images((16, 16))
    shown, darker = (covered(x, Cover.CONTRAST, KEYS) for x in (before, 0.3 * before + 0.1))
    assert torch.allclose(shown, darker, atol=1e-5)
    assert shown.mean() == pytest.approx(0.5, abs=0.02)
    assert torch.isfinite(covered(torch.full((2, 1, 8, 8), 0.3), Cover.CONTRAST, KEYS[:2])).all()
