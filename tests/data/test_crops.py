"""Boxes: inside their volume, around tissue as often as said, and a cover with the fewest windows for scoring."""

from math import ceil, prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import SpatialCrop

from medssl.core.keys import view_keys
from medssl.data.crops import FOREGROUND_CHANCE, block_shape, boxes, cut, starts, windows

axis = st.integers(1, 20).flatmap(lambda size: st.tuples(st.just(size), st.integers(size, 4 * size)))


def keys(num: int) -> np.ndarray:
    return view_keys(0, 0, np.arange(num), 1)[:, 0]


@settings()
@given(st.lists(axis, min_size=2, max_size=3))
def test_windows_cover_the_volume_stay_inside_and_are_fewest(axes: list[tuple[int, int]]) -> None:
    window, shape = (tuple(column) for column in zip(*axes, strict=True))
    covered = np.zeros(shape, bool)
    made = windows(shape, window)
    for box in made:
        for span, extent, size in zip(box, shape, window, strict=True):
            assert span.start >= 0
            assert span.stop - span.start == size
            assert span.stop <= extent
        covered[box] = True
    assert covered.all()
    assert len(made) == prod(ceil(n / w) for n, w in zip(shape, window, strict=True))


@given(st.integers(5, 60), st.integers(1, 5))
def test_windows_overlap_evenly(extent: int, size: int) -> None:
    steps = np.diff([box[0].start for box in windows((extent,), (size,))])
    assert steps.size == 0 or np.ptp(steps) <= 1


def test_a_window_larger_than_the_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        windows((10, 10), (12, 8))


@settings()
@given(st.lists(axis, min_size=2, max_size=3), st.integers(0, 3))
def test_drawn_boxes_lie_inside_their_volume(axes: list[tuple[int, int]], stream: int) -> None:
    size, extent = (np.tile(column, (50, 1)) for column in zip(*axes, strict=True))
    points = np.stack([extent // 2, extent - 1, np.zeros_like(extent)], axis=1)
    for near in (None, points):
        first = starts(keys(50), stream, extent, size, near)
        assert (first >= 0).all()
        assert (first + size <= extent).all()


def test_without_points_every_place_is_equally_frequent() -> None:
    num = 8000
    first = starts(keys(num), 1, np.full((num, 2), 11), np.full((num, 2), 4))
    counts = np.bincount(first[:, 0] * 8 + first[:, 1], minlength=64)
    assert np.square(counts - num / 64).sum() / (num / 64) < 103.4  # chi-squared of 63 degrees at 0.999


def test_boxes_hold_tissue_as_often_as_said_wherever_it_lies() -> None:
    num = 4000
    point = np.array([[[90, 2, 50], [-1, -1, -1]]])  # the second is none
    first = starts(keys(num), 1, np.full((num, 3), 100), np.full((num, 3), 10), np.repeat(point, num, axis=0))
    holds = ((first <= point[0, 0]) & (point[0, 0] < first + 10)).all(1)
    assert holds.mean() == pytest.approx(FOREGROUND_CHANCE, abs=0.015)
    assert len(np.unique(first[holds, 2])) == 10  # anywhere in the box
    anywhere = starts(keys(num), 1, np.full((num, 3), 100), np.full((num, 3), 10), np.full((num, 2, 3), -1))
    assert np.ptp(anywhere[:, 0]) > 80


def test_each_point_of_tissue_is_as_likely() -> None:
    num = 3000
    points = np.array([[[5], [50], [-1], [95]]])
    first = starts(keys(num), 1, np.full((num, 1), 100), np.full((num, 1), 1), np.repeat(points, num, axis=0))
    counts = [(first == place).mean() for place in (5, 50, 95)]
    assert counts == pytest.approx([FOREGROUND_CHANCE / 3] * 3, abs=0.04)


@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8])
def test_a_cut_equals_monais_spatial_crop_on_both_paths(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    n = len(shape)
    blocks = (torch.rand(2, 3, *(2 * s for s in shape)) * 200).to(dtype)
    which, first = torch.tensor([1, 0, 1]), torch.tensor([[0] * n, [3] * n, [2] * n])
    mirrored = torch.tensor([False, True, True])
    made = cut(blocks, which, first, shape, mirrored)
    for image, block, at, flip in zip(made, which, first, mirrored, strict=True):
        crop = SpatialCrop(roi_start=at, roi_end=at + torch.tensor(shape))(blocks[block]).as_tensor()
        assert torch.equal(image, (crop.flip(-1) if flip else crop).to(image.dtype))
    unfolded = blocks
    for i, size in enumerate(shape):
        unfolded = unfolded.unfold(2 + i, size, 1)
    assert torch.equal(unfolded[(which, slice(None), *first.unbind(1))].to(made.dtype)[0], made[0])


def test_several_crops_need_a_larger_block_and_boxes_name_its_voxels() -> None:
    assert block_shape((96, 64), 1) == (96, 64)
    assert block_shape((96, 64), 8) == (144, 96)
    assert boxes(np.array([[1, 2]]), np.array([[3, 4]])) == [(slice(None), slice(1, 4), slice(2, 6))]
