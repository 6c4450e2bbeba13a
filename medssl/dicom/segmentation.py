"""Segmentations on the grid of their volume: DICOM SEG through highdicom, RT structure sets by contour.

Nothing is resampled: a SEG must lie on the volume's own grid (PS3.3 A.51); contours (PS3.3 C.8.8.6) are filled plane by
plane, pixels inside by the centre, an inner contour of one structure cutting a hole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.dataset import Dataset

from medssl.core.places import Place
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason

MAX_BYTES = 1 << 30  # of the masks of one object, and of the object itself
PLAIN = re.compile(r"[A-Za-z0-9 _.,()+-]*")  # of a label that its words and numbers say wholly
# of radiotherapy
PLANNING_WORDS = frozenset(["gtv", "ctv", "ptv", "itv", "oar", "external", "contour", "l", "r", "lt", "rt"])
PLANE_TOLERANCE = 0.25  # of the distance between slices: a contour further away lies on no slice


@dataclass(frozen=True)
class Grid:
    """The grid of a volume: ``shape`` of ``Z Y X``; ``affine``, 4 by 4, from voxel (x, y, z) to LPS mm."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """A segmentation: its segments ``S Z Y X`` uint8 (0 or 1), in the order of ``labels``."""

    masks: NDArray[np.uint8]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Segmentation:
    """A readable object, and the SOP instance UIDs of the images that it was drawn on."""

    dataset: Dataset
    images: frozenset[str]

    def on(self, grid: Grid) -> Drawn:
        """Return the segments on ``grid``.

        Raises:
            DicomProblem: they lie on another grid, are too large, or cannot be decoded.
        """
        try:
            with quiet():
                is_contours = self.dataset.SOPClassUID == uid.RTStructureSetStorage
                drawn = _contours(self.dataset, grid) if is_contours else _segments(self.dataset, grid)
        except DicomProblem:
            raise
        except Exception:  # highdicom and pydicom raise nearly anything on damaged input
            raise DicomProblem(Reason.DECODE_FAILED) from None
        if not drawn.masks.any():
            raise DicomProblem(Reason.MASK_EMPTY)
        return drawn


def read_segmentation(place: Place) -> Segmentation:
    """Read a SEG or an RT structure set.

    Raises:
        DicomProblem: too large, or not to be read.
        OSError: the file cannot be read.
    """
    with place.open() as file, quiet():
        if file.seek(0, 2) > MAX_BYTES:
            raise DicomProblem(Reason.TOO_LARGE)
        file.seek(0)
        try:
            dataset = dcmread(file, force=True)
            if dataset.SOPClassUID == uid.SurfaceSegmentationStorage:
                raise DicomProblem(Reason.UNSUPPORTED_OBJECT)
            return Segmentation(dataset, frozenset(_references(dataset)))
        except DicomProblem:
            raise
        except Exception:
            raise DicomProblem(Reason.CORRUPT) from None


def _references(dataset: Dataset) -> Iterator[str]:
    """Yield every referenced SOP instance UID, at any depth."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _references(item)
        elif element.keyword == "ReferencedSOPInstanceUID" and element.value:
            yield str(element.value)


def _segments(dataset: Dataset, grid: Grid) -> Drawn:
    from highdicom import VolumeGeometry
    from highdicom.seg import Segmentation as Seg
    from highdicom.seg import SegmentationTypeValues

    seg = Seg.from_dataset(dataset, copy=False)
    if seg.segmentation_type is SegmentationTypeValues.FRACTIONAL:
        raise DicomProblem(Reason.UNSUPPORTED_PIXELS)
    numbers = list(seg.segment_numbers)
    _expect_room(len(numbers), grid)
    place = VolumeGeometry(grid.affine[:, [2, 1, 0, 3]], grid.shape, coordinate_system="PATIENT")
    masks = np.empty((len(numbers), *grid.shape), np.uint8)
    for index, number in enumerate(numbers):
        volume = seg.get_volume(segment_numbers=[number], combine_segments=True, relabel=True, dtype=np.uint8)
        try:
            masks[index] = volume.match_geometry(place, tol=1e-3).array
        except (RuntimeError, ValueError):
            raise DicomProblem(Reason.MASK_GEOMETRY) from None
    return Drawn(masks, tuple(_name_of_segment(seg.get_segment_description(n), n) for n in numbers))


def _name_of_segment(segment: Any, number: int) -> str:
    return name_of(number, str(segment.segment_label), str(segment.segmented_property_type.meaning))


def _contours(dataset: Dataset, grid: Grid) -> Drawn:
    names = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in dataset.StructureSetROISequence}
    drawn = [roi for roi in dataset.ROIContourSequence if roi.get("ContourSequence")]
    _expect_room(len(drawn), grid)
    masks = np.zeros((len(drawn), *grid.shape), np.uint8)
    for mask, roi in zip(masks, drawn, strict=True):
        for contour in roi.ContourSequence:
            if contour.ContourGeometricType in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                _fill(mask, np.array(contour.ContourData, float).reshape(-1, 3), grid)
    numbers = [int(roi.ReferencedROINumber) for roi in drawn]
    return Drawn(masks, tuple(name_of(number, names.get(number, "")) for number in numbers))


def _fill(mask: NDArray[np.uint8], points: NDArray[np.float64], grid: Grid) -> None:
    """Invert ``mask`` inside one contour of points ``N 3`` in LPS mm."""
    from matplotlib.path import Path as Outline

    inverse = np.linalg.inv(grid.affine)
    x, y, z = (points @ inverse[:3, :3].T + inverse[:3, 3]).T
    plane = round(float(z.mean()))
    if np.abs(z - plane).max() > PLANE_TOLERANCE or not 0 <= plane < len(mask):
        raise DicomProblem(Reason.MASK_GEOMETRY)
    limits = np.array([[x.min(), y.min()], [x.max(), y.max()]])
    (left, top), (right, bottom) = np.clip(np.add(limits, [[0, 0], [1, 1]]), 0, grid.shape[:0:-1]).astype(int)
    columns, rows = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
    inside = Outline(np.stack([x, y], 1)).contains_points(np.stack([columns.ravel(), rows.ravel()], 1))
    mask[plane, top:bottom, left:right] ^= inside.reshape(rows.shape).astype(np.uint8)


def _expect_room(num: int, grid: Grid) -> None:
    if not num:
        raise DicomProblem(Reason.MASK_EMPTY)
    if num * np.prod(grid.shape, dtype=np.int64) > MAX_BYTES:
        raise DicomProblem(Reason.TOO_LARGE)


def name_of(number: int, *labels: str) -> str:
    """Return the first of ``labels`` that may enter a pool: one made of words that SNOMED CT names anatomy with.

    Labels are free text, so that any other word could be a name, and several digits a date or a record number: one
    number of up to two digits may stand beside the words. Without a label that will do, it is a number.
    """
    for label in labels:
        words = re.findall(r"[A-Za-z][a-z]*|[A-Z]+|\d+", label) if PLAIN.fullmatch(label) else []
        numbers = [word for word in words if word.isdigit()]
        known = all(word.casefold() in _words() for word in words if word not in numbers)
        if len(words) > len(numbers) and known and (not numbers or (len(numbers) == 1 and len(numbers[0]) < 3)):
            return " ".join(label.split())
    return f"segment {number}"


@cache
def _words() -> frozenset[str]:
    from pydicom.sr.codedict import codes

    found = (word for keyword in codes.SCT.dir() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", keyword))
    return frozenset(word.casefold() for word in found) | PLANNING_WORDS
