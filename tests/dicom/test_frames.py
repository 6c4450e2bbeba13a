"""Objects of many frames: each frame lies where its groups, its number or its tile say, and decodes alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from objects import cine, item, many_frames, mosaic, nuclear, ultrasound, volume
from pydicom import uid
from pydicom.dataset import FileDataset
from synthetic_dicom import LOSSLESS, dataset, header_of, save, with_pixels

from medssl.core.places import LocalFile
from medssl.dicom.decode import decode_frames
from medssl.dicom.geometry import stack
from medssl.dicom.header import PHASES, Header
from medssl.dicom.objects import Kind
from medssl.dicom.read import read_header
from medssl.dicom.reasons import DicomProblem, Reason


def pixels_of(path: Path, header: Header, indices: list[int] | None = None) -> NDArray[Any]:
    frames = header.frames if indices is None else [header.frames[i] for i in indices]
    return np.stack([one.array for one in decode_frames(LocalFile(path), header, frames)])


def reason_of(ds: FileDataset, tmp_path: Path) -> Reason:
    path = save(ds, tmp_path / "x")
    found = read_header(LocalFile(path))
    if found.header is None:
        return Reason(found.reason or "")
    with pytest.raises(DicomProblem) as caught:
        list(decode_frames(LocalFile(path), found.header, found.header.frames))
    return caught.value.reason


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("shared", [True, False])
def test_functional_groups_say_where_each_frame_lies(syntax: str, shared: bool, tmp_path: Path) -> None:
    path = save(many_frames(5, shared=shared), tmp_path / "x", syntax)
    header = header_of(path)
    assert header.kind is Kind.SLICE
    assert [frame.index for frame in header.frames] == [0, 1, 2, 3, 4]
    assert [frame.plane.position for frame in header.frames] == [(-10, -20, 2 * k) for k in range(5)]
    assert {frame.plane.orientation for frame in header.frames} == {(1, 0, 0, 0, 1, 0)}
    assert {frame.plane.spacing_mm for frame in header.frames} == {(0.5, 0.75)}
    assert [frame.values.slope for frame in header.frames] == [1, 2, 3, 4, 5]
    assert [frame.values.window_center for frame in header.frames] == [100, 101, 102, 103, 104]
    assert {frame.split for frame in header.frames} == {("1", "", "", "4.5", "", "")}
    assert np.array_equal(pixels_of(path, header), volume(5))
    assert np.array_equal(pixels_of(path, header, [3, 0]), volume(5)[[3, 0]])
    assert header.num_bytes == volume(5).nbytes


def test_what_tells_frames_apart_is_kept_and_where_they_lie_is_not(tmp_path: Path) -> None:
    ds = many_frames(6)
    ds.DimensionIndexSequence.append(item(DimensionIndexPointer=0x00189087))  # DiffusionBValue
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        content = group.FrameContentSequence[0]
        content.StackID, content.TemporalPositionIndex = str(1 + k // 3), 1 + k % 2
        content.DimensionIndexValues, content.FrameAcquisitionDateTime = [1, k + 1, 7 + k % 3], f"2020010112000{k}"
        direction = [item(DiffusionGradientOrientation=[1.0, 0.0, 0.0])]
        group.MRDiffusionSequence = [item(DiffusionBValue=1000.0 * k, DiffusionGradientDirectionSequence=direction)]
        group.MREchoSequence = [item(EffectiveEchoTime=float(k))]
        group.MRImageFrameTypeSequence = [item(FrameType=["ORIGINAL", "PRIMARY", "T1", "NONE"])]
        group.CardiacSynchronizationSequence = [item(NominalCardiacTriggerDelayTime=10.0 * k)]
    frames = header_of(save(ds, tmp_path / "x")).frames
    assert [frame.split[0] for frame in frames] == ["1", "1", "1", "2", "2", "2"]
    assert frames[4].split[1:4] == ("ORIGINAL\\PRIMARY\\T1\\NONE", "", "4.0")
    assert len(frames[0].phase) == len(PHASES)
    assert [frame.phase[0] for frame in frames] == ["1", "2"] * 3
    assert frames[2].phase[1] == "2000.0\\1.0\\0.0\\0.0"
    assert frames[2].phase[2:] == ("20.0", "", "20200101120002", "9")


def test_what_a_legacy_conversion_could_not_place_is_kept(tmp_path: Path) -> None:
    ds = many_frames(4, uid.LegacyConvertedEnhancedMRImageStorage)
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        odd = item(TriggerTime=5 * k, EchoTime=2.5, AcquisitionNumber=k, RescaleSlope=9)
        group.UnassignedPerFrameConvertedAttributesSequence = [odd]
    header = header_of(save(ds, tmp_path / "x"))
    assert header.kind is Kind.SLICE
    assert [float(frame.phase[2]) for frame in header.frames] == [0, 5, 10, 15]
    assert [frame.phase[3] for frame in header.frames] == ["0", "1", "2", "3"]
    assert header.frames[0].split[4] == "2.5"


def test_values_that_were_to_be_looked_up_are_flagged(tmp_path: Path) -> None:
    ds = with_pixels(dataset(uid.DigitalXRayImageStorageForPresentation, "x"), volume(1)[0])
    ds.ModalityLUTSequence = [item(ModalityLUTType="US")]
    assert header_of(save(ds, tmp_path / "x")).flags == {"modality_lut"}


def test_each_frame_says_by_which_function_its_window_is_meant(tmp_path: Path) -> None:
    ds = many_frames(4)
    for group, function in zip(
        ds.PerFrameFunctionalGroupsSequence, ["SIGMOID", "LINEAR_EXACT", "LINEAR", "CUBIC"], strict=True
    ):
        group.FrameVOILUTSequence[0].VOILUTFunction = function
        group.FrameVOILUTSequence[0].WindowCenter = 100
    frames = header_of(save(ds, tmp_path / "x")).frames
    assert [frame.values.window_function for frame in frames] == ["SIGMOID", "LINEAR_EXACT", "", ""]


def test_groups_for_another_number_of_frames_are_refused(tmp_path: Path) -> None:
    ds = many_frames(5)
    del ds.PerFrameFunctionalGroupsSequence[4]
    assert reason_of(ds, tmp_path) is Reason.FRAME_COUNT


def test_an_enhanced_object_without_places_is_no_volume(tmp_path: Path) -> None:
    ds = many_frames(5)
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    assert reason_of(ds, tmp_path) is Reason.NO_GEOMETRY
    assert reason_of(cine(5, uid.EnhancedCTImageStorage), tmp_path) is Reason.NO_GEOMETRY


def test_frames_of_one_place_are_a_cine_in_the_order_of_time(tmp_path: Path) -> None:
    ds = many_frames(6)
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.PlanePositionSequence = [item(ImagePositionPatient=[0.0, 0.0, 1.0])]
        group.CardiacSynchronizationSequence = [item(NominalCardiacTriggerDelayTime=100.0 - 10 * k)]
    header = header_of(save(ds, tmp_path / "x"))
    assert header.kind is Kind.CINE
    assert [frame.index for frame in header.frames] == [5, 4, 3, 2, 1, 0]
    assert header.frames[0].plane.position == (0, 0, 1)


@pytest.mark.parametrize(
    ("sop_class", "risk"),
    [
        (uid.UltrasoundMultiFrameImageStorage, True),
        (uid.XRayAngiographicImageStorage, True),
        (uid.XRayRadiofluoroscopicImageStorage, True),
        (uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage, True),
        (uid.NuclearMedicineImageStorage, False),
        (uid.DigitalXRayImageStorageForPresentation, False),
        (uid.BreastProjectionXRayImageStorageForProcessing, False),
    ],
)
def test_frames_in_the_order_of_time_are_a_cine_and_one_alone_a_picture(
    sop_class: str, risk: bool, tmp_path: Path
) -> None:
    for num, kind in ((7, Kind.CINE), (1, Kind.PICTURE)):
        path = save(cine(num, sop_class), tmp_path / f"{num}", uid.RLELossless)
        header = header_of(path)
        assert header.kind is kind
        assert ("burned_in_risk" in header.flags) == risk
        assert np.array_equal(pixels_of(path, header), volume(num))


def test_tomosynthesis_is_a_stack_where_it_says_where_its_slices_lie(tmp_path: Path) -> None:
    header = header_of(save(many_frames(4, uid.BreastTomosynthesisImageStorage), tmp_path / "x"))
    assert header.kind is Kind.SLICE
    assert reason_of(cine(4, uid.BreastTomosynthesisImageStorage), tmp_path) is Reason.NO_GEOMETRY


def test_what_a_header_says_of_burned_in_text_is_a_flag(tmp_path: Path) -> None:
    ds = with_pixels(dataset(uid.DigitalXRayImageStorageForPresentation, "x", BurnedInAnnotation="YES"), volume(1)[0])
    assert header_of(save(ds, tmp_path / "x")).flags == {"burned_in_annotation"}


def test_reconstructed_nuclear_slices_lie_along_the_normal_and_split_by_energy(tmp_path: Path) -> None:
    path = save(nuclear(3, num_windows=2), tmp_path / "x")
    header = header_of(path)
    assert header.kind is Kind.SLICE
    assert [frame.plane.position for frame in header.frames] == [(-50, -60, z) for z in (100, 96, 92)] * 2
    assert [frame.split for frame in header.frames] == [("1",)] * 3 + [("2",)] * 3
    lost = nuclear(3)
    del lost.DetectorInformationSequence
    assert reason_of(lost, tmp_path) is Reason.NO_GEOMETRY


def test_dynamic_nuclear_frames_split_by_detector(tmp_path: Path) -> None:
    ds = cine(6, uid.NuclearMedicineImageStorage, Modality="NM")
    ds.PixelSpacing, ds.DetectorVector, ds.TimeSliceVector = [3, 3], [1, 1, 1, 2, 2, 2], [1, 2, 3] * 2
    ds.DetectorInformationSequence = [item(), item()]
    header = header_of(save(ds, tmp_path / "x"))
    assert header.kind is Kind.CINE
    assert [frame.split for frame in header.frames] == [("1",)] * 3 + [("2",)] * 3
    assert [frame.phase[0] for frame in header.frames] == ["1", "2", "3"] * 2
    assert header.frames[0].plane.spacing_mm == (3, 3)


def test_regions_of_ultrasound_give_its_spacing_if_they_agree(tmp_path: Path) -> None:
    header = header_of(save(ultrasound(4), tmp_path / "x"))
    (region,) = header.regions
    assert (region.first_row, region.first_column, region.last_row, region.last_column) == (3, 2, 33, 30)
    assert region.spacing_mm == pytest.approx((0.2, 0.3))
    assert header.frames[3].plane.spacing_mm == region.spacing_mm
    two = header_of(save(ultrasound(4, num_regions=2), tmp_path / "y"))
    assert len(two.regions) == 2
    assert two.frames[0].plane.spacing_mm is None


@pytest.mark.parametrize("normal", [1.0, -1.0])
@pytest.mark.parametrize("num", [4, 5, 9, 11])
def test_the_tiles_of_a_mosaic_lie_where_slices_of_their_own_would(num: int, normal: float, tmp_path: Path) -> None:
    ds, planes = mosaic(num, normal=normal)
    path = save(ds, tmp_path / "x", uid.RLELossless)
    header = header_of(path)
    side = int(np.ceil(np.sqrt(num)))
    assert header.kind is Kind.SLICE
    assert np.array_equal(pixels_of(path, header), planes)
    first = np.array([-100 + (side * 4 - 4) / 2 * 3, -90 + (side * 6 - 6) / 2 * 2, 5])
    assert np.allclose(
        [frame.plane.position for frame in header.frames], first + [[0, 0, normal * 3.6 * k] for k in range(num)]
    )
    assert header.num_bytes == planes.nbytes
    assert stack([frame.plane for frame in header.frames]).spacing_mm == pytest.approx((3.6, 2.0, 3.0))


@pytest.mark.parametrize(
    "damage",
    [
        lambda ds: delattr(ds, "SpacingBetweenSlices"),
        lambda ds: delattr(ds, "ImagePositionPatient"),
        lambda ds: ds.pop(0x00191027),
        lambda ds: ds[0x00191027].__setattr__("value", [0.0, 1.0, 0.0]),
        lambda ds: ds[0x0019100A].__setattr__("value", 10),
        lambda ds: ds[0x0019100A].__setattr__("value", 5000),
        lambda ds: ds.pop(0x0019100A),
    ],
    ids=["spacing", "position", "normal", "other normal", "indivisible", "too many", "number"],
)
def test_a_mosaic_that_does_not_say_where_its_tiles_lie_is_refused(
    damage: Callable[[FileDataset], Any], tmp_path: Path
) -> None:
    ds, _ = mosaic(5)
    damage(ds)
    assert reason_of(ds, tmp_path) is Reason.MOSAIC


@pytest.mark.slow
def test_ten_thousand_frames_are_read_once_in_bounded_time_and_memory(tmp_path: Path) -> None:
    ds = many_frames(4)
    groups = list(ds.PerFrameFunctionalGroupsSequence)
    ds.PerFrameFunctionalGroupsSequence = [groups[k % 4] for k in range(10_000)]
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.PixelData = 2, 2, 10_000, b"\0" * 80_000
    path = save(ds, tmp_path / "x")
    tracemalloc.start()
    assert len(header_of(path).frames) == 10_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_real_mosaics_and_multi_frame_files_equal_dcm2niix(shared: Path) -> None:
    folder = shared / "data" / "dicom_series"
    names = ("hyperfine_anatomical_001", "philips_enhanced_anatomical_001", "siemens_multiframe_anatomical_001")
    num_compared = 0
    for series in [*(f"d2n_{name}" for name in names), *(f"mr_siemens_mosaic_000{k}" for k in range(3, 7))]:
        (oracle,) = (folder / "oracle" / series).glob("[0-9]*.nii.gz")
        files = [path for path in sorted((folder / series).iterdir()) if path.suffix == ".dcm"]
        for time, path in enumerate(files):
            num_compared += same(path, oracle, time)
    for number in range(1, 10):
        path = folder / "mr_mosaic_transfer_syntaxes" / f"{number}.dcm"
        num_compared += same(path, folder / "oracle" / "mr_mosaic_transfer_syntaxes" / f"{number}.nii.gz", 0)
    assert num_compared == 20


def same(path: Path, oracle: Path, time: int) -> int:
    header = header_of(path)
    grid = stack([frame.plane for frame in header.frames])
    voxels = pixels_of(path, header, list(grid.order)).transpose(2, 1, 0)
    affine = np.diag([-1, -1, 1, 1]) @ np.array(grid.affine).reshape(4, 4)
    image = nibabel.load(oracle)
    stored = nibabel.Nifti1Image(np.atleast_3d(image.dataobj.get_unscaled()).astype(np.int32), image.affine)
    theirs = nibabel.as_closest_canonical(stored)
    mine = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels.astype(np.int32), affine))
    assert np.abs(mine.affine - theirs.affine).max() < 1e-3, path
    values = theirs.get_fdata()
    assert np.array_equal(mine.get_fdata(), values[..., time] if values.ndim == 4 else values), path
    return 1
