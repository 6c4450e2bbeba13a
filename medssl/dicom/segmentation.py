"""Segmentations on the grid of their volume: DICOM SEG through highdicom, RT structure sets by contour.

Nothing is resampled: a SEG must lie on the volume's own grid (PS3.3 A.51); contours (PS3.3 C.8.8.6) are filled plane by
plane, pixels inside by the centre, an inner contour of one structure cutting a hole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.datadict import dictionary_VR, keyword_dict
from pydicom.dataset import Dataset

from medssl.core.places import Place
from medssl.dicom.anatomy import name_of
from medssl.dicom.fields import tag_of, words_of
from medssl.dicom.parse import open_walk
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason

MAX_BYTES = 1 << 30  # of the masks of one object, and of the object itself
# At any depth: 20,000 frames of a SEG, 50,000 contours. 10 KB can hold a million, of which pydicom needs 1 KB an item.
MAX_ELEMENTS, MAX_ITEMS = 500_000, 150_000
MAX_NAMES = 1 << 20  # bytes of all names
SOP_CLASS, IMAGE = tag_of("SOPClassUID")[0], tag_of("ReferencedSOPInstanceUID")[0]
IDS = [tag_of(keyword)[0] for keyword in ("PatientID", "OtherPatientIDs")]
NAMES = frozenset([*IDS, *(tag for tag in keyword_dict.values() if dictionary_VR(tag) == "PN")])
WANTED = NAMES | {SOP_CLASS, IMAGE}
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
    """A readable object, the SOP instance UIDs of the images that it was drawn on, and the words of names in it."""

    dataset: Dataset
    images: frozenset[str]
    names: frozenset[str]

    def on(self, grid: Grid) -> Drawn:
        """Return the segments on ``grid``.

        Raises:
            DicomProblem: they lie on another grid, are too large, or cannot be decoded.
        """
        try:
            with quiet():
                is_contours = self.dataset.SOPClassUID == uid.RTStructureSetStorage
                draw = _contours if is_contours else _segments
                drawn = draw(self.dataset, grid, self.names)
        except DicomProblem:
            raise
        except Exception:  # highdicom and pydicom raise nearly anything on damaged input
            raise DicomProblem(Reason.DECODE_FAILED) from None
        if not drawn.masks.any():
            raise DicomProblem(Reason.MASK_EMPTY)
        return drawn


def images_of(place: Place) -> frozenset[str]:
    """Return the SOP instance UIDs that a SEG or an RT structure set refers to; its masks are not read.

    Raises:
        DicomProblem: too large, or not to be read.
        OSError: the file cannot be read.
    """
    with place.open() as file, quiet():
        return _scanned(file)[0]


def read_segmentation(place: Place) -> Segmentation:
    """Read a SEG or an RT structure set.

    Raises:
        DicomProblem: too large, or not to be read.
        OSError: the file cannot be read.
    """
    with place.open() as file, quiet():
        images, names = _scanned(file)
        file.seek(0)
        try:
            return Segmentation(dcmread(file, force=True), images, names)
        except Exception:
            raise DicomProblem(Reason.CORRUPT) from None


def _scanned(file: BinaryIO) -> tuple[frozenset[str], frozenset[str]]:
    """Return the images that an object refers to and the words of names in it, before pydicom builds what is nested."""
    if file.seek(0, 2) > MAX_BYTES:
        raise DicomProblem(Reason.TOO_LARGE)
    file.seek(0)
    images: set[str] = set()
    names: set[str] = set()
    num_bytes = 0
    try:
        opened = open_walk(file)
        found = opened.walk.everywhere(opened.start, WANTED, {b"PN"}, max_elements=MAX_ELEMENTS, max_items=MAX_ITEMS)
        for tag, value in found:
            text = value.decode("latin-1").strip(" \0")  # the words that a label may hold are ASCII
            if tag == SOP_CLASS and text == uid.SurfaceSegmentationStorage:
                raise DicomProblem(Reason.UNSUPPORTED_OBJECT)
            if tag == IMAGE:
                images.add(text)
            elif tag != SOP_CLASS:
                names |= words_of(text)
                num_bytes += len(value)
            if num_bytes > MAX_NAMES:
                raise DicomProblem(Reason.TOO_LARGE)
    except (DicomProblem, OSError):
        raise
    except Exception:
        raise DicomProblem(Reason.CORRUPT) from None
    return frozenset(images - {""}), frozenset(names)


def _segments(dataset: Dataset, grid: Grid, names: frozenset[str]) -> Drawn:
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
    return Drawn(masks, tuple(_name_of_segment(seg.get_segment_description(n), n, names) for n in numbers))


def _name_of_segment(segment: Any, number: int, names: frozenset[str]) -> str:
    return name_of(number, names, str(segment.segment_label), str(segment.segmented_property_type.meaning))


def _contours(dataset: Dataset, grid: Grid, names: frozenset[str]) -> Drawn:
    labels = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in dataset.StructureSetROISequence}
    drawn = [roi for roi in dataset.ROIContourSequence if roi.get("ContourSequence")]
    _expect_room(len(drawn), grid)
    masks = np.zeros((len(drawn), *grid.shape), np.uint8)
    for mask, roi in zip(masks, drawn, strict=True):
        for contour in roi.ContourSequence:
            if contour.ContourGeometricType in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                _fill(mask, np.array(contour.ContourData, float).reshape(-1, 3), grid)
    numbers = [int(roi.ReferencedROINumber) for roi in drawn]
    return Drawn(masks, tuple(name_of(number, names, labels.get(number, "")) for number in numbers))


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
