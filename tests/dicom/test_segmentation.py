"""Segmentations come back on the grid of their volume, voxel by voxel, or with a reason."""

from __future__ import annotations

import io
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from synthetic_dicom import ct_slice, dataset, encoded, save

from medssl.core.places import LocalFile
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.dicom.segmentation import Grid, name_of, read_segmentation

DEPTH, SPACING = 6, 2.5


def series() -> list[Dataset]:
    """Return a small CT, read back from its bytes so that it is what a file gives."""
    import pydicom

    made = []
    for index in range(DEPTH):
        ds = ct_slice(index)
        ds.ImagePositionPatient = [-10.0, -12.0, index * SPACING]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [0.8, 0.7]
        ds.FrameOfReferenceUID, ds.StudyTime, ds.PatientSex, ds.PatientBirthDate = "1.2.3.4", "", "", ""
        ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName, ds.SliceThickness = "", "", "", SPACING
        made.append(pydicom.dcmread(io.BytesIO(encoded(ds))))
    return made


def grid_of(images: list[Dataset]) -> Grid:
    rows, columns = images[0].Rows, images[0].Columns
    affine = np.diag([0.7, 0.8, SPACING, 1.0])
    affine[:3, 3] = [-10.0, -12.0, 0.0]
    return Grid((len(images), rows, columns), affine)


def seg_of(images: list[Dataset], masks: np.ndarray, kind: str = "BINARY") -> Dataset:
    described = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=f"organ {number}", segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver, algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(1, masks.shape[-1] + 1)
    ]  # fmt: skip
    return hd.seg.Segmentation(
        source_images=images, pixel_array=masks, segmentation_type=kind, segment_descriptions=described,
        series_instance_uid=uid.generate_uid(), series_number=9, sop_instance_uid=uid.generate_uid(), instance_number=1,
        manufacturer="m", manufacturer_model_name="m", software_versions="1", device_serial_number="1",
    )  # fmt: skip


@pytest.fixture(scope="module")
def images() -> list[Dataset]:
    return series()


def drawn_masks(images: list[Dataset]) -> np.ndarray:
    masks = np.random.default_rng(1).random((DEPTH, images[0].Rows, images[0].Columns, 2)) > 0.6
    masks[2] = False  # an empty slice is left out of the object
    masks[..., 1] &= ~masks[..., 0]
    return masks.astype(np.uint8)


def test_a_seg_comes_back_voxel_by_voxel_with_its_labels_and_its_images(images: list[Dataset], tmp_path: Path) -> None:
    masks = drawn_masks(images)
    seg_of(images, masks).save_as(tmp_path / "seg.dcm")
    found = read_segmentation(LocalFile(tmp_path / "seg.dcm"))
    assert found.images == {str(ds.SOPInstanceUID) for i, ds in enumerate(images) if i != 2} or found.images == {
        str(ds.SOPInstanceUID) for ds in images
    }
    drawn = found.on(grid_of(images))
    assert drawn.labels == ("organ 1", "organ 2")
    assert np.array_equal(drawn.masks, np.moveaxis(masks, -1, 0))


def test_a_seg_of_another_grid_is_refused(images: list[Dataset], tmp_path: Path) -> None:
    seg_of(images, drawn_masks(images)).save_as(tmp_path / "seg.dcm")
    grid = grid_of(images)
    moved = grid.affine.copy()
    moved[0, 3] += 0.3
    with pytest.raises(DicomProblem) as caught:
        read_segmentation(LocalFile(tmp_path / "seg.dcm")).on(Grid(grid.shape, moved))
    assert caught.value.reason is Reason.MASK_GEOMETRY


def structure_set(images: list[Dataset], contours: list[list[list[float]]]) -> Dataset:
    ds = dataset(uid.RTStructureSetStorage, "structures", Modality="RTSTRUCT")
    name = Dataset()
    name.ROINumber, name.ROIName = 4, "Liver"
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


def test_contours_are_filled_by_pixel_centres_and_an_inner_one_cuts_a_hole(
    images: list[Dataset], tmp_path: Path
) -> None:
    grid = grid_of(images)
    contours = [square(grid, 3, 4.5, 20.5), square(grid, 3, 9.5, 12.5), square(grid, 4, 2.5, 5.5)]
    path = save(structure_set(images, contours), tmp_path / "rt.dcm")
    found = read_segmentation(LocalFile(path))
    drawn = found.on(grid)
    expected = np.zeros((1, *grid.shape), np.uint8)
    expected[0, 3, 5:21, 5:21] = 1
    expected[0, 3, 10:13, 10:13] = 0
    expected[0, 4, 3:6, 3:6] = 1
    assert drawn.labels == ("Liver",)
    assert np.array_equal(drawn.masks, expected)
    assert found.images == {str(images[0].SOPInstanceUID)}


def test_a_contour_between_two_slices_is_refused(images: list[Dataset], tmp_path: Path) -> None:
    grid = grid_of(images)
    path = save(structure_set(images, [square(grid, 3.5, 4.5, 20.5)]), tmp_path / "rt.dcm")
    with pytest.raises(DicomProblem) as caught:
        read_segmentation(LocalFile(path)).on(grid)
    assert caught.value.reason is Reason.MASK_GEOMETRY


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["Liver"], "Liver"),
        (["left kidney 2"], "left kidney 2"),
        (["GTV Lung_L"], "GTV Lung_L"),
        (["tumour Smyczek", "Liver"], "Liver"),
        (["Smyczek", ""], "segment 7"),
        (["19670412"], "segment 7"),
        (["Müller"], "segment 7"),
        (["田中太郎 liver"], "segment 7"),
        (["Liver 01/02/85"], "segment 7"),
        (["liver 12-03-85"], "segment 7"),
        (["MRN 123-456-789 liver"], "segment 7"),
        (["kidney 123"], "segment 7"),
        (["12"], "segment 7"),
        ([""], "segment 7"),
    ],
)
def test_only_labels_made_of_anatomical_words_keep_their_name(labels: list[str], name: str) -> None:
    assert name_of(7, *labels) == name
