"""Real CT and MR series: a volume of the documented shape, or a reason; never a wrong stack."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest

from medssl.core.errors import MedsslError
from medssl.ingest.ingest import ingest
from medssl.pool.key import Key
from medssl.pool.pool import Pool

SAFE_REASONS = {
    "ct_head_ge_tilt": {"gantry_tilt"},
    "d2n_failing_gantrytilting_001": {"gantry_tilt"},
    "d2n_failing_notavolume_001": {"duplicate_position"},
    "d2n_failing_sliceincrement_001": {"missing_slices"},
    "d2n_failing_sliceincrement_002": {"gantry_tilt"},
    "d2n_generic_rgb_001": {"secondary_capture"},
}
BY_RESULT = {
    "multiframe_volume": {"multi_frame"},
    "multiframe_volume_4d": {"multi_frame"},
    "mosaic": {"mosaic"},
    "volume_4d": {"duplicate_position"},
    "images_only": {"single_slice", "localizer"},
}


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "dicom_series"


def table(folder: Path) -> Iterator[dict[str, str]]:
    with (folder / "EXPECTED.csv").open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def shape_of(row: dict[str, str]) -> list[int]:
    columns, rows, slices = row["shape_cols_rows_slices_t"].split()[0].split("x")[:3]
    return [int(slices), int(rows), int(columns)]


def test_every_series_is_a_right_volume_or_has_a_reason(folder: Path, tmp_path: Path, key: Key) -> None:
    seen: Counter[str] = Counter()
    for row in table(folder):
        pool = Pool.create(tmp_path / row["folder"], key)
        report = ingest([folder / row["folder"]], pool, key)
        reasons = {str(count.reason) for count in report.outcomes if count.outcome in ("quarantined", "excluded")}
        volumes = pool.catalog.volumes
        assert report.num_files == int(row["files"]), row["folder"]
        assert pool.verify() == []
        assert "build_failed" not in reasons
        if row["result"] == "volume" or row["folder"] == "d2n_failing_slicecount_001":
            assert volumes["shape"].to_list() == [shape_of(row)], row["folder"]
            assert reasons == set()
            x, y, z = map(float, row["spacing_mm_x_y_z"].split("x"))
            assert volumes["spacing_mm"].to_list()[0] == pytest.approx([z, y, x], rel=2e-3), row["folder"]
        elif row["folder"] == "d2n_failing_sliceorientation_001":
            assert volumes["shape"].to_list() == [[2, 288, 288]] * 2
            assert sorted(spacing[0] for spacing in volumes["spacing_mm"]) == pytest.approx([3.3, 4.4], rel=1e-3)
        else:
            assert volumes.height == 0, row["folder"]
            assert reasons, row["folder"]
            assert reasons <= SAFE_REASONS.get(row["folder"], set()) | BY_RESULT.get(row["result"], set())
        seen[row["result"]] += 1
    assert seen["volume"] == 14


def test_voxels_and_affines_equal_those_of_dcm2niix(folder: Path, tmp_path: Path, key: Key) -> None:
    num_compared = 0
    for row in table(folder):
        oracle = folder / "oracle" / row["folder"] / row["oracle_files"].split()[0]
        if row["result"] != "volume" or not oracle.is_file():
            continue
        pool = Pool.create(tmp_path / row["folder"], key)
        ingest([folder / row["folder"]], pool, key)
        (volume,) = pool.catalog.volumes.to_dicts()
        ours = pool.reader().read(0).transpose(2, 1, 0) * volume["slope"] + volume["intercept"]
        to_ras = np.diag([-1, -1, 1, 1]) @ np.array(volume["affine"]).reshape(4, 4)
        mine = nibabel.as_closest_canonical(nibabel.Nifti1Image(ours.astype(np.float64), to_ras))
        theirs = nibabel.as_closest_canonical(nibabel.load(oracle))
        assert np.abs(mine.affine - theirs.affine).max() < 0.02, row["folder"]
        assert np.allclose(mine.get_fdata(), theirs.get_fdata(), atol=1e-4), row["folder"]
        num_compared += 1
    assert num_compared > 10


def test_paired_compressed_series_are_equal(folder: Path, tmp_path: Path, key: Key) -> None:
    names = ["001", "j2k_001", "jpeg_001", "jpegls_001", "rle_001"]
    pool = Pool.create(tmp_path / "pool", key)
    found = []
    for name in names:
        pool = Pool.create(tmp_path / name, key)
        ingest([folder / f"d2n_generic_compressed_{name}"], pool, key)
        found.append((pool.reader().read(0).tobytes(), pool.catalog.volumes["affine"].to_list()))
    assert len(set(map(repr, found))) == 1


def test_slopes_of_each_slice_are_applied(folder: Path, tmp_path: Path, key: Key) -> None:
    pool = Pool.create(tmp_path / "pool", key)
    ingest([folder / "d2n_generic_anatomical_002_non_isotropic"], pool, key)
    voxels = pool.reader().read(0)
    assert voxels.dtype == np.float32
    assert (float(voxels.min()), float(voxels.max())) == pytest.approx((33.4438, 96.4680), abs=1e-3)


def test_all_series_together_are_as_safe_as_one_by_one(folder: Path, tmp_path: Path, key: Key) -> None:
    names = [row["folder"] for row in table(folder) if row["folder"].startswith("d2n_")]
    pool = Pool.create(tmp_path / "pool", key)
    report = ingest([folder / name for name in names], pool, key, workers=2)
    assert report.num_files == pool.instances.height == 129
    assert pool.verify() == []
    stored = pool.instances.filter(pl.col("outcome") == "stored")
    for volume, shape in pool.catalog.volumes.select("volume", "shape").iter_rows():
        assert sorted(stored.filter(pl.col("volume") == volume)["slice"]) == list(range(shape[0]))


def test_one_slice_in_fifteen_syntaxes_makes_no_stack(shared: Path, tmp_path: Path, key: Key) -> None:
    pool = Pool.create(tmp_path / "pool", key)
    try:
        ingest([shared / "data" / "dicom_files" / "ct_transfer_syntaxes"], pool, key)
    except MedsslError as error:
        pytest.fail(str(error))
    assert pool.catalog.volumes.height == 0
    reasons = Counter(pool.instances["reason"])
    assert reasons["unsupported_syntax"] == 3
    assert sum(reasons.values()) == 16
