"""Views: pure operations equal MONAI's, randomness comes from keys alone, in two and three dimensions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import AdjustContrast, Affine, Flip

from medssl.core.keys import view_keys
from medssl.data.views import View, ViewRecipe, add_noise, adjust, crop_boxes, crop_resize, draw, make_views, warp
from medssl.methods.rotation import in_plane_rotation


def some_images(batch: int, *shape: int) -> torch.Tensor:
    return torch.rand(batch, 1, *shape, generator=torch.Generator().manual_seed(0))


def some_keys(batch: int, epoch: int = 0) -> torch.Tensor:
    return torch.from_numpy(view_keys(0, epoch, np.arange(batch), 1))[:, 0]


@pytest.mark.parametrize("shape", [(16, 16), (12, 20), (8, 12, 10)])
def test_the_whole_image_is_the_identity_box(shape: tuple[int, ...]) -> None:
    images = some_images(2, *shape)
    n = len(shape)
    assert torch.allclose(crop_resize(images, torch.zeros(2, n), torch.ones(2, n)), images, atol=1e-5)


def test_a_negative_half_size_mirrors_the_last_axis_as_monai_does() -> None:
    images = some_images(2, 8, 12)
    half = torch.tensor([[1.0, -1.0]] * 2)
    assert torch.allclose(
        crop_resize(images, torch.zeros(2, 2), half)[0], torch.as_tensor(Flip(1)(images[0])), atol=1e-5
    )


def test_an_aligned_crop_equals_cutting_and_interpolating() -> None:
    images = some_images(1, 16, 16)
    cut = torch.nn.functional.interpolate(images[:, :, 4:12, 2:10], size=(16, 16), mode="bilinear", align_corners=False)
    made = crop_resize(images, torch.tensor([[0.0, -0.25]]), torch.tensor([[0.5, 0.5]]))
    assert torch.allclose(made[..., 1:-1, 1:-1], cut[..., 1:-1, 1:-1], atol=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 17.0, 90.0, 250.0])
def test_rotation_equals_monais_affine(degrees: float) -> None:
    images = some_images(1, 20, 20)
    angle = torch.deg2rad(torch.tensor([degrees]))
    made = warp(images, in_plane_rotation(angle, 2))[0]
    monai = Affine(rotate_params=-float(angle), padding_mode="border", mode="bilinear", image_only=True)(images[0])
    assert torch.allclose(made, torch.as_tensor(monai), atol=1e-4)


def test_gamma_equals_monais_adjust_contrast_on_a_unit_range() -> None:
    images = some_images(1, 16, 16)
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    made = adjust(images, torch.ones(1), torch.zeros(1), torch.tensor([1.7]))[0]
    assert torch.allclose(made, torch.as_tensor(AdjustContrast(1.7)(images[0])), atol=1e-5)


@settings(deadline=None)
@given(st.integers(2, 3), st.integers(0, 99), st.floats(0.1, 1.0))
def test_boxes_lie_inside_the_image_and_keep_the_asked_share(ndim: int, epoch: int, low: float) -> None:
    centre, half = crop_boxes(some_keys(50, epoch), ndim, View(crop_scale=(low, 1.0)))
    assert (centre.abs() + half <= 1 + 1e-6).all()
    share = half.prod(1)
    assert (share >= low - 1e-5).all()
    assert (share <= 1 + 1e-5).all()


def test_flips_come_at_their_chance_and_never_when_laterality_matters() -> None:
    keys = some_keys(4000)
    assert (crop_boxes(keys, 2, View(flip=0.3))[1][:, -1] < 0).float().mean() == pytest.approx(0.3, abs=0.03)
    assert (crop_boxes(keys, 2, View())[1] > 0).all()


def test_noise_has_the_largest_deviation_it_was_given() -> None:
    images = torch.zeros(400, 1, 16, 16)
    deviations = add_noise(images, some_keys(400), 0.2).flatten(1).std(1)
    assert deviations.max() < 0.23
    assert deviations.mean() == pytest.approx(0.1, abs=0.01)


def test_a_view_is_the_same_in_any_batch_and_differs_between_epochs() -> None:
    view = View(crop_scale=(0.3, 1.0), flip=0.5, contrast=0.3, brightness=0.1, gamma=0.2, noise=0.1)
    images, keys = some_images(6, 16, 16), some_keys(6)
    whole = draw(images, keys, view)
    order = torch.tensor([4, 1])
    assert torch.allclose(draw(images[order], keys[order], view), whole[order], atol=1e-6)
    assert not torch.allclose(draw(images, some_keys(6, epoch=1), view), whole, atol=1e-2)


def test_the_default_recipe_changes_nothing() -> None:
    images = some_images(2, 8, 8)
    made = make_views(images, some_keys(2)[:, None], torch.arange(2), ViewRecipe())
    assert len(made.images) == 1
    assert torch.equal(made.images[0], images)
