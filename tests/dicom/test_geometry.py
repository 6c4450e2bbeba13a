"""Slices are ordered by where they lie; what is no even, straight stack is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medssl.dicom.geometry import Grid, is_located, is_parallel, stack, strays
from medssl.dicom.header import Plane
from medssl.dicom.reasons import DicomProblem, Reason

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def planes(depths: list[float], shift: float = 0.0) -> list[Plane]:
    """Return axial planes at ``depths``, each moved along y by ``shift`` a mm of depth."""
    return [Plane((1.0, 2.0 + shift * z, z), AXIAL, (0.5, 0.75), i) for i, z in enumerate(depths)]


def reason(found: list[Plane]) -> Reason:
    with pytest.raises(DicomProblem) as caught:
        stack(found)
    return caught.value.reason


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    spacing=st.tuples(st.floats(0.3, 10), st.floats(0.2, 3), st.floats(0.2, 3)),
    num=st.integers(2, 40),
    seed=st.integers(0, 2**31),
    decimals=st.sampled_from([6, 9]),
)
def test_any_stack_is_put_in_order_and_its_affine_finds_every_voxel(
    angles: tuple[float, ...],
    origin: tuple[float, ...],
    spacing: tuple[float, float, float],
    num: int,
    seed: int,
    decimals: int,
) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    row, column = turn[:, 0], turn[:, 1]
    normal = np.cross(row, column)
    corners = [np.array(origin) + normal * spacing[0] * k for k in range(num)]
    orientation = tuple(np.round([*row, *column], decimals))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(num)
    numbers = rng.permutation(num)  # InstanceNumber says nothing here
    given_planes = [
        Plane(tuple(np.round(corners[k], decimals)), orientation, spacing[1:], int(numbers[i]))
        for i, k in enumerate(shuffled)
    ]
    grid = stack(given_planes)
    assert [int(shuffled[i]) for i in grid.order] == list(range(num))
    assert grid.spacing_mm == pytest.approx(spacing, rel=1e-3)
    affine = np.array(grid.affine).reshape(4, 4)
    x, y, z = 3, 5, num - 1
    where = corners[z] + row * spacing[2] * x + column * spacing[1] * y
    assert affine @ [x, y, z, 1] == pytest.approx([*where, 1], abs=1e-3)
    assert np.linalg.det(affine[:3, :3]) > 0


def test_the_affine_of_a_plain_axial_stack_is_as_documented() -> None:
    grid = stack(planes([3.0, 1.0, 5.0]))
    assert grid == Grid((1, 0, 2), (2.0, 0.5, 0.75), (0.75, 0, 0, 1, 0, 0.5, 0, 2, 0, 0, 2, 1, 0, 0, 0, 1))


@given(st.integers(3, 30), st.floats(0.5, 8), st.data())
def test_one_missing_slice_is_noticed(num: int, spacing: float, data: st.DataObject) -> None:
    depths = [k * spacing for k in range(num + 1)]
    del depths[data.draw(st.integers(1, num - 1))]
    assert reason(planes(depths)) is Reason.MISSING_SLICES


@given(st.integers(6, 80), st.floats(0.5, 8), st.floats(-20, 20), st.data())
def test_any_run_of_lost_slices_is_missing_and_none_of_the_others_astray(
    num: int, spacing: float, degrees: float, data: st.DataObject
) -> None:
    shift = np.tan(np.radians(degrees))
    whole = planes([round(k * spacing, 3) for k in range(num)], shift=shift)
    first = data.draw(st.integers(2, num - 3))
    lost = data.draw(st.integers(1, min(num - 2 - first, (3 * num) // 4 - 1)))
    left = whole[:first] + whole[first + lost :]
    assert strays(left) == frozenset()
    assert reason(left) is Reason.MISSING_SLICES
    grid, straight = stack(left, allow_gaps=True), stack(whole)
    assert grid.num_planes == num
    assert grid.affine == pytest.approx(straight.affine, abs=1e-6)


def test_gaps_that_are_even_one_by_one_and_drift_together_are_uneven() -> None:
    depths = np.cumsum([0.0, *[2.0] * 100, *[2.035] * 100]).tolist()
    assert reason(planes(depths)) is Reason.UNEVEN_SPACING
    grid = stack(planes(depths), allow_gaps=True)
    assert (grid.num_planes, grid.spacing_mm[0]) == (201, pytest.approx(2.0175))
    assert grid.slices_mm == pytest.approx(depths)


@given(st.integers(2, 300), st.floats(0.5, 8), st.randoms(use_true_random=False))
def test_every_slice_of_an_even_stack_lies_where_its_affine_says(num: int, spacing: float, random: Any) -> None:
    gaps = [spacing * random.uniform(0.985, 1.015) for _ in range(num - 1)]
    found = planes([0.0, *np.cumsum(gaps).tolist()])
    try:
        grid = stack(found)
    except DicomProblem as problem:
        assert problem.reason is Reason.UNEVEN_SPACING
        return
    at = np.reshape(grid.affine, (4, 4))[:3] @ np.array([[0, 0, k, 1] for k in range(num)]).T
    off = np.linalg.norm(at.T - [plane.position for plane in found], axis=1)
    assert off.max() <= max(0.02, 0.0205 * spacing)


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ([0, 1, 2.4, 3.1, 4.9], Reason.UNEVEN_SPACING),
        ([0, 4, 8, 12, 13, 20, 27], Reason.MISSING_SLICES),
        ([0, 5, 10, 20], Reason.MISSING_SLICES),
        ([0, 1, 1, 2], Reason.DUPLICATE_POSITION),
        ([3], Reason.SINGLE_SLICE),
    ],
)
def test_what_is_no_even_stack_has_its_reason(depths: list[float], expected: Reason) -> None:
    assert reason(planes(depths)) is expected


@pytest.mark.parametrize(("degrees", "is_tilted"), [(14, True), (-0.6, True), (0.2, False)])
def test_a_tilted_gantry_leans_in_the_affine_and_is_noticed_from_half_a_degree_on(
    degrees: float, is_tilted: bool
) -> None:
    grid = stack(planes([k * 2.0 for k in range(12)], shift=np.tan(np.radians(degrees))))
    assert grid.is_tilted is is_tilted
    assert grid.affine[6] == pytest.approx(2 * np.tan(np.radians(degrees)))
    assert grid.spacing_mm[0] == pytest.approx(2)  # along the normal


@given(st.integers(3, 30), st.floats(0.5, 8), st.floats(-20, 20), st.data())
def test_gaps_that_are_allowed_get_the_planes_that_are_missing(
    num: int, spacing: float, degrees: float, data: st.DataObject
) -> None:
    whole = planes([k * spacing for k in range(num)], shift=np.tan(np.radians(degrees)))
    missing = data.draw(st.sets(st.integers(1, num - 2), max_size=num // 3)) if num > 4 else set[int]()
    left = [plane for k, plane in enumerate(whole) if k not in missing]
    grid, straight = stack(left, allow_gaps=True), stack(whole)
    assert grid.num_planes == num
    assert grid.affine == pytest.approx(straight.affine, abs=1e-6)
    assert grid.spacing_mm == pytest.approx(straight.spacing_mm)
    if missing:
        assert grid.slices_mm == pytest.approx([k * spacing for k in range(num) if k not in missing], abs=1e-6)
    else:
        assert grid.slices_mm == ()


@pytest.mark.parametrize(
    ("depths", "spacing", "num"),
    [
        ([0, 5, 10, 20], 5, 5),
        ([0, 1, 2, 3, 3.3, 5, 7], 1, 8),  # 0.3 occurs once
        ([0, 1, 2.4, 3.1, 4.9], 0.7, 8),
        ([0, 2, 4, 7], 7 / 4, 5),  # both ends stay
    ],
)
def test_uneven_slices_get_the_finest_spacing_that_recurs(depths: list[float], spacing: float, num: int) -> None:
    grid = stack(planes(depths), allow_gaps=True)
    assert (grid.spacing_mm[0], grid.num_planes) == (pytest.approx(spacing), num)
    assert grid.slices_mm == pytest.approx(depths)


def test_a_gap_that_would_be_made_up_for_the_most_part_is_not_allowed() -> None:
    with pytest.raises(DicomProblem) as caught:
        stack(planes([0, 1, 2, 30]), allow_gaps=True)
    assert caught.value.reason is Reason.MISSING_SLICES


@given(st.integers(6, 30), st.floats(0.5, 8), st.floats(6, 300), st.booleans(), st.randoms(use_true_random=False))
def test_a_scout_far_from_the_others_is_astray(num: int, spacing: float, far: float, below: bool, random: Any) -> None:
    depths = [k * spacing for k in range(num)]
    depths.append(-far * spacing if below else (num - 1 + far) * spacing)
    order = random.sample(range(num + 1), num + 1)
    found = strays(planes([depths[i] for i in order]))
    assert {order[i] for i in found} == {num}


def test_missing_slices_and_second_stacks_are_not_astray() -> None:
    assert strays(planes([0, 5, 10, 20])) == frozenset()
    assert strays(planes([0, 1, 2, 3, 4, 50, 51, 52, 53, 54])) == frozenset()
    assert strays(planes([0, 1, 2])) == frozenset()
    assert strays(planes([*range(20), 26, *range(33, 53)])) == frozenset()  # a single one with others behind it


@pytest.mark.parametrize("others", [[30.5, 31.5], [30, 31.37], [40.25, 52.25], [60, 90]])
def test_a_few_that_cannot_lie_on_the_grid_and_single_ones_at_an_end_are_astray(others: list[float]) -> None:
    assert strays(planes([*range(20), *others])) == {20, 21}
    assert strays(planes([-z for z in others] + list(range(20)))) == {0, 1}


def test_a_few_on_the_grid_but_off_the_line_are_astray() -> None:
    found = planes([*range(20), 30, 31])
    aside = [replace(plane, position=(40.0, *plane.position[1:])) for plane in found[20:] if plane.position]
    assert strays(found[:20] + aside) == {20, 21}


def test_a_few_far_from_uneven_slices_may_be_of_their_series() -> None:
    assert strays(planes([0, 1, 2.4, 3.1, 4.9, 6, 7.3, 8, 60, 61.5])) == frozenset()


def test_one_end_off_the_line_is_astray() -> None:
    found = planes([0.0, 1.0, 2.0, 3.0, 4.0])
    found[4] = replace(found[4], position=(40.0, 2.0, 4.0))
    assert strays(found) == {4}
    found[0] = replace(found[0], position=(40.0, 9.0, 0.0))
    assert strays(found) == frozenset()


def test_one_slice_off_the_line_is_bad_geometry() -> None:
    found = planes([0.0, 1.0, 2.0, 3.0, 4.0])
    found[2] = replace(found[2], position=(6.0, 2.0, 2.0))
    assert reason(found) is Reason.BAD_GEOMETRY


def test_rounded_positions_are_even() -> None:
    assert stack(planes([round(k * 0.625, 2) for k in range(60)])).spacing_mm[0] == pytest.approx(0.625, abs=1e-3)


def test_a_plane_without_place_or_with_a_skewed_frame_is_not_located() -> None:
    (plane,) = planes([0.0])
    assert is_located(plane)
    for damage in (
        {"position": None},
        {"orientation": None},
        {"spacing_mm": None},
        {"orientation": (1.0, 0.0, 0.0, 0.5, 0.8, 0.0)},
        {"orientation": (0.0,) * 6},
    ):
        assert not is_located(replace(plane, **damage))
        assert reason([replace(plane, **damage), plane]) is Reason.NO_GEOMETRY


def test_parallel_planes_share_directions_and_spacing() -> None:
    one, other = planes([0.0, 1.0])
    assert is_parallel(one, other)
    assert not is_parallel(one, replace(other, spacing_mm=(0.5, 0.8)))
    assert not is_parallel(one, replace(other, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, 1.0)))
