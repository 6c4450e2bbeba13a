"""Segmentations come back on the grid of their volume, voxel by voxel, or with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawings import drawn_masks, grid_of, seg_of, series, square, structure_set
from fuzz import InMemory
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from synthetic_dicom import encoded, save

from medssl.core.places import LocalFile
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.dicom.segmentation import Grid, images_of, read_segmentation


@pytest.fixture(scope="module")
def images() -> list[Dataset]:
    return series()


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


def test_a_label_is_no_name_of_the_objects_people_wherever_in_it_they_stand(
    images: list[Dataset], tmp_path: Path
) -> None:
    grid = grid_of(images)
    for keyword in ("PatientName", "ReviewerName", "OperatorsName", "PatientID"):
        for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
            ds = structure_set(images, [square(grid, 3, 4.5, 20.5)], "GTV Liver")
            setattr(ds, keyword, "Liver^Anna")
            found = read_segmentation(InMemory(encoded(ds, syntax)))
            assert found.on(grid).labels == ("segment 4",)
    ds = structure_set(images, [square(grid, 3, 4.5, 20.5)], "GTV Liver")
    ds.ROIContourSequence[0].ContourSequence[0].PersonName = "LIVER"
    assert read_segmentation(InMemory(encoded(ds))).on(grid).labels == ("segment 4",)
    seg_of(images, drawn_masks(images), ["Harris Walker", "White Rose 42"]).save_as(tmp_path / "seg.dcm")
    assert read_segmentation(LocalFile(tmp_path / "seg.dcm")).on(grid).labels == ("Liver", "Liver")  # the coded type


def test_images_are_what_pydicom_finds_at_any_depth_in_published_objects(shared_dicom: Path) -> None:
    def referenced(ds: Dataset) -> Iterator[str]:
        for element in ds:
            if element.VR == "SQ":
                for item in element.value:
                    yield from referenced(item)
            elif element.keyword == "ReferencedSOPInstanceUID":
                yield str(element.value)

    paths = [*shared_dicom.rglob("liver*.dcm"), *shared_dicom.rglob("rtstruct.dcm")]
    for path in paths:
        assert images_of(LocalFile(path)) == set(referenced(dcmread(path, force=True)))
    assert len(paths) > 8


def test_an_item_whose_length_spells_a_value_representation_is_an_item(images: list[Dataset]) -> None:
    ds = structure_set(images, [square(grid_of(images), 3, 4.5, 20.5)])
    (roi,) = ds.StructureSetROISequence
    roi.TextValue = ""
    roi.TextValue = "x" * (int.from_bytes(b"PN", "little") - len(written(roi)))
    assert len(written(roi)) == int.from_bytes(b"PN", "little")
    assert read_segmentation(InMemory(encoded(ds))).on(grid_of(images)).labels == ("Liver",)


def written(item: Dataset) -> bytes:
    """Return an item as explicit VR little endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, item)
    return buffer.getvalue()
