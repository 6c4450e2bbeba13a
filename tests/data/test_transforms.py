"""The chain of transforms: whatever it does to the grid, every voxel stays where it was in the patient."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medssl.data.prepare import PrepareConfig
from medssl.data.transforms import NUM_POINTS, TISSUE, Placed, array_affine, catalog_affine, place, tissue_points

ROW: dict[str, Any] = {"spacing_mm": None, "affine": None}


def blob(shape: tuple[int, ...], centre: NDArray[np.float64], width: float = 2.5) -> NDArray[np.float32]:
    """Return ``1 *S`` with a Gaussian around ``centre``, in voxels."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    found: NDArray[np.float32] = np.exp(-((grid - centre) ** 2).sum(-1) / (2 * width**2)).astype(np.float32)[None]
    return found


def centre_mm(image: NDArray[Any], affine: list[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centre of mass of ``1 Z Y X`` in the world of ``affine``, which takes (x, y, z)."""
    weights = image[0].astype(np.float64)
    index = [(weights * np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)])).sum() / weights.sum()
             for axis, n in enumerate(weights.shape)]  # fmt: skip
    found: NDArray[np.float64] = (np.reshape(affine, (4, 4)) @ [*index[::-1], 1])[:3]
    return found


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Draw a shape (Z Y X), a place in it away from its borders, and an affine with flips, axes swapped, tilted."""
    shape = tuple(draw(st.integers(26, 40)) for _ in range(3))
    centre = np.array([draw(st.floats(0.4, 0.6)) * n for n in shape])
    spacing = np.array([draw(st.floats(0.5, 2.5)) for _ in range(3)])
    signs = [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    axes = np.eye(3)[list(draw(st.sampled_from(list(permutations(range(3))))))] * signs
    angle = draw(st.floats(-0.4, 0.4))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.roll(np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]), draw(st.integers(0, 2)), (0, 1))
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes * spacing
    affine[:3, 3] = [draw(st.floats(-300, 300)) for _ in range(3)]
    return shape, centre, affine


CONFIGS = [
    PrepareConfig(shape=(8, 8, 8), fit="crop"),
    PrepareConfig(shape=(8, 8, 8), fit="crop", foreground=True),
    PrepareConfig(shape=(70, 66, 60), fit="crop", spacing_mm=(1.0, 1.4, 1.2)),
    PrepareConfig(shape=(40, 36, 44), fit="pad", spacing_mm=(2.0, 1.0, 1.0)),
    PrepareConfig(shape=(24, 24, 24), fit="pad"),
    PrepareConfig(shape=(20, 30, 24), fit="stretch", foreground=True),
    PrepareConfig(shape=(48, 48, 48), fit="stretch"),
]


@settings(max_examples=120)
@given(grids(), st.sampled_from(CONFIGS))
def test_a_blob_stays_where_it_was_in_the_patient(
    grid: tuple[tuple[int, ...], NDArray[np.float64], NDArray[np.float64]], config: PrepareConfig
) -> None:
    shape, centre, affine = grid
    image = blob(shape, centre)
    made = place(image, ROW | {"affine": affine.ravel().tolist()}, config)
    assert made.affine is not None
    assert made.spacing_mm is not None
    assert np.isfinite(made.array).all()
    away = np.abs(np.linalg.inv(np.reshape(made.affine, (4, 4)))[:3, :3] @ (
        centre_mm(made.array, made.affine) - centre_mm(image, affine)))  # fmt: skip
    assert away.max() < 0.5  # of a prepared voxel
    assert np.allclose(np.linalg.norm(np.reshape(made.affine, (4, 4))[:3, 2::-1], axis=0), made.spacing_mm)
    assert_points_to_ras(made)
    if config.fit == "crop":
        assert all(have >= asked for have, asked in zip(made.array.shape[1:], config.shape, strict=True))
        if config.spacing_mm is not None:
            assert np.allclose(made.spacing_mm, config.spacing_mm)
    else:
        assert made.array.shape == (1, *config.shape)


def assert_points_to_ras(made: Placed) -> None:
    """x runs mostly to the right, y to the front, z to the head; LPS counts left and back."""
    directions = np.reshape(made.affine or [], (4, 4))[:3, :3] * [[-1], [-1], [1]]
    assert (np.abs(directions).argmax(0) == [0, 1, 2]).all()
    assert (directions.diagonal() > 0).all()


@given(grids())
def test_the_order_of_axes_goes_out_and_comes_back(grid: Any) -> None:
    affine = grid[2].ravel().tolist()
    found = array_affine(affine)
    assert found is not None
    assert np.allclose(catalog_affine(found), affine)


def test_a_volume_without_an_affine_is_resampled_but_not_turned() -> None:
    image = np.zeros((1, 10, 20, 30), np.float32)
    image[0, :5] = 1
    config = PrepareConfig(shape=(8, 8, 8), fit="crop", spacing_mm=(2.5, 2.0, 1.0))
    made = place(image, ROW | {"spacing_mm": [5.0, 1.0, 1.0]}, config)
    assert made.array.shape == (1, 19, 10, 30)  # first and last voxel stay: 9 · 5 / 2.5 + 1
    assert made.spacing_mm == pytest.approx([2.5, 2.0, 1.0])
    assert made.affine is None
    assert made.flags == {"unoriented"}
    assert made.array[0, 0].min() == 1
    assert made.array[0, -1].max() == 0


@pytest.mark.parametrize("affine", [[0.0] * 16, [float("nan")] * 16, [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]])
def test_an_affine_that_cannot_be_inverted_counts_as_none(affine: list[float]) -> None:
    config = PrepareConfig(shape=(8, 8, 8), fit="crop", spacing_mm=(1.0, 1.0, 1.0))
    made = place(np.zeros((1, 9, 9, 9), np.float32), ROW | {"affine": affine}, config)
    assert made.flags == {"unoriented", "unknown_spacing"}
    assert (made.spacing_mm, made.affine, made.array.shape) == (None, None, (1, 9, 9, 9))


def test_flat_images_are_resampled_in_mm_and_keep_no_affine() -> None:
    made = place(np.ones((1, 40, 20), np.float32), ROW | {"spacing_mm": [0.5, 1.0]}, PrepareConfig(
        shape=(8, 8), fit="crop", spacing_mm=(1.0, 1.0)))  # fmt: skip
    assert made.array.shape == (1, 20, 20)
    assert (made.spacing_mm, made.affine, made.flags) == ([1.0, 1.0], None, frozenset())
    assert made.array.min() == 1


def test_padding_keeps_the_proportions_of_the_patient() -> None:
    thick = np.ones((1, 10, 100, 100), np.float32)  # 50 x 50 x 50 mm
    made = place(thick, ROW | {"spacing_mm": [5.0, 0.5, 0.5]}, PrepareConfig(shape=(20, 20, 20)))
    assert made.array.min() == 1
    assert made.spacing_mm == pytest.approx([2.5, 2.5, 2.5])
    made = place(thick, ROW | {"spacing_mm": [2.5, 0.5, 0.5]}, PrepareConfig(shape=(20, 20, 20)))
    assert made.array[0, :5].max() == made.array[0, 15:].max() == 0
    assert made.array[0, 5:15].min() == 1


def test_nothing_of_a_square_image_is_cut_off_to_fit_a_rectangle() -> None:
    image = np.zeros((1, 40, 40), np.float32)
    image[0, 0] = image[0, -1] = 1
    made = place(image, ROW, PrepareConfig(shape=(20, 40)))
    assert made.array[0, 0, 10:30].min() > 0
    assert made.array[0, -1, 10:30].min() > 0
    assert made.array[0, :, :10].max() == 0


def scanned(affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return ``1 Z Y X`` of a smooth head with a nose, as it lies under a grid in LPS mm."""
    x, y, z = (affine @ [*np.indices(shape)[::-1].reshape(3, -1), np.ones(np.prod(shape))])[:3]
    skull = 1 / (1 + np.exp(((x / 40) ** 2 + (y / 45) ** 2 + (z / 38) ** 2 - 1) * 6))
    nose = np.exp(-(((x - 6) / 9) ** 2 + ((y + 30) / 8) ** 2 + ((z - 5) / 10) ** 2))
    return np.clip(0.7 * skull + 0.3 * nose, 0, 1).reshape(1, *shape).astype(np.float32)


@pytest.mark.parametrize("degrees", [18.5, -25.0, 0.6])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_a_tilted_scan_prepared_is_the_straight_one(degrees: float, axes: tuple[int, ...]) -> None:
    turn = np.eye(3)[list(axes)]
    straight, tilted = np.eye(4), np.eye(4)
    straight[:3, :3] = tilted[:3, :3] = turn * [1.0, 1.0, 2.5]
    tilted[:3, 2] += turn[:, 1] * 2.5 * np.tan(np.radians(degrees))
    shape = (40, 130, 110)
    for affine in (straight, tilted):
        affine[:3, 3] = -affine[:3, :3] @ (np.array(shape[::-1]) - 1) / 2  # its middle is that of the head
    config = PrepareConfig(shape=(64, 64, 64), fit="crop", spacing_mm=(2.0, 2.0, 2.0))
    made = place(scanned(tilted, shape), ROW | {"affine": tilted.ravel().tolist(), "spacing_mm": [2.5, 1, 1]}, config)
    found = np.reshape(made.affine or [], (4, 4))
    axes_mm = found[:3, :3] / 2
    assert np.allclose(axes_mm.T @ axes_mm, np.eye(3), atol=1e-6)  # straight again
    assert made.spacing_mm == pytest.approx([2, 2, 2])
    there = scanned(found, made.array.shape[1:])
    other = place(
        scanned(straight, shape), ROW | {"affine": straight.ravel().tolist(), "spacing_mm": [2.5, 1, 1]}, config
    )
    other_there = scanned(np.reshape(other.affine or [], (4, 4)), other.array.shape[1:])
    error, usual = np.abs(made.array - there), np.abs(other.array - other_there)
    inside = (slice(None), *(slice(4, -4) for _ in range(3)))
    assert error[inside].max() < usual[inside].max() + 0.02
    assert made.array.min() == 0  # outside is air


def test_axes_that_lean_less_than_half_a_degree_are_left_alone() -> None:
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.radians(0.4))
    image = np.random.default_rng(0).random((1, 9, 9, 9)).astype(np.float32)
    made = place(image, ROW | {"affine": affine.ravel().tolist()}, PrepareConfig(shape=(4, 4, 4), fit="crop"))
    assert np.allclose(np.sort(made.array.ravel()), np.sort(image.ravel()), atol=1e-3)


def test_coarser_sampling_does_not_fold_stripes_into_other_stripes() -> None:
    stripes = np.tile(np.array([0.0, 1.0, 0.0], np.float32), 20)[None, :, None] * np.ones((1, 60, 60), np.float32)
    made = place(stripes, ROW | {"spacing_mm": [1.0, 1.0]}, PrepareConfig(
        shape=(8, 8), fit="crop", spacing_mm=(3.2, 1.0)))  # fmt: skip
    inner = made.array[0, 2:-2]
    assert inner.std() < 0.12  # 0.37 without smoothing
    assert inner.mean() == pytest.approx(1 / 3, abs=0.05)


def test_air_is_cut_away_but_for_a_margin() -> None:
    image = np.zeros((1, 30, 30, 30), np.float32)
    image[0, 10:20, 12:15, 5:25] = 0.8
    made = place(image, ROW, PrepareConfig(shape=(4, 4, 4), fit="crop", foreground=True))
    assert made.array.shape == (1, 14, 7, 24)
    empty = place(0 * image, ROW, PrepareConfig(shape=(4, 4, 4), fit="crop", foreground=True))
    assert empty.array.shape == image.shape


def test_points_lie_in_tissue_all_over_it_and_are_the_same_for_the_same_volume() -> None:
    image = np.zeros((2, 20, 30, 40), np.float16)
    image[1, 4:16, 10:20, 10:30] = 0.5
    points = tissue_points(image, "a" * 32)
    assert points.shape == (NUM_POINTS, 3)
    assert (image[1][tuple(points.T)] > TISSUE).all()
    assert set(points[:, 0]) == set(range(4, 16))
    assert np.array_equal(points, tissue_points(image, "a" * 32))
    assert not np.array_equal(points, tissue_points(image, "b" * 32))
    assert (tissue_points(0 * image, "a" * 32) == [10, 15, 20]).all()
    single = np.zeros((1, 5, 5), np.float16)
    single[0, 3, 1] = 1
    assert (tissue_points(single, "c" * 32) == [3, 1]).all()
