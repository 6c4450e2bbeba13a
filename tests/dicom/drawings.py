"""Invented segmentations of a small CT: a SEG of random voxels, an RT structure set of given contours."""

from __future__ import annotations

import io
from collections.abc import Sequence

import highdicom as hd
import numpy as np
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from synthetic_dicom import ROOT, ct_slice, dataset, encoded

from medssl.dicom.segmentation import Grid

DEPTH, SPACING = 6, 2.5


def series() -> list[Dataset]:
    """Return a small CT, read back from its bytes so that it is what a file gives."""
    made = []
    for index in range(DEPTH):
        ds = ct_slice(index, f"drawn on {index}")
        ds.ImagePositionPatient = [-10.0, -12.0, index * SPACING]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [0.8, 0.7]
        ds.FrameOfReferenceUID, ds.StudyTime, ds.PatientSex, ds.PatientBirthDate = "1.2.3.4", "", "", ""
        ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName, ds.SliceThickness = "", "", "", SPACING
        made.append(dcmread(io.BytesIO(encoded(ds))))
    return made


def grid_of(images: list[Dataset]) -> Grid:
    """Return the grid of ``series``."""
    rows, columns = images[0].Rows, images[0].Columns
    affine = np.diag([0.7, 0.8, SPACING, 1.0])
    affine[:3, 3] = [-10.0, -12.0, 0.0]
    return Grid((len(images), rows, columns), affine)


def seg_of(images: list[Dataset], masks: np.ndarray, labels: Sequence[str] = ("organ 1", "organ 2")) -> Dataset:
    """Return a SEG of ``masks`` (``Z Y X`` and a label each), of the same bytes each time."""
    described = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=label, segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver, algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, label in enumerate(labels, 1)
    ]  # fmt: skip
    sop, series, dimensions = (uid.generate_uid(ROOT, [name, *labels]) for name in ("seg", "series", "dimensions"))
    made = hd.seg.Segmentation(
        source_images=images, pixel_array=masks, segmentation_type="BINARY", segment_descriptions=described,
        series_instance_uid=series, series_number=9, sop_instance_uid=sop, instance_number=1,
        manufacturer="m", manufacturer_model_name="m", software_versions="1", device_serial_number="1",
    )  # fmt: skip
    made.InstanceCreationDate = made.ContentDate = "20170203"
    made.InstanceCreationTime = made.ContentTime = "120000"
    del made.ContributingEquipmentSequence
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    return made


def drawn_masks(images: list[Dataset]) -> np.ndarray:
    """Return two random segments, ``Z Y X 2``."""
    masks = np.random.default_rng(1).random((DEPTH, images[0].Rows, images[0].Columns, 2)) > 0.6
    masks[2] = False  # an empty slice is left out of the object
    masks[..., 1] &= ~masks[..., 0]
    return masks.astype(np.uint8)


def structure_set(images: list[Dataset], contours: list[list[list[float]]], label: str = "Liver") -> Dataset:
    """Return a structure set of one structure with closed contours of points in LPS mm."""
    ds = dataset(uid.RTStructureSetStorage, "structures", Modality="RTSTRUCT")
    name = Dataset()
    name.ROINumber, name.ROIName = 4, label
    ds.StructureSetROISequence = [name]
    roi = Dataset()
    roi.ReferencedROINumber, roi.ContourSequence = 4, []
    for points in contours:
        one, image = Dataset(), Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = uid.CTImageStorage, images[0].SOPInstanceUID
        one.ContourImageSequence, one.ContourGeometricType = [image], "CLOSED_PLANAR"
        one.NumberOfContourPoints, one.ContourData = len(points), [v for point in points for v in point]
        roi.ContourSequence.append(one)
    ds.ROIContourSequence = [roi]
    return ds


def square(grid: Grid, plane: float, low: float, high: float) -> list[list[float]]:
    """Return a square between voxel coordinates, in LPS mm."""
    corners = np.array([[low, low, plane, 1], [high, low, plane, 1], [high, high, plane, 1], [low, high, plane, 1]])
    return [[round(float(v), 4) for v in (grid.affine @ corner)[:3]] for corner in corners]
