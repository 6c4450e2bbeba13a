"""Views: pure operations equal MONAI's, randomness comes from keys alone, in two and three dimensions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.layers import GaussianFilter
from monai.transforms import AdjustContrast, Affine, Flip, Resize, SpatialCrop
from torchvision.transforms.v2.functional import gaussian_blur, resize

from medssl.core.keys import view_keys
from medssl.data.resample import blur_matrix, resample, ringing_matrix
from medssl.data.views import (
    View,
    ViewRecipe,
    add_noise,
    adjust,
    bias_field,
    crop_boxes,
    crop_resize,
    draw,
    make_views,
    warp,
)
from medssl.methods.rotation import rotation


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
    theta = torch.nn.functional.pad(rotation(angle.unsqueeze(1), 2), (0, 1))
    made = warp(images, theta)[0]
    monai = Affine(rotate_params=-float(angle), padding_mode="border", mode="bilinear", image_only=True)(images[0])
    assert torch.allclose(made, torch.as_tensor(monai), atol=1e-4)


def test_gamma_equals_monais_adjust_contrast_on_a_unit_range() -> None:
    images = some_images(1, 16, 16)
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    made = adjust(images, torch.ones(1), torch.zeros(1), torch.tensor([1.7]))[0]
    assert torch.allclose(made, torch.as_tensor(AdjustContrast(1.7)(images[0])), atol=1e-5)


@settings()
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


@pytest.mark.parametrize("shape", [(16, 12), (8, 10, 12)])
def test_a_flip_alone_is_exactly_monais(shape: tuple[int, ...]) -> None:
    images, keys = some_images(20, *shape), some_keys(20)
    made = draw(images.half(), keys, View(flip=0.5))
    flipped = crop_boxes(keys, len(shape), View(flip=0.5))[1][:, -1] < 0
    assert flipped.any()
    assert not flipped.all()
    for image, whole, flip in zip(made, images.half().float(), flipped, strict=True):
        assert torch.equal(image, torch.as_tensor(Flip(len(shape) - 1)(whole)) if flip else whole)


@pytest.mark.parametrize(("shape", "size"), [((16, 24), (8, 12)), ((8, 12, 16), (4, 6, 8))])
def test_a_view_of_as_many_voxels_as_its_box_is_sliced(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    images = torch.arange(30.0 * np.prod(shape)).view(30, 1, *shape)  # every voxel another value
    share = 0.5 ** len(shape)
    made = draw(images, some_keys(30), View(size=size, crop_scale=(share, share)))
    assert made.shape == (30, 1, *size)
    for image, whole in zip(made, images, strict=True):
        first = torch.nonzero(whole[0] == image.flatten()[0])[0]
        assert torch.equal(image, whole[(slice(None), *(slice(a, a + n) for a, n in zip(first, size, strict=True)))])
    assert len(set(made[:, 0].flatten(1)[:, 0].remainder(np.prod(shape)).tolist())) > 15


@pytest.mark.parametrize("size", [(16, 20), (7, 31), (40, 9)])
def test_a_resize_equals_torchvisions_with_antialiasing(size: tuple[int, int]) -> None:
    images = some_images(3, 16, 20)
    made = draw(images, some_keys(3), View(size=size))
    assert torch.allclose(made, resize(images, list(size), antialias=True), atol=1e-5)


def test_a_crop_and_resize_equals_monais_crop_and_resize_away_from_its_border() -> None:
    images = some_images(1, 20, 24, 16)
    made = crop_resize(images, torch.tensor([[-0.2, 0.25, 0.0]]), torch.tensor([[0.6, 0.5, 0.5]]), (24, 24, 24))
    crop = SpatialCrop(roi_start=(2, 9, 4), roi_end=(14, 21, 12))(images[0])
    monai = torch.as_tensor(Resize((24, 24, 24), mode="trilinear", align_corners=False)(crop))
    assert torch.allclose(made[0][:, 2:-2, 2:-2, 3:-3], monai[:, 2:-2, 2:-2, 3:-3], atol=1e-4)


@pytest.mark.parametrize("shape", [(20, 14), (10, 16, 12)])
def test_resampling_by_matrices_equals_sampling_the_grid(shape: tuple[int, ...]) -> None:
    images, n = some_images(8, *shape), len(shape)
    centre, half = crop_boxes(some_keys(8), n, View(crop_scale=(0.2, 0.9), crop_ratio=1.5, flip=0.5))
    theta = torch.cat([torch.diag_embed(half.flip(1)), centre.flip(1).unsqueeze(-1)], dim=2)
    assert torch.allclose(crop_resize(images, centre, half), warp(images, theta), atol=1e-4)


def test_shrinking_does_not_alias() -> None:
    stripes = torch.arange(64).remainder(2).float().expand(1, 1, 64, 64)
    small = draw(stripes, some_keys(1), View(size=(16, 16)))
    assert (small[..., 1:-1] - 0.5).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(24, 30), (20, 22, 18)])
def test_blur_equals_monais_and_torchvisions_gaussian(shape: tuple[int, ...]) -> None:
    images, sigma, n = some_images(2, *shape), 1.3, len(shape)
    made = resample(images, [blur_matrix(torch.full((2,), sigma), sigma, size) for size in shape])
    inside = (..., *[slice(6, -6)] * n)  # beyond the border MONAI sees zeros, torchvision a reflection
    monai = GaussianFilter(n, sigma, approx="sampled")(images)
    assert torch.allclose(made[inside], monai[inside], atol=1e-3)
    if n == 2:
        assert torch.allclose(made[inside], gaussian_blur(images, [13, 13], [sigma, sigma])[inside], atol=1e-5)


def test_blur_draws_a_deviation_an_image_up_to_the_largest_at_its_chance() -> None:
    point = torch.zeros(400, 1, 33, 33)
    point[:, :, 16, 16] = 1.0
    made = draw(point, some_keys(400), View(blur=2.0, blur_chance=0.75))
    place = torch.arange(33.0) - 16
    deviations = (made.sum((1, 2)) * place**2).sum(1).sqrt()
    assert deviations.max() < 2.01
    for sigma in (0.5, 1.0, 1.5):
        assert (deviations > sigma).float().mean() == pytest.approx(0.75 * (1 - sigma / 2), abs=0.06)
    assert torch.allclose(made.sum((1, 2, 3)), torch.ones(400), atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 20), (15, 9), (8, 10, 7)])
@pytest.mark.parametrize("share", [0.3, 0.75, 1.0])
def test_ringing_keeps_the_low_frequencies_of_the_fourier_transform(shape: tuple[int, ...], share: float) -> None:
    images, axes = some_images(2, *shape), list(range(-len(shape), 0))
    made = resample(images, [ringing_matrix(torch.full((2,), share), size) for size in shape])
    spectrum = torch.fft.fftn(images, dim=axes)
    for axis, size in zip(axes, shape, strict=True):
        kept = (torch.fft.fftfreq(size) * size).abs().round() <= int(share * (size // 2) + 1e-6)
        spectrum = spectrum * kept.view(-1, *(1,) * (-axis - 1))
    assert torch.allclose(made, torch.fft.ifftn(spectrum, dim=axes).real, atol=1e-5)
    assert share < 1 or torch.allclose(made, images, atol=1e-5)


@pytest.mark.parametrize("shape", [(24, 30), (12, 14, 16)])
def test_a_bias_field_is_smooth_bounded_and_another_for_every_key(shape: tuple[int, ...]) -> None:
    field = bias_field(some_keys(60), 0.4, shape).log()
    assert field.shape == (60, 1, *shape)
    assert 0.05 < field.abs().max() <= 0.4
    assert abs(float(field.mean())) < 0.05
    steps = [field.diff(dim=axis).abs().max() for axis in range(2, field.ndim)]
    assert max(steps) < 0.4 * 6 * 2 / min(shape)  # a cubic's steepest slope over voxels
    assert torch.equal(field, bias_field(some_keys(60), 0.4, shape).log())
    assert len({part.numpy().tobytes() for part in field}) == 60
    grey = torch.full((60, 1, *shape), 0.5)
    made = draw(grey, some_keys(60), View(bias=0.4))
    assert torch.allclose(made, (0.5 * field.exp()).clamp(0, 1), atol=1e-6)


def test_what_rings_or_is_shaded_stays_in_the_unit_range() -> None:
    made = draw(some_images(20, 16, 16).round(), some_keys(20), View(gibbs=0.8, bias=1.0))
    assert 0 <= made.min() <= made.max() <= 1


def test_a_constant_image_stays_constant_under_crop_blur_and_flip() -> None:
    images = torch.full((4, 1, 12, 10, 8), 0.3)
    made = draw(images, some_keys(4), View(size=(6, 6, 6), crop_scale=(0.1, 1.0), crop_ratio=2, flip=0.5, blur=3.0))
    assert torch.allclose(made, torch.full_like(made, 0.3), atol=1e-5)


@settings(max_examples=30)
@given(st.integers(2, 3), st.integers(0, 99), st.floats(1.0, 3.0))
def test_no_two_sides_of_a_box_differ_by_more_than_the_ratio(ndim: int, epoch: int, ratio: float) -> None:
    _, half = crop_boxes(some_keys(200, epoch), ndim, View(crop_scale=(0.05, 0.1), crop_ratio=ratio))
    assert (half.amax(1) / half.amin(1)).max() <= ratio * (1 + 1e-4)
    if ratio > 1.5:  # every axis is the longest now and then
        assert len(half.argmax(1).unique()) == ndim


def test_bytes_are_scaled_to_the_unit_range() -> None:
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    assert torch.allclose(draw(images, some_keys(2), View()), images / 255)
    assert torch.allclose(draw(images, some_keys(2), View(flip=1.0)), images.flip(-1) / 255)


def test_drawing_in_parts_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    view = View(
        size=(12, 12), crop_scale=(0.3, 1.0), crop_ratio=1.3, flip=0.5, contrast=0.3, gamma=0.2, blur=1.0, noise=0.1,
        gibbs=0.4, bias=0.3,
    )  # fmt: skip
    images, keys = some_images(9, 16, 16), some_keys(9)
    whole = draw(images, keys, view)
    monkeypatch.setattr("medssl.data.views.CHUNK", 2 * 16 * 16)
    assert torch.equal(draw(images, keys, view), whole)


def test_noise_is_normal_and_uncorrelated() -> None:
    made = add_noise(torch.zeros(50, 1, 32, 33), some_keys(50), 1.0).flatten(1)
    normal = made / made.std(1, keepdim=True)
    assert normal.mean() == pytest.approx(0, abs=0.01)
    assert normal.pow(4).mean() == pytest.approx(3, abs=0.1)
    half = normal.shape[1] // 2
    assert (normal[:, :half] * normal[:, half:]).mean() == pytest.approx(0, abs=0.02)
