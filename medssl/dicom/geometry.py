"""Where slices lie: their order along the normal, the affine of the stack, and what forbids stacking them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.dicom.header import Plane
from medssl.dicom.reasons import DicomProblem, Reason

COSINE_TOLERANCE = 2e-3  # headers print cosines with few digits
POSITION_TOLERANCE_MM = 1e-3
SPACING_TOLERANCE = 0.02  # of the spacing
MIN_SPACING_TOLERANCE_MM = 0.02
MAX_SHEAR_DEGREES = 0.5


@dataclass(frozen=True)
class Grid:
    """A stack of slices.

    Attributes:
        order: indices of the given planes, first slice first.
        spacing_mm: between slices (along the normal), rows, columns: the order of the axes ``Z Y X``.
        affine: 16 numbers, row by row, from the voxel (x = column, y = row, z = slice, 1) to LPS mm.
    """

    order: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    affine: tuple[float, ...]


def is_located(plane: Plane) -> bool:
    """Return whether position, orthonormal orientation and spacing are there."""
    if plane.position is None or plane.orientation is None or plane.spacing_mm is None:
        return False
    row, column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    return bool(
        abs(row @ row - 1) < COSINE_TOLERANCE
        and abs(column @ column - 1) < COSINE_TOLERANCE
        and abs(row @ column) < COSINE_TOLERANCE
    )


def is_parallel(one: Plane, other: Plane) -> bool:
    """Return whether two located planes share directions and spacing, so that they can be slices of one volume."""
    directions = np.subtract(one.orientation or (), other.orientation or ())
    spacings = np.divide(one.spacing_mm or (), other.spacing_mm or ())
    return bool(np.abs(directions).max() < COSINE_TOLERANCE and np.abs(spacings - 1).max() < 1e-3)


def depths(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """Return the distance of each located plane from the origin along the normal of the first, in mm."""
    positions = np.array([plane.position for plane in planes], float)
    found: NDArray[np.float64] = positions @ _normal(planes[0])
    return found


def stack(planes: Sequence[Plane]) -> Grid:
    """Order parallel planes and return their grid.

    Raises:
        DicomProblem: one slice, two at one place, shear (a tilted gantry), missing slices, uneven spacing.
    """
    if not all(map(is_located, planes)):
        raise DicomProblem(Reason.NO_GEOMETRY)
    if len(planes) < 2:
        raise DicomProblem(Reason.SINGLE_SLICE)
    depth = depths(planes)
    order = np.lexsort((np.array([p.instance_number for p in planes]), np.round(depth / POSITION_TOLERANCE_MM)))
    gaps = np.diff(depth[order])
    if gaps.min() < POSITION_TOLERANCE_MM:
        raise DicomProblem(Reason.DUPLICATE_POSITION)
    positions = np.array([planes[i].position for i in order], float)
    _expect_straight(positions, _normal(planes[0]))
    _expect_even(gaps)
    step = (positions[-1] - positions[0]) / len(gaps)
    first = planes[int(order[0])]
    between_rows, between_columns = first.spacing_mm or (1.0, 1.0)
    return Grid(
        order=tuple(int(i) for i in order),
        spacing_mm=(float(gaps.mean()), between_rows, between_columns),
        affine=_affine(first, step),
    )


def _normal(plane: Plane) -> NDArray[Any]:
    row, column = np.array((plane.orientation or ())[:3]), np.array((plane.orientation or ())[3:])
    normal = np.cross(row, column)
    found: NDArray[Any] = normal / np.linalg.norm(normal)
    return found


def _expect_straight(positions: NDArray[Any], normal: NDArray[Any]) -> None:
    """The line through the positions must follow the normal, and every position must lie on that line."""
    line = positions[-1] - positions[0]
    along = line @ normal
    shear = np.degrees(np.arctan2(np.linalg.norm(line - along * normal), along))
    if shear > MAX_SHEAR_DEGREES:
        raise DicomProblem(Reason.GANTRY_TILT)
    away = positions - positions[0]
    away = away - np.outer(away @ normal / along, line)
    tolerance = max(MIN_SPACING_TOLERANCE_MM, SPACING_TOLERANCE * along / (len(positions) - 1))
    if np.linalg.norm(away, axis=1).max() > tolerance:
        raise DicomProblem(Reason.BAD_GEOMETRY)


def _expect_even(gaps: NDArray[Any]) -> None:
    usual = float(np.median(gaps))
    tolerance = max(MIN_SPACING_TOLERANCE_MM, SPACING_TOLERANCE * usual)
    if np.abs(gaps - usual).max() <= tolerance:
        return
    multiples = np.round(gaps / gaps.min())
    is_missing = np.abs(gaps - multiples * gaps.min()).max() <= tolerance * multiples.max()
    raise DicomProblem(Reason.MISSING_SLICES if is_missing else Reason.UNEVEN_SPACING)


def _affine(first: Plane, step: NDArray[Any]) -> tuple[float, ...]:
    orientation, (between_rows, between_columns) = first.orientation or (), first.spacing_mm or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[:3]) * between_columns
    affine[:3, 1] = np.array(orientation[3:]) * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return tuple(float(v) for v in affine.ravel())
