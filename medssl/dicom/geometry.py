"""Where slices lie: their order along the normal, the affine of the stack, and what forbids stacking them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
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
STRAY_GAPS = 5  # usual gaps away from all others: a scout, no slice beyond missing ones
MOST_STRAYS = 0.25  # of the slices
MOST_MADE_UP = 4  # planes a slice that resampling may make


@dataclass(frozen=True)
class Grid:
    """A stack of slices.

    Attributes:
        order: indices of the given planes, first slice first.
        spacing_mm: between slices (along the normal), rows, columns: the order of the axes ``Z Y X``.
        affine: 16 numbers, row by row, from the voxel (x = column, y = row, z = slice, 1) to LPS mm. Where the gantry
            was tilted its third column leans away from the normal.
        is_tilted: whether it does.
        slices_mm: where the slices lie, along the normal from the first, if the planes of the grid are others.
    """

    order: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    affine: tuple[float, ...]
    is_tilted: bool = False
    slices_mm: tuple[float, ...] = ()

    @property
    def num_planes(self) -> int:
        """The extent of the axis ``Z``."""
        return round(self.slices_mm[-1] / self.spacing_mm[0]) + 1 if self.slices_mm else len(self.order)


def is_located(plane: Plane) -> bool:
    """Return whether position, orthonormal orientation and spacing are there."""
    if plane.position is None or plane.orientation is None or plane.spacing_mm is None:
        return False
    row, column = plane.orientation[:3], plane.orientation[3:]
    products = (sum(map(mul, one, other)) for one, other in ((row, row), (column, column), (row, column)))
    return all(abs(found - right) < COSINE_TOLERANCE for found, right in zip(products, (1, 1, 0), strict=True))


def is_parallel(one: Plane, other: Plane) -> bool:
    """Return whether two located planes share directions and spacing, so that they can be slices of one volume."""
    if one.in_patient != other.in_patient:
        return False
    if (one.orientation, one.spacing_mm) == (other.orientation, other.spacing_mm):
        return True
    directions = np.subtract(one.orientation or (), other.orientation or ())
    spacings = np.divide(one.spacing_mm or (), other.spacing_mm or ())
    return bool(np.abs(directions).max() < COSINE_TOLERANCE and np.abs(spacings - 1).max() < 1e-3)


def depths(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """Return the distance of each located plane from the origin along their normal, in mm, whatever their order."""
    positions = np.array([plane.position for plane in planes], float)
    found: NDArray[np.float64] = positions @ _normal(min(planes, key=lambda plane: plane.position or ()))
    return found


def stack(planes: Sequence[Plane], *, allow_gaps: bool = False) -> Grid:
    """Order parallel planes and return their grid.

    With ``allow_gaps`` uneven slices get the grid of the finest regular spacing among them, first and last plane
    included; ``slices_mm`` then says where the slices are.

    Raises:
        DicomProblem: one slice, two at one place, slices off the line of the others, missing slices, uneven spacing
            (with ``allow_gaps`` only one that ``MOST_MADE_UP`` planes a slice cannot fill).
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
    first = planes[int(order[0])]
    shear = _shear_degrees(positions, _normal(first))
    uneven = _unevenness(gaps)
    num_steps = len(gaps) if uneven is None else _num_steps(gaps)
    if uneven is not None and (not allow_gaps or num_steps >= MOST_MADE_UP * len(planes)):
        raise DicomProblem(uneven)
    between_rows, between_columns = first.spacing_mm or (1.0, 1.0)
    return Grid(
        order=tuple(int(i) for i in order),
        spacing_mm=(float(gaps.sum() / num_steps), between_rows, between_columns),
        affine=_affine(first, (positions[-1] - positions[0]) / num_steps),
        is_tilted=shear > MAX_SHEAR_DEGREES,
        slices_mm=() if uneven is None else tuple(float(d) for d in depth[order] - depth[order[0]]),
    )


def plane_affine(plane: Plane) -> tuple[float, ...] | None:
    """Return the affine of a slice alone, its third column as long as it is thick, else 1 mm; None without a place."""
    return _affine(plane, _normal(plane) * (plane.thickness_mm or 1.0)) if is_located(plane) else None


def strays(planes: Sequence[Plane]) -> frozenset[int]:
    """Return the few planes that are none of the others' series, such as a scout's.

    These are single ones far from all others, several together that cannot lie on the grid of the rest, and one end
    off its line. Several together on that grid are what lost slices leave, and stay.
    """
    if len(planes) < 4 or not all(map(is_located, planes)):
        return frozenset()
    depth = depths(planes)
    order = np.argsort(depth, kind="stable")
    gaps = np.diff(depth[order])
    runs = np.split(order, np.flatnonzero(gaps > STRAY_GAPS * np.median(gaps)) + 1)
    found = _apart(runs, planes, depth)
    if not found and _is_bent([planes[i] for i in order]):
        cut = {end: [planes[i] for i in order if i != end] for end in (int(order[0]), int(order[-1]))}
        ends = [end for end, left in cut.items() if not _is_bent(left)]
        found = frozenset(ends if len(ends) == 1 else ())
    return found if len(found) <= MOST_STRAYS * len(planes) else frozenset()


def _apart(runs: Sequence[NDArray[Any]], planes: Sequence[Plane], depth: NDArray[Any]) -> frozenset[int]:
    """Return those that do not continue the longest of ``runs``, and single ones before or after all that do."""
    longest = max(range(len(runs)), key=lambda i: len(runs[i]))
    continues = [i == longest or _continues(runs[longest], run, planes, depth) for i, run in enumerate(runs)]
    inside = [i for i, run in enumerate(runs) if continues[i] and len(run) > 1]
    lost = (run for i, run in enumerate(runs) if not (continues[i] and inside[0] <= i <= inside[-1]))
    return frozenset(int(one) for run in lost for one in run)


def _continues(longest: NDArray[Any], run: NDArray[Any], planes: Sequence[Plane], depth: NDArray[Any]) -> bool:
    """Return whether a run lies on the line and the grid of the longest one; where that has no grid, on its line."""
    both = sorted((*longest, *run), key=lambda i: float(depth[i]))
    if _is_bent([planes[i] for i in both]):
        return False
    spacing = np.ptp(depth[longest]) / _num_steps(np.diff(depth[longest]))
    tolerance = _tolerance(spacing)
    return _off_grid(depth[longest], spacing) > tolerance or _off_grid(depth[both], spacing) <= tolerance


def _is_bent(planes: Sequence[Plane]) -> bool:
    """Return whether ordered planes do not lie on one line."""
    try:
        _shear_degrees(np.array([plane.position for plane in planes], float), _normal(planes[0]))
    except DicomProblem:
        return True
    return False


def _normal(plane: Plane) -> NDArray[Any]:
    row, column = np.array((plane.orientation or ())[:3]), np.array((plane.orientation or ())[3:])
    normal = np.cross(row, column)
    found: NDArray[Any] = normal / np.linalg.norm(normal)
    return found


def _shear_degrees(positions: NDArray[Any], normal: NDArray[Any]) -> float:
    """Return the angle between the normal and the line through ordered positions, on which each must lie."""
    line = positions[-1] - positions[0]
    along = line @ normal
    away = positions - positions[0]
    away = away - np.outer(away @ normal / along, line)
    if np.linalg.norm(away, axis=1).max() > _tolerance(along / (len(positions) - 1)):
        raise DicomProblem(Reason.BAD_GEOMETRY)
    return float(np.degrees(np.arctan2(np.linalg.norm(line - along * normal), along)))


def _unevenness(gaps: NDArray[Any]) -> Reason | None:
    usual = float(np.median(gaps))
    tolerance = _tolerance(usual)
    drift = np.cumsum(gaps) - np.arange(1, len(gaps) + 1) * gaps.mean()
    if max(np.abs(gaps - usual).max(), np.abs(drift).max()) <= tolerance:
        return None
    multiples = np.round(gaps / gaps.min())
    is_missing = np.abs(gaps - multiples * gaps.min()).max() <= tolerance * multiples.max()
    return Reason.MISSING_SLICES if is_missing and multiples.max() > 1 else Reason.UNEVEN_SPACING


def _off_grid(depth: NDArray[Any], spacing: float) -> float:
    """Return how far, in mm, ordered depths lie at most from the even steps of about ``spacing`` between their ends."""
    along = depth - depth[0]
    steps = np.round(along / spacing)
    return float(np.abs(along - steps * along[-1] / steps[-1]).max())


def _tolerance(spacing: float) -> float:
    return max(MIN_SPACING_TOLERANCE_MM, SPACING_TOLERANCE * spacing)


def _num_steps(gaps: NDArray[Any]) -> int:
    """Return how many steps span all gaps: of the smallest one if all are multiples of it, else of one that recurs."""
    tolerance = np.maximum(MIN_SPACING_TOLERANCE_MM, SPACING_TOLERANCE * gaps)
    alike = np.abs(gaps[:, None] - gaps) <= tolerance  # column: as which gap

    def usual(index: int) -> float:
        return float(gaps[alike[:, index]].mean())

    finest = int(gaps.argmin())
    multiples = np.round(gaps / usual(finest))
    if np.abs(gaps - multiples * usual(finest)).max() <= tolerance[finest]:
        return int(multiples.sum())
    recurs = alike.sum(0) > 1
    if recurs.any():
        finest = int(np.where(recurs, gaps, np.inf).argmin())
    steps = float(gaps.sum()) / usual(finest)
    is_whole = abs(steps - round(steps)) * usual(finest) <= tolerance[finest]
    return round(steps) if is_whole else int(np.ceil(steps))


def _affine(first: Plane, step: NDArray[Any]) -> tuple[float, ...]:
    orientation, (between_rows, between_columns) = first.orientation or (), first.spacing_mm or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[:3]) * between_columns
    affine[:3, 1] = np.array(orientation[3:]) * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return tuple(float(v) for v in affine.ravel())
