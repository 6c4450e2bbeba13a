"""One volume in two series of a study: stored once, whatever its UIDs, in whichever run and by however many workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mixed_export import shard_bytes, tables
from stacking import Case, in_time, outcomes
from synthetic_dicom import ct_slice, radiograph, save
from test_ingest_again import two_stacks

from medssl.ingest.ingest import ingest
from medssl.pool.key import Key
from medssl.pool.pool import Pool

TWICE = {("stored", None): 4, ("duplicate", "same_pixels"): 4}


def write_stack(folder: Path, series: str, **elements: Any) -> None:
    for z in range(4):
        save(ct_slice(z, f"{series} {z}", SeriesInstanceUID=series, **elements), folder / series / str(z))


def two_in(source: Path, **elements: Any) -> None:
    write_stack(source, "1.2.1")
    write_stack(source, "1.2.2", **elements)


@pytest.mark.usefixtures("small_shards")
def test_a_stack_of_two_series_of_a_study_is_stored_once_for_any_number_of_workers(
    source: Path, tmp_path: Path, key: Key
) -> None:
    two_in(source)
    pools = [Pool.create(tmp_path / str(workers), key) for workers in (1, 2)]
    for workers, pool in enumerate(pools, start=1):
        report = ingest([source], pool, key, workers=workers)
        assert (outcomes(report), report.num_volumes) == (TWICE, 1)
        assert pool.verify() == []
        assert ingest([source], pool, key).num_files == 0
    assert tables(pools[0]) == tables(pools[1])
    assert shard_bytes(pools[0]) == shard_bytes(pools[1])
    copies = pools[0].instances.filter(pl.col("outcome") == "duplicate")
    assert set(copies["volume"]) == set(pools[0].catalog.volumes["volume"])
    assert sorted(copies["slice"]) == [0, 1, 2, 3]


def test_a_stack_whose_other_series_is_in_the_pool_is_a_duplicate_and_leaves_no_shard(
    source: Path, pool: Pool, key: Key
) -> None:
    write_stack(source, "1.2.1")
    ingest([source], pool, key)
    before = pool.catalog.volumes.rows(), shard_bytes(pool)
    write_stack(source, "1.2.2")
    assert outcomes(ingest([source], pool, key)) == {("duplicate", "same_pixels"): 4}
    assert (pool.catalog.volumes.rows(), shard_bytes(pool)) == before
    assert pool.verify() == []


@pytest.mark.parametrize(
    "elements", [{"StudyInstanceUID": "1.3"}, {"RescaleSlope": 2}, {"PixelSpacing": [0.5, 0.7]}, {"PatientID": "MRN2"}]
)
def test_equal_voxels_of_another_study_value_place_or_patient_are_another_volume(
    source: Path, pool: Pool, key: Key, elements: dict[str, Any]
) -> None:
    two_in(source, **elements)
    report = ingest([source], pool, key)
    assert (outcomes(report), report.num_volumes) == ({("stored", None): 8}, 2)
    assert all("same_pixels_other_series" not in flags for flags in pool.catalog.volumes["flags"])


def test_of_two_series_that_share_a_picture_only_what_is_new_is_stored(case: Case) -> None:
    shared = radiograph("x").PixelData
    first, again = radiograph("a", SeriesInstanceUID="1.2.1"), radiograph("b", SeriesInstanceUID="1.2.2")
    first.PixelData = again.PixelData = shared
    report = case.run([first, again, radiograph("c", SeriesInstanceUID="1.2.2")])
    assert outcomes(report) == {("stored", None): 2, ("duplicate", "same_pixels"): 1}


def test_time_points_of_which_one_is_new_stay_together(case: Case) -> None:
    case.run([in_time(z, t, AcquisitionNumber=t + 1) for z in range(4) for t in range(2)])
    other = [
        in_time(z, t, AcquisitionNumber=t + 1, SeriesInstanceUID="1.2.9", SOPInstanceUID=f"1.4.{z}.{t}")
        for z in range(4)
        for t in range(3)
    ]
    report = case.run(other)
    assert report.num_volumes == 1
    assert sorted(row["shape"][0] for row in case.rows) == [2, 3]


def test_an_object_of_two_volumes_of_which_one_is_there_already_is_kept_and_flagged(case: Case) -> None:
    one, other = two_stacks(), two_stacks()
    other.SeriesInstanceUID, other.SOPInstanceUID = "1.2.9", "1.2.9.1"
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    second = len(other.PixelData) // 2
    other.PixelData = other.PixelData[:second] + bytes(second)
    assert outcomes(case.run([one, other])) == {("stored", None): 2}
    assert sum("same_pixels_other_series" in row["flags"] for row in case.rows) == 1
    same = two_stacks()
    same.SeriesInstanceUID, same.SOPInstanceUID = "1.2.8", "1.2.8.1"
    same.file_meta.MediaStorageSOPInstanceUID = same.SOPInstanceUID
    save(same, case.source / "same")
    assert outcomes(ingest([case.source], case.pool, case.key)) == {("duplicate", "same_pixels"): 1}
    assert case.pool.verify() == []
