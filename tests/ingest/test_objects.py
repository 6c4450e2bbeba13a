"""Objects of many frames: one volume, several, one with a time axis; their one row stays true to all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from objects import framed, item, many_frames, volume
from pydicom import uid
from pydicom.dataset import Dataset
from synthetic_dicom import ct_slice, dataset, radiograph, save

from medssl.data.prepare import PrepareConfig, Preparer
from medssl.ingest.ingest import ingest
from medssl.ingest.rules import Rules
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.pool.tables import SHARES_OBJECT, problems

PLANE = volume(1).shape[1:]
CAREFUL, SHOWN = Rules(), Rules(burned_in="accept")


def stored(
    objects: Sequence[Dataset], source: Path, pool: Pool, key: Key, rules: Rules = CAREFUL, **options: Any
) -> list[dict[str, Any]]:
    """Return the rows of the volumes of these files, in the order of their shapes."""
    for i, ds in enumerate(objects):
        save(ds, source / f"{i:03d}")
    ingest([source], pool, key, rules=rules, **options)
    assert pool.verify() == []
    return sorted(pool.catalog.volumes.with_row_index("row").to_dicts(), key=lambda row: row["shape"])


def outcomes(pool: Pool) -> Counter[tuple[str, str | None]]:
    return Counter(pool.instances.select("outcome", "reason").iter_rows())


def enhanced(places: Sequence[tuple[float, int]], stacks: Sequence[int] = (), slope: float = 1.0) -> Dataset:
    """Return an enhanced object with a frame for each (height, time point), of sagittal planes in stack 2."""
    ds = many_frames(len(places))
    for i, (group, (z, t)) in enumerate(zip(ds.PerFrameFunctionalGroupsSequence, places, strict=True)):
        is_second = bool(stacks) and stacks[i] == 2
        group.FrameContentSequence[0].TemporalPositionIndex = t
        group.FrameContentSequence[0].StackID = "2" if is_second else "1"
        group.PlanePositionSequence[0].ImagePositionPatient = [z, 0, 0] if is_second else [-10, -20, z]
        group.PlaneOrientationSequence = [
            item(ImageOrientationPatient=[0, 1, 0, 0, 0, 1] if is_second else [1, 0, 0, 0, 1, 0])
        ]
        group.PixelValueTransformationSequence[0].RescaleSlope = slope
        group.PixelValueTransformationSequence[0].RescaleIntercept = 0
    del ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    return ds


def test_slopes_of_each_frame_are_applied_and_frames_ordered_by_their_place(source: Path, pool: Pool, key: Key) -> None:
    ds = many_frames(5)
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.PlanePositionSequence[0].ImagePositionPatient[2] = -2.0 * k
    (row,) = stored([ds], source, pool, key)
    assert (row["axes"], row["dtype"], row["flags"]) == ("ZYX", "float32", ["rescaled"])
    expected = [frame.astype(np.float32) * (1 + k) - k for k, frame in enumerate(volume(5))]
    assert np.array_equal(pool.reader().read(0), expected[::-1])
    assert pool.instances["slice"].to_list() == [0]


@pytest.mark.parametrize(
    ("function", "flags"),
    [("SIGMOID", ["window_sigmoid"]), ("LINEAR_EXACT", ["window_linear_exact"]), ("LINEAR", [])],
)
def test_the_function_of_the_window_in_the_middle_is_a_flag_of_stacks_films_and_pictures(
    source: Path, pool: Pool, key: Key, function: str, flags: list[str]
) -> None:
    voi = {"VOILUTFunction": function, "WindowCenter": 9.0, "WindowWidth": 5.0}
    places = enhanced([(z, 1) for z in (0.0, 2.0, 4.0)])
    for group in places.PerFrameFunctionalGroupsSequence:
        group.FrameVOILUTSequence = [item(**voi)]
    film = framed(dataset(uid.XRayAngiographicImageStorage, "xa", Modality="XA", **voi), volume(2))
    picture = radiograph(**voi)
    film.SeriesInstanceUID, picture.SeriesInstanceUID = "1.2.3.5", "1.2.3.6"
    rows = stored([places, film, picture], source, pool, key, SHOWN)
    assert sorted(row["axes"] for row in rows) == ["TYX", "YX", "ZYX"]
    assert all([f for f in row["flags"] if f.startswith("window")] == flags for row in rows)


def test_time_points_of_one_object_are_one_volume_whatever_the_order_of_its_frames(
    source: Path, pool: Pool, key: Key
) -> None:
    places = [(z, t) for z in (0.0, 2.0, 4.0) for t in (1, 2)]
    order = np.random.default_rng(0).permutation(6)
    (row,) = stored([enhanced([places[i] for i in order])], source, pool, key)
    assert (row["axes"], row["shape"], row["times"]) == ("TZYX", [2, 3, *PLANE], [1, 2])
    planes = dict(zip([places[i] for i in order], volume(6), strict=True))
    expected = [[planes[z, t] for z in (0.0, 2.0, 4.0)] for t in (1, 2)]
    assert np.array_equal(pool.reader().read(0), expected)


def test_two_stacks_of_one_object_are_two_volumes_and_its_row_names_the_first(
    source: Path, pool: Pool, key: Key
) -> None:
    heights = [0.0, 2, 4, 0, 3]
    first, second = reversed(stored([enhanced([(z, 1) for z in heights], [1, 1, 1, 2, 2])], source, pool, key))
    assert (first["shape"], second["shape"]) == ([3, *PLANE], [2, *PLANE])
    assert pool.instances.select("volume", "outcome").rows() == [(first["volume"], "stored")]
    assert (first["flags"], second["flags"]) == ([], [SHARES_OBJECT])
    alone = pool.catalog.volumes.filter(pl.col("volume") == second["volume"])
    assert len(list(problems(alone, pool.instances.head(0)))) == 1  # without its object's row it is a problem


def test_a_stack_of_one_place_beside_another_lies_where_its_own_frames_do(source: Path, pool: Pool, key: Key) -> None:
    places = [(0.0, 1), (2, 1), (4, 1), (3, 1), (3, 2)]
    film, _ = stored([enhanced(places, [1, 1, 1, 2, 2])], source, pool, key)
    assert (film["axes"], film["shape"]) == ("TYX", [2, *PLANE])
    assert film["affine"] == [0, 0, 2, 3, 0.75, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("in_patient", [True, False])
def test_an_ultrasound_volume_in_a_frame_of_its_own_is_not_placed_in_the_patient(
    source: Path, pool: Pool, key: Key, *, in_patient: bool
) -> None:
    ds = many_frames(5, uid.EnhancedUSVolumeStorage)
    (shared,) = ds.SharedFunctionalGroupsSequence
    shared.PlaneOrientationVolumeSequence = [item(ImageOrientationVolume=[1, 0, 0, 0, 1, 0])]
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.PlanePositionVolumeSequence = [item(ImagePositionVolume=[0.0, 0.0, 2.0 * (4 - k)])]
        del group.PixelValueTransformationSequence
        if not in_patient:
            del group.PlanePositionSequence
    if not in_patient:
        del shared.PlaneOrientationSequence
    (row,) = stored([ds], source, pool, key, SHOWN)
    assert (row["axes"], row["spacing_mm"]) == ("ZYX", [2.0, 0.5, 0.75])
    assert ("volume_frame" in row["flags"]) is not in_patient
    assert (row["affine"] is None) is not in_patient
    assert np.array_equal(pool.reader().read(0), volume(5)[:: 1 if in_patient else -1])


def test_an_object_of_which_a_part_is_stored_says_why_another_is_not(source: Path, pool: Pool, key: Key) -> None:
    places = [(z, t) for t in (1, 2) for z in (0.0, 2.0, 4.0)][:-1]
    (row,) = stored([enhanced(places)], source, pool, key)
    assert (row["axes"], row["flags"]) == ("ZYX", ["incomplete_series"])
    assert outcomes(pool) == {("stored", "incomplete_time_point"): 1}


def test_an_object_sent_twice_is_a_copy_and_two_of_one_uid_that_differ_are_refused(
    source: Path, pool: Pool, key: Key
) -> None:
    places = [(z, 1) for z in (0.0, 2.0, 4.0)]
    one, again, other = enhanced(places), enhanced(places), enhanced(places)
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    assert len(stored([one, again], source, pool, key)) == 1
    assert outcomes(pool) == {("stored", None): 1, ("duplicate", "same_pixels"): 1}
    other.PixelData = (np.frombuffer(other.PixelData, "<u2") ^ 1).tobytes()
    fresh = Pool.create(pool.path.with_name("fresh"), key)
    save(other, source / "001")
    ingest([source], fresh, key)
    assert outcomes(fresh) == {("quarantined", "conflicting_pixels"): 2}


@pytest.mark.parametrize("num", [2, 5])
def test_films_keep_their_time_axis_and_colours(source: Path, pool: Pool, key: Key, num: int) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (num, *PLANE, 3)).astype(np.uint8)
    colour = framed(dataset(uid.UltrasoundMultiFrameImageStorage, "us", Modality="US"), frames)
    grey = framed(dataset(uid.XRayAngiographicImageStorage, "xa", Modality="XA"), volume(num))
    grey.SeriesInstanceUID = "1.2.3.5"
    rows = sorted(stored([colour, grey], source, pool, key, SHOWN), key=lambda row: row["axes"])
    assert [(row["axes"], row["affine"]) for row in rows] == [("TYX", None), ("TYXC", None)]
    assert np.array_equal(pool.reader().read(rows[0]["row"]), volume(num))
    assert np.array_equal(pool.reader().read(rows[1]["row"]), frames)
    assert pool.instances["slice"].to_list() == [None, None]


def test_an_object_of_two_films_sent_in_two_series_leaves_one_copy_of_each(source: Path, pool: Pool, key: Key) -> None:
    made = []
    for series in ("1.2.3.5", "1.2.3.6"):
        ds = framed(dataset(uid.NuclearMedicineImageStorage, "nm", Modality="NM"), volume(4))
        ds.EnergyWindowVector, ds.FrameIncrementPointer = [1, 1, 2, 2], [0x00540010]
        ds.DetectorInformationSequence = [item(StartAngle=0)]
        ds.SeriesInstanceUID = series
        made.append(ds)
    rows = stored(made, source, pool, key)
    assert [row["shape"] for row in rows] == [[2, *PLANE]] * 2
    assert outcomes(pool) == {("stored", None): 1, ("duplicate", "same_sop_uid"): 1}


def test_every_time_point_is_prepared_on_the_way_as_a_volume_of_its_own(source: Path, tmp_path: Path, key: Key) -> None:
    preparer = Preparer(PrepareConfig(shape=(4, 4, 4), fit="crop"))
    pool = Pool.create(tmp_path / "prepared", key, prepare=preparer.settings)
    places = [(z, t) for z in (0.0, 2.0, 4.0) for t in (1, 2)]
    rows = stored([enhanced(places)], source, pool, key, transform=preparer)
    assert [row["axes"] for row in rows] == ["CZYX", "CZYX"]
    whole = {row["volume"][16:] for row in rows}
    assert len(whole) == 1
    assert sorted(row["flags"].count(SHARES_OBJECT) for row in rows) == [0, 1]
    again = Pool.create(tmp_path / "again", key)
    assert {row["volume"] for row in stored([enhanced(places)], source, again, key)} == whole


def test_a_file_that_lies_about_its_frames_costs_itself_only(source: Path, pool: Pool, key: Key) -> None:
    places = [(z, 1) for z in (0.0, 2.0, 4.0)]
    liar = enhanced(places)
    liar.SOPInstanceUID = "1.2.3.6"
    liar.SeriesInstanceUID = "1.2.3.7"
    liar.PixelData = liar.PixelData[:-200]
    assert len(stored([enhanced(places), liar], source, pool, key)) == 1
    (lost,) = [c for c in outcomes(pool) if c[0] != "stored"]
    assert lost[0] == "quarantined"


def test_slices_of_a_prepared_series_point_to_their_own_time_point(source: Path, tmp_path: Path, key: Key) -> None:
    preparer = Preparer(PrepareConfig(shape=(4, 4, 4), fit="crop"))
    pool = Pool.create(tmp_path / "prepared", key, prepare=preparer.settings)
    slices = [ct_slice(z, f"{z} {t}", TemporalPositionIdentifier=t) for t in (1, 2) for z in (0.0, 1.0, 2.0)]
    rows = stored(slices, source, pool, key, transform=preparer)
    assert {SHARES_OBJECT} & {flag for row in rows for flag in row["flags"]} == set()
    named = pool.instances.group_by("volume").agg(pl.col("slice").sort())
    assert dict(named.iter_rows()) == {row["volume"]: [0, 1, 2] for row in rows}
