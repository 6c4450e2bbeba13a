"""What belongs together is stacked; what does not is split, or refused with its reason."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from stacking import Case, in_time, outcomes, shuffled
from synthetic_dicom import CT, ct_slice, dataset, radiograph, save, with_pixels

from medssl.ingest.content import Canvas
from medssl.ingest.ingest import ingest
from medssl.ingest.rules import Rules
from medssl.pool.pool import Pool


def test_a_ct_series_is_one_volume_in_the_order_of_its_places(case: Case) -> None:
    report = case.run(shuffled([ct_slice(z) for z in np.arange(8) * 2.5]))
    assert outcomes(report) == {("stored", None): 8}
    (row,) = case.rows
    assert (row["axes"], row["shape"], row["dtype"], row["units"]) == ("ZYX", [8, 32, 34], "int16", "HU")
    assert (row["spacing_mm"], row["slope"], row["intercept"]) == ([2.5, 0.5, 0.75], 1.0, -1024.0)
    assert row["affine"] == [0.75, 0, 0, -10, 0, 0.5, 0, -20, 0, 0, 2.5, 0, 0, 0, 0, 1]
    assert case.voxels()[:, 0, 2].tolist() == [0, 25, 50, 75, 100, 125, 150, 175]
    assert case.slices(row["volume"]) == list(range(8))


def test_syntaxes_may_mix_within_a_volume(case: Case) -> None:
    syntaxes = (None, uid.ImplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless, uid.ExplicitVRBigEndian)
    assert outcomes(case.run([ct_slice(z) for z in range(10)], syntaxes)) == {("stored", None): 10}
    assert case.voxels()[:, 5, 5].tolist() == list(range(10))


def test_slopes_that_differ_are_applied_slice_by_slice(case: Case) -> None:
    slices = [ct_slice(z, RescaleSlope=1 + z, RescaleIntercept=-z) for z in (0.0, 1.0, 2.0)]
    for ds in slices:
        ds.add_new(0x00280120, "SS", 7)
    case.run(slices)
    (row,) = case.rows
    assert (row["dtype"], row["slope"], row["intercept"], row["flags"]) == ("float32", 1.0, 0.0, ["rescaled"])
    assert case.voxels()[:, 5, 5].tolist() == [0.0, 1.0, 4.0]
    assert (case.voxels()[:, 0, 0] == row["padding"]).all()
    assert row["padding"] < case.voxels()[:, 0, 1:].min()


def test_signed_padding_is_kept(case: Case) -> None:
    slices = [ct_slice(z) for z in range(3)]
    for ds in slices:
        ds.add_new(0x00280120, "SS", -2000)
    case.run(slices)
    assert case.rows[0]["padding"] == -2000


@pytest.mark.parametrize(
    ("changes", "num_volumes"),
    [
        ({"SeriesNumber": 9}, 2),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, 2),
        ({"EchoTime": 80, "EchoNumbers": 2}, 2),
        ({"ConvolutionKernel": "B70f"}, 2),
        ({"PixelSpacing": [0.6, 0.75]}, 2),
        ({"ImageOrientationPatient": [0, 1, 0, -1, 0, 0]}, 2),
        ({"ExposureTime": 900, "XRayTubeCurrent": 77, "AcquisitionNumber": 5}, 1),
    ],
)
def test_a_series_is_split_by_what_separates_volumes(case: Case, changes: dict[str, Any], num_volumes: int) -> None:
    slices = [ct_slice(z) for z in (0.0, 1.0, 2.0)] + [ct_slice(z, **changes) for z in (3.0, 4.0, 5.0)]
    assert outcomes(case.run(shuffled(slices))) == {("stored", None): 6}
    assert sorted(row["shape"][0] for row in case.rows) == ([3, 3] if num_volumes == 2 else [6])


def test_a_slice_without_rescale_is_not_stacked_with_those_that_have_it(case: Case) -> None:
    slices = [ct_slice(z) for z in (0.0, 1.0, 2.0, 3.0)]
    del slices[3].RescaleSlope, slices[3].RescaleIntercept
    case.run(slices)
    (row,) = [row for row in case.rows if row["shape"][0] == 3]
    assert (row["units"], row["flags"]) == ("HU", [])
    assert all(one["shape"][0] != 4 for one in case.rows)


def test_one_file_that_cannot_be_built_costs_no_other_of_its_series(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medssl.ingest import volumes

    picture = volumes.picture

    def short_of_memory(decoded: Any, header: Any) -> Any:
        if header.frames[0].plane.instance_number == 2:
            raise MemoryError
        return picture(decoded, header)

    monkeypatch.setattr(volumes, "picture", short_of_memory)
    same = {"SeriesInstanceUID": "1.2.77"}
    report = case.run([radiograph(f"x{i}", InstanceNumber=i, SOPInstanceUID=f"1.2.77.{i}", **same) for i in (1, 2, 3)])
    assert outcomes(report) == {("stored", None): 2, ("quarantined", "worker_died"): 1}


def test_a_stack_that_memory_does_not_hold_is_left_out_whole(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Canvas.put

    def short_of_memory(self: Canvas, index: tuple[int, ...], *what: Any) -> None:
        if index == (0, 0):
            raise MemoryError
        put(self, index, *what)

    monkeypatch.setattr(Canvas, "put", short_of_memory)
    report = case.run([ct_slice(z) for z in range(5)])
    assert outcomes(report) == {("quarantined", "worker_died"): 5}


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_an_export_sent_again_with_other_uids_and_numbers_is_a_copy(case: Case, modality: str) -> None:
    slices = [in_time(z, t, Modality=modality, InstanceNumber=10 * t + z) for t in (1, 2) for z in (0, 1, 2)]
    for one, other in zip(slices[:3], slices[3:], strict=True):
        other.PixelData = one.PixelData
    report = case.run(slices)
    assert outcomes(report) == {("stored", None): 3, ("duplicate", "same_pixels"): 3}
    assert case.rows[0]["axes"] == "ZYX"
    copies = case.pool.instances.filter(pl.col("outcome") == "duplicate")
    assert sorted(copies["slice"]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("slices", "reason"),
    [
        ([ct_slice(z) for z in (0.0, 1.0, 3.0, 4.0)], "missing_slices"),
        ([ct_slice(z) for z in (0.0, 1.0, 2.3, 3.0, 4.9)], "uneven_spacing"),
        ([ct_slice(z, ImagePositionPatient=[-10, 3 * z**2, z]) for z in (0.0, 1.0, 2.0)], "bad_geometry"),
        ([ct_slice(z, ImagePositionPatient=None) for z in (0.0, 1.0)], "no_geometry"),
        ([ct_slice(z, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]) for z in (0.0, 1.0)], "no_geometry"),
    ],
)
def test_what_cannot_be_stacked_is_quarantined(case: Case, slices: list[Dataset], reason: str) -> None:
    assert outcomes(case.run(slices)) == {("quarantined", reason): len(slices)}
    assert case.rows == []
    assert list(case.pool.shards.glob("*")) == []


def test_a_tilted_stack_is_kept_leaning(case: Case) -> None:
    case.run([ct_slice(z, ImagePositionPatient=[-10, 0.25 * z, z]) for z in (0.0, 1.0, 2.0)])
    (row,) = case.rows
    assert (row["flags"], row["spacing_mm"]) == (["gantry_tilt"], [1.0, 0.5, 0.75])
    assert row["affine"] == [0.75, 0, 0, -10, 0, 0.5, 0.25, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def test_a_scout_parallel_to_the_slices_is_split_off(case: Case) -> None:
    slices = [ct_slice(z) for z in range(8)]
    report = case.run([*slices, ct_slice(90)])
    assert outcomes(report) == {("stored", None): 8, ("quarantined", "stray_slice"): 1}
    (row,) = case.rows
    assert (row["spacing_mm"][0], row["flags"]) == (1.0, ["incomplete_series"])


def test_a_scout_does_not_excuse_a_missing_slice(case: Case) -> None:
    report = case.run([ct_slice(z) for z in (0, 1, 2, 4, 5, 6, 7, 90)])
    assert outcomes(report) == {("quarantined", "missing_slices"): 7, ("quarantined", "stray_slice"): 1}


def test_several_lost_slices_never_cut_a_volume_off(case: Case) -> None:
    slices = [ct_slice(z) for z in (*range(40), *range(46, 56))]
    assert outcomes(case.run(shuffled(slices))) == {("quarantined", "missing_slices"): 50}
    other = Pool.create(case.source.parent / "filled", case.key)
    report = ingest([case.source], other, case.key, rules=Rules(allow_gaps=True))
    assert outcomes(report) == {("stored", None): 50}
    (row,) = other.catalog.volumes.to_dicts()
    assert (row["shape"][0], row["flags"]) == (56, ["gaps_resampled", "rescaled"])
    assert other.reader().read(0)[:, 5, 5] + 1024 == pytest.approx(np.arange(56), abs=1e-3)


def test_gaps_are_refused_or_filled_between_neighbours_and_recorded(case: Case) -> None:
    slices = [ct_slice(z) for z in (0.0, 2.0, 6.0, 8.0)]
    slices[2].add_new(0x00280120, "SS", 7)  # padding of one voxel, in one slice
    report = case.run(slices, rules=Rules(allow_gaps=True))
    assert outcomes(report) == {("stored", None): 4}
    (row,) = case.rows
    assert (row["shape"], row["spacing_mm"][0], row["slices_mm"]) == ([5, 32, 34], 2.0, [0, 2, 6, 8])
    assert (row["flags"], row["dtype"]) == (["gaps_resampled", "rescaled"], "float32")
    assert (row["slope"], row["intercept"], row["units"]) == (1.0, 0.0, "HU")
    assert case.voxels()[:, 5, 5].tolist() == [-1024, -1022, -1020, -1018, -1016]
    assert case.voxels()[:, 0, 0].tolist() == [-1017, -1017, row["padding"], row["padding"], -1017]
    assert row["padding"] < case.voxels()[:, 1:].min()
    assert case.slices(row["volume"]) == [0, 1, 3, 4]


def test_one_slice_alone_and_a_stray_scout_do_no_harm(case: Case) -> None:
    slices = [ct_slice(z) for z in range(4)]
    scout = ct_slice(300, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    sagittal = ct_slice(400, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    report = case.run([scout, *slices, sagittal])
    expected = {("stored", None): 4, ("excluded", "localizer"): 1, ("excluded", "single_slice"): 1}
    assert outcomes(report) == expected
    assert case.rows[0]["spacing_mm"][0] == 1.0


def test_copies_of_a_slice_are_duplicates_whatever_their_uid(case: Case) -> None:
    slices = [ct_slice(z) for z in range(4)]
    report = case.run([*slices, ct_slice(2), ct_slice(3, "another uid")])
    assert outcomes(report) == {("stored", None): 4, ("duplicate", "same_pixels"): 2}
    (row,) = case.rows
    copies = case.pool.instances.filter(pl.col("outcome") == "duplicate")
    assert copies["volume"].to_list() == [row["volume"]] * 2
    assert sorted(copies["slice"].to_list()) == [2, 3]


def test_one_uid_with_two_pictures_at_one_place_loses_both(case: Case) -> None:
    slices = [ct_slice(z) for z in range(4)]
    other = ct_slice(3)
    other.PixelData = (np.frombuffer(other.PixelData, "<i2") + 1).tobytes()
    report = case.run([*slices, other])
    assert outcomes(report) == {("stored", None): 3, ("quarantined", "conflicting_pixels"): 2}
    assert case.rows[0]["flags"] == ["incomplete_series"]


def test_one_uid_for_a_whole_series_keeps_every_slice(case: Case) -> None:
    assert outcomes(case.run([ct_slice(z, "same") for z in range(5)])) == {("stored", None): 5}
    assert case.rows[0]["flags"] == ["reused_sop_uid"]


def test_a_damaged_slice_at_the_end_leaves_a_flag(case: Case) -> None:
    slices = [ct_slice(z) for z in range(5)]
    path = save(slices.pop(), case.source / "zzz")
    path.write_bytes(path.read_bytes()[:-50])
    assert outcomes(case.run(slices)) == {("stored", None): 4, ("quarantined", "truncated"): 1}
    assert case.rows[0]["flags"] == ["incomplete_series"]


def test_a_slice_that_cannot_be_decoded_leaves_a_gap_and_not_a_wrong_volume(case: Case) -> None:
    slices = [ct_slice(z) for z in range(5)]
    slices[2].PixelData = slices[2].PixelData[:-6]
    report = case.run(slices)
    assert outcomes(report) == {("quarantined", "missing_slices"): 4, ("quarantined", "truncated"): 1}


def test_a_colour_stack_keeps_its_colours(case: Case) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    slices = [with_pixels(dataset(CT, f"c{z}", Modality="CT"), rgb + np.uint8(z)) for z in range(3)]
    for z, ds in enumerate(slices):
        ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing = [0, 0, z], [1, 0, 0, 0, 1, 0], [1, 1]
    case.run(slices)
    assert (case.rows[0]["axes"], case.rows[0]["shape"]) == ("ZYXC", [3, 8, 8, 3])
    assert np.array_equal(case.voxels()[2], rgb + np.uint8(2))


def test_every_radiograph_is_a_volume_of_its_own(case: Case) -> None:
    pictures = [radiograph(name) for name in ("a", "b", "c")]
    pictures[1].PhotometricInterpretation = "MONOCHROME1"
    report = case.run(pictures, (None, uid.RLELossless, uid.JPEG2000Lossless))
    assert outcomes(report) == {("stored", None): 3}
    assert Counter(row["photometric"] for row in case.rows) == {"MONOCHROME1": 1, "MONOCHROME2": 2}
    row = case.rows[0]
    assert (row["axes"], row["shape"], row["affine"], row["units"]) == ("YX", [40, 36], None, "stored")
    stored = {case.voxels(i).tobytes() for i in range(3)}
    expected = [np.frombuffer(radiograph(name).PixelData, "<u2") for name in ("a", "b", "c")]
    expected[1] = 4095 - expected[1]
    assert stored == {array.tobytes() for array in expected}


def test_radiographs_with_equal_pixels_or_one_uid_are_told_apart(case: Case) -> None:
    same = radiograph("a")
    renamed = radiograph("b", np.frombuffer(same.PixelData, "<u2").reshape(40, 36))
    other_series = radiograph("a", SeriesInstanceUID="1.2.3.4")
    conflict_1, conflict_2 = radiograph("c"), radiograph("c", np.ones((40, 36), np.uint16))
    report = case.run([same, radiograph("a"), renamed, other_series, conflict_1, conflict_2])
    assert outcomes(report) == {
        ("stored", None): 1,
        ("duplicate", "same_pixels"): 2,
        ("duplicate", "same_sop_uid"): 1,
        ("quarantined", "conflicting_pixels"): 2,
    }
    assert set(case.pool.instances.drop_nulls("volume")["volume"]) == {case.rows[0]["volume"]}


def test_one_picture_under_two_patients_is_kept_twice_and_flagged(case: Case) -> None:
    report = case.run([radiograph("a"), radiograph("a", PatientID="MRN2", SeriesInstanceUID="1.2.3.4")])
    assert outcomes(report) == {("stored", None): 2}
    assert [row["flags"] for row in case.rows] == [["reused_sop_uid", "same_pixels_other_patient"]] * 2


def test_a_ct_without_rescale_is_not_in_hounsfield_units(case: Case) -> None:
    slices = [ct_slice(z) for z in range(3)]
    for ds in slices:
        del ds.RescaleSlope, ds.RescaleIntercept
    case.run(slices)
    assert case.rows[0]["units"] == "stored"


def test_a_volume_is_built_in_the_memory_of_one_volume(case: Case) -> None:
    rng = np.random.default_rng(0)
    for z in range(48):
        array = rng.integers(0, 2, (256, 256)).astype(np.int16)
        ds = with_pixels(dataset(CT, f"c{z}", Modality="CT", ImageType=["ORIGINAL"]), array)
        ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing = [0, 0, z], [1, 0, 0, 0, 1, 0], [1, 1]
        save(ds, case.source / f"{z:03d}")
    size = 48 * 256 * 256 * 2
    tracemalloc.start()
    ingest([case.source], case.pool, case.key)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert case.voxels().nbytes == size
    assert peak < 1.5 * size  # the volume, its compressed bytes, a slice, tables
