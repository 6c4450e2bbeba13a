"""Slices at the same places more than once: one volume with a time axis where a tag or their numbers say so."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from stacking import Case, in_time, outcomes, shuffled
from synthetic_dicom import ct_slice

from medssl.ingest.export import nifti_image


@pytest.mark.parametrize(
    ("tag", "flag"),
    [
        ("TemporalPositionIdentifier", "t_position"),
        ("DiffusionBValue", "t_b_value"),
        ("TriggerTime", "t_trigger_ms"),
        ("AcquisitionNumber", "t_acquisition"),
    ],
)
def test_time_points_that_a_tag_tells_apart_are_one_volume_with_a_time_axis(case: Case, tag: str, flag: str) -> None:
    slices = [in_time(z, t, **{tag: t}) for z in (0.0, 1.0, 2.0) for t in (9, 10, 100)]
    assert outcomes(case.run(shuffled(slices))) == {("stored", None): 9}
    (row,) = case.rows
    assert (row["axes"], row["shape"], row["flags"]) == ("TZYX", [3, 3, 32, 34], [flag])
    assert (row["times"], row["spacing_mm"]) == ([9, 10, 100], [1.0, 0.5, 0.75])
    assert case.voxels()[:, :, 5, 5].tolist() == [[10 * t + z for z in (0, 1, 2)] for t in (9, 10, 100)]
    assert case.slices(row["volume"]) == list(range(9))


def test_the_offset_that_ge_adds_to_its_b_values_is_taken_off(case: Case) -> None:
    slices = []
    for z in (0.0, 1.0, 2.0):
        for b, stored in ((0, 0), (400, 400), (800, 1_000_000_800)):
            ds = in_time(z, b // 400 + 1)
            block = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
            block.add_new(0x39, "IS", [stored, 8, 0, 0])
            slices.append(ds)
    assert outcomes(case.run(shuffled(slices))) == {("stored", None): 9}
    assert (case.rows[0]["times"], case.rows[0]["flags"]) == ([0, 400, 800], ["t_b_value"])


def test_times_of_day_are_kept_as_seconds_from_the_first_also_over_midnight(case: Case) -> None:
    clock = {1: "235958.5", 2: "000001", 3: "000003.5"}
    case.run(shuffled([in_time(z, t, AcquisitionTime=clock[t]) for z in (0.0, 1.0) for t in clock]))
    assert (case.rows[0]["times"], case.rows[0]["flags"]) == ([0, 2.5, 5], ["t_seconds"])
    assert case.voxels()[:, 0, 5, 5].tolist() == [10, 20, 30]


def test_the_time_point_at_which_a_scan_was_stopped_is_left_out_and_said(case: Case) -> None:
    slices = [in_time(z, t, TemporalPositionIdentifier=t) for t in (1, 2, 3) for z in (0.0, 1.0, 2.0)]
    report = case.run(slices[:-1])
    assert outcomes(report) == {("stored", None): 6, ("quarantined", "incomplete_time_point"): 2}
    (row,) = case.rows
    assert (row["shape"], row["flags"]) == ([2, 3, 32, 34], ["incomplete_series", "t_position"])


def test_a_slice_taken_twice_leaves_the_first_volume(case: Case) -> None:
    slices = [in_time(z, 1, AcquisitionNumber=1) for z in (0.0, 1.0, 2.0)] + [in_time(1.0, 2, AcquisitionNumber=2)]
    report = case.run(slices)
    assert outcomes(report) == {("stored", None): 3, ("quarantined", "incomplete_time_point"): 1}
    assert (case.rows[0]["axes"], case.rows[0]["times"]) == ("ZYX", None)


@pytest.mark.parametrize("time_first", [True, False])
def test_mr_time_points_without_a_tag_follow_their_numbers(case: Case, *, time_first: bool) -> None:
    pairs = [(z, t) for t in (1, 2, 3) for z in (2, 0, 1)] if time_first else [
        (z, t) for z in (0, 1, 2) for t in (1, 2, 3)
    ]  # fmt: skip
    slices = [in_time(z, t, Modality="MR", InstanceNumber=i) for i, (z, t) in enumerate(pairs)]
    assert outcomes(case.run(shuffled(slices))) == {("stored", None): 9}
    (row,) = case.rows
    assert (row["axes"], row["flags"], row["times"]) == ("TZYX", ["t_instance_number"], None)
    assert case.voxels()[:, :, 5, 5].tolist() == [[10 * t + z for z in (0, 1, 2)] for t in (1, 2, 3)]


def test_ct_slices_told_apart_by_numbers_alone_may_be_two_reconstructions_and_are_refused(case: Case) -> None:
    slices = [in_time(z, t, InstanceNumber=2 * t + z) for t in (1, 2) for z in (0, 1)]
    assert outcomes(case.run(slices)) == {("quarantined", "duplicate_position"): 4}


def test_phases_of_the_heart_at_one_place_are_a_film(case: Case) -> None:
    report = case.run(shuffled([in_time(6, t, Modality="MR", TriggerTime=40.0 * t) for t in range(5)]))
    assert outcomes(report) == {("stored", None): 5}
    (row,) = case.rows
    assert (row["axes"], row["shape"]) == ("TYX", [5, 32, 34])
    assert (row["spacing_mm"], row["times"]) == ([0.5, 0.75], [0, 40, 80, 120, 160])
    assert case.voxels()[:, 5, 5].tolist() == [6, 16, 26, 36, 46]


@pytest.mark.parametrize(
    ("stated", "step"),
    [({"SliceThickness": 8, "SpacingBetweenSlices": 9}, 8), ({"SpacingBetweenSlices": -9}, 9), ({}, 1)],
)
def test_a_film_of_slices_is_exported_where_its_slice_lies(case: Case, stated: dict[str, float], step: float) -> None:
    sagittal = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "Modality": "MR", **stated}
    case.run([in_time(6, t, TriggerTime=40.0 * t, **sagittal) for t in range(3)])
    (row,) = case.rows
    assert row["affine"] == [0, 0, -step, -10, 0.75, 0, 0, -20, 0, -0.5, 0, 6, 0, 0, 0, 1]
    image = nifti_image(case.voxels(), row)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert (image.shape, image.header.get_zooms()) == ((1, 34, 32, 3), pytest.approx((step, 0.75, 0.5, 0.04)))
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    first = np.linalg.inv(image.affine) @ [10, 20, 6, 1]  # the corner of the header, in RAS+
    assert image.get_fdata()[(*np.round(first[:3]).astype(int), 0)] == 7


def test_slices_with_equal_pixels_at_one_place_are_kept_when_their_time_differs(case: Case) -> None:
    slices = [ct_slice(z, f"{z} {t}", TemporalPositionIdentifier=t) for z in (0.0, 1.0, 2.0) for t in (1, 2)]
    slices[-1].PixelData = (np.frombuffer(slices[-1].PixelData, "<i2") + 1).tobytes()
    assert outcomes(case.run(slices)) == {("stored", None): 6}


def test_time_points_that_nothing_tells_apart_are_refused(case: Case) -> None:
    slices = [ct_slice(z, f"{z} {t}", WindowCenter=t) for z in (0.0, 1.0) for t in (1, 2)]
    for i, ds in enumerate(slices):
        ds.PixelData = (np.frombuffer(ds.PixelData, "<i2") + i).tobytes()
    assert outcomes(case.run(slices)) == {("quarantined", "duplicate_position"): 4}
