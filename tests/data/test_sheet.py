"""The sheet of example views: everything that is drawn is shown, in its place."""

import numpy as np
import torch

from medssl.data.sheet import GAP, sheet


def test_every_image_is_a_row_and_every_view_a_column() -> None:
    originals, small = torch.rand(3, 1, 8, 10), torch.rand(3, 1, 4, 6)
    shown = sheet(originals, [originals * 2, small])
    assert shown.shape == (3 * 8 + 2 * GAP, 10 + 10 + 6 + 2 * GAP, 3)
    second = shown[8 + GAP : 16 + GAP]
    assert np.array_equal(second[:, :10, 0], originals[1, 0].numpy())
    assert np.array_equal(second[:, 10 + GAP : 20 + GAP, 1], (originals[1, 0] * 2).clamp(0, 1).numpy())
    assert np.array_equal(second[2:6, 20 + 2 * GAP :, 2], small[1, 0].numpy())


def test_a_volume_is_shown_by_the_middle_slice_of_each_axis_head_up_and_right_side_left() -> None:
    volume = torch.rand(1, 1, 4, 6, 8)
    shown = sheet(volume, [])[..., 0]
    assert shown.shape == (6, 8 + 8 + 6 + 2 * GAP)
    assert np.array_equal(shown[:, :8], volume[0, 0, 2].numpy()[::-1, ::-1])
    assert np.array_equal(shown[1:5, 8 + GAP : 16 + GAP], volume[0, 0, :, 3].numpy()[::-1, ::-1])
    assert np.array_equal(shown[1:5, 16 + 2 * GAP :], volume[0, 0, :, :, 4].numpy()[::-1, ::-1])


def test_colours_stay_colours() -> None:
    image = torch.rand(1, 3, 5, 5)
    assert np.array_equal(sheet(image, []), image[0].permute(1, 2, 0).numpy())
