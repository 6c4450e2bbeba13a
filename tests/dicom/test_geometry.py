"""Slices are ordered by where they lie; what is no even, straight stack is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medssl.dicom.geometry import Grid, is_located, is_parallel, stack
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


def test_a_tilted_gantry_is_noticed_from_half_a_degree_on() -> None:
    depths = [k * 2.0 for k in range(12)]
    assert reason(planes(depths, shift=np.tan(np.radians(14)))) is Reason.GANTRY_TILT
    assert reason(planes(depths, shift=-np.tan(np.radians(0.6)))) is Reason.GANTRY_TILT
    slightly = stack(planes(depths, shift=np.tan(np.radians(0.2))))
    assert slightly.affine[6] == pytest.approx(2 * np.tan(np.radians(0.2)))  # kept in the affine


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
