"""Real CT and MR series against dcm2niix: the same voxels at the same places, or a reason; never a wrong stack."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import polars as pl
import pydicom
import pytest
from numpy.typing import NDArray

from medssl.core.errors import MedsslError
from medssl.data.prepare import PrepareConfig
from medssl.data.transforms import place
from medssl.ingest.export import nifti_image
from medssl.ingest.ingest import ingest
from medssl.ingest.rules import Rules
from medssl.pool.key import Key
from medssl.pool.pool import Pool

SHARED = Path(os.environ.get("MEDSSL_SHARED", Path(__file__).parents[3] / "shared"))
SERIES = SHARED / "data" / "dicom_series"
SHAPES: dict[str, list[list[int]]] = {  # Z Y X, where several volumes are right
    "ct_head_ge_tilt": [[14, 512, 512]] * 2,  # 4 mm and 7 mm slices, which differ in their image type
    "d2n_failing_sliceorientation_001": [[2, 288, 288]] * 2,
}
REJECTED = {
    "ct_head_philips_scout": {"localizer": 1},
    "d2n_failing_notavolume_001": {"duplicate_position": 4},
    "d2n_failing_sliceincrement_001": {"missing_slices": 4},
    "d2n_failing_sliceincrement_002": {"missing_slices": 4},
    "d2n_ge_anatomical_001_single_slice": {"single_slice": 1},
}
COPIES = {"mr_mosaic_transfer_syntaxes": 8}  # nine files of one picture: one volume
FLAGS = {
    "ct_head_ge_tilt": "gantry_tilt",
    "d2n_failing_gantrytilting_001": "gantry_tilt",
    "d2n_generic_anatomical_002_non_isotropic": "rescaled",
}
# dcm2niix takes the distance between planes for the step between slices; ours is that of the positions in the headers.
LEANING = {"ct_head_ge_tilt", "d2n_failing_gantrytilting_001"}
OTHER_TIMES = {"d2n_philips_enhanced_dti_001"}  # dcm2niix moves the volume with b = 0


class Made(NamedTuple):
    """A pool of one folder, and how many of its files had which reason."""

    pool: Pool
    reasons: Counter[str]
    num_files: int

    def images(self) -> list[Any]:
        """Return every volume as NIfTI in RAS+, voxels as stored."""
        rows = self.pool.catalog.volumes.to_dicts()
        return [nifti_image(self.pool.reader().read(i), row) for i, row in enumerate(rows)]


def table() -> list[dict[str, str]]:
    """Return the rows of EXPECTED.csv, none where the shared data are absent."""
    path = SERIES / "EXPECTED.csv"
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []


ROWS = {row["folder"]: row for row in table()}
every_series = pytest.mark.parametrize("name", ROWS or [pytest.param("", marks=pytest.mark.skip("no shared data"))])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ingest a folder once, whichever tests ask for it."""

    @cache
    def one(name: str, *, allow_gaps: bool = False) -> Made:
        key = Key(b"k" * 32)
        pool = Pool.create(tmp_path_factory.mktemp(name) / "pool", key)
        report = ingest([SERIES / name], pool, key, rules=Rules(allow_gaps=allow_gaps))
        lost = {"quarantined", "excluded"}
        reasons = Counter({str(c.reason): c.files for c in report.outcomes if str(c.outcome) in lost})
        return Made(pool, reasons, report.num_files)

    return one


def shapes_of(row: dict[str, str]) -> list[list[int]]:
    """Return the shapes ``[T] Z Y X`` that EXPECTED.csv asks for."""
    if row["folder"] in REJECTED:
        return []
    if row["folder"] in SHAPES:
        return SHAPES[row["folder"]]
    return [[int(n) for n in reversed(row["shape_cols_rows_slices_t"].split()[0].split("x"))]]


def oracles(name: str) -> list[tuple[NDArray[Any], NDArray[np.float64], float, float]]:
    """Return what dcm2niix made: stored voxels and affine, both in RAS+, slope and intercept."""
    found = []
    for path in sorted((SERIES / "oracle" / name).glob("[0-9]*.nii.gz")):
        image = nibabel.load(path)
        stored = nibabel.Nifti1Image(np.asanyarray(image.dataobj.get_unscaled()), image.affine)
        turned = nibabel.as_closest_canonical(stored)
        found.append((np.asanyarray(turned.dataobj), turned.affine, image.dataobj.slope, image.dataobj.inter))
    return found


def in_any_order(array: NDArray[Any]) -> list[bytes]:
    return sorted(moment.tobytes() for moment in np.moveaxis(array, 3, 0))


@every_series
def test_every_file_is_accounted_for_and_the_pool_is_sound(made: Any, name: str) -> None:
    found = made(name)
    assert found.num_files == found.pool.instances.height == int(ROWS[name]["files"])
    assert found.pool.verify() == []
    assert "build_failed" not in found.reasons


@every_series
def test_volumes_have_the_expected_shapes_or_the_files_a_stated_reason(made: Any, name: str) -> None:
    found, row = made(name), ROWS[name]
    volumes = found.pool.catalog.volumes
    if row["result"] == "images_only_or_rgb_volume" and not volumes.height:
        assert found.reasons == {"secondary_capture": 4}
        return
    assert [list(shape)[:-1] if axes.endswith("C") else list(shape) for shape, axes in volumes.select(
        "shape", "axes").iter_rows()] == shapes_of(row)  # fmt: skip
    assert found.reasons == REJECTED.get(name, {})
    copies = found.pool.instances.filter(pl.col("outcome") == "duplicate")
    assert copies.height == COPIES.get(name, 0)
    assert all(FLAGS.get(name, "") in [*flags, ""] for flags in volumes["flags"])
    axes = "TZYX" if "4d" in row["result"] or name.startswith("mr_siemens_mosaic") else "ZYX"
    assert {found.strip("C") for found in volumes["axes"]} <= {axes}


@every_series
def test_spacing_is_that_between_planes(made: Any, name: str) -> None:
    expected = ROWS[name]["spacing_mm_x_y_z"].split("x")
    for spacing in made(name).pool.catalog.volumes["spacing_mm"] if name not in SHAPES else []:
        assert list(spacing) == pytest.approx([float(n) for n in reversed(expected)], rel=2e-3)


@every_series
def test_voxels_and_places_are_those_of_dcm2niix(made: Any, name: str) -> None:
    found, theirs = made(name), oracles(name)
    for image, row in zip(found.images(), found.pool.catalog.volumes.to_dicts(), strict=True):
        voxels = np.asanyarray(image.dataobj)
        if name == "ct_head_ge_tilt":  # one file for all 28 slices, the thin ones first, with their spacing
            is_thin = row["spacing_mm"][0] < 5
            assert np.array_equal(voxels, theirs[0][0][..., :14] if is_thin else theirs[0][0][..., 14:])
            continue
        columns = [0, 1, 3] if name in LEANING else [0, 1, 2, 3]
        alike = [t for t in theirs if t[0].shape == voxels.shape and (
            np.abs(t[1] - image.affine)[:, columns].max() < 1e-3)]  # fmt: skip
        assert alike or not theirs, [np.abs(t[1] - image.affine).max() for t in theirs if t[1].shape]
        for stored, _, slope, intercept in alike:
            if row["dtype"] == "float32":
                assert np.abs(voxels - (stored * slope + intercept)).max() < 1e-5
            elif name in OTHER_TIMES:
                assert in_any_order(voxels.astype(np.int32)) == in_any_order(stored.astype(np.int32))
            else:
                assert np.array_equal(voxels, stored)


@pytest.mark.parametrize("name", sorted(LEANING))
def test_a_tilted_stack_lies_in_the_planes_of_dcm2niix_and_each_slice_where_its_header_says(
    made: Any, shared: Path, name: str
) -> None:
    found = made(name)
    rows = found.pool.catalog.volumes.to_dicts()
    upwards = sorted(zip(rows, found.images(), strict=True), key=lambda pair: float(pair[1].affine[2, 3]))
    theirs = oracles(name)[0][1]
    for _, image in upwards:
        assert np.abs(image.affine - theirs)[:3, :2].max() < 1e-3
    _, lowest = upwards[0]
    assert np.abs(lowest.affine - theirs)[:3, 3].max() < 1e-3
    normal = np.cross(lowest.affine[:3, 0], lowest.affine[:3, 1])
    apart = lowest.affine[:3, 2] @ normal / np.linalg.norm(normal)
    assert apart == pytest.approx(np.linalg.norm(theirs[:3, 2]), abs=1e-3)
    affines = [(np.reshape(row["affine"], (4, 4)), row["shape"][0]) for row, _ in upwards]
    lie = [affine[:3, 3] + k * affine[:3, 2] for affine, num in affines for k in range(num)]
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in (SERIES / name).glob("*.dcm")]
    positions = sorted((list(map(float, ds.ImagePositionPatient)) for ds in headers), key=lambda place: place[2])
    assert np.abs(np.array(lie) - positions).max() < 1e-2


def test_voxels_of_the_series_without_a_stored_oracle_have_its_checksum(made: Any, shared: Path) -> None:
    name = "mr_t1_structural_implicit"
    with (SERIES / "oracle" / "CHECKSUMS.csv").open(newline="", encoding="utf-8") as file:
        (expected,) = (row for row in csv.DictReader(file) if row["folder"] == name)
    affine = np.array([*map(float, expected["affine_rows"].split()), 0, 0, 0, 1]).reshape(4, 4)
    (image,) = made(name).images()
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(image.affine), nibabel.orientations.io_orientation(affine)
    )
    turned = image.as_reoriented(turn)
    assert np.abs(turned.affine - affine).max() < 1e-3
    stored = np.asanyarray(turned.dataobj).astype("<i2").tobytes(order="F")
    assert hashlib.sha256(stored).hexdigest() == expected["sha256_of_stored_integers_fortran_order"]


@pytest.mark.parametrize(("name", "num"), [("d2n_failing_gantrytilting_001", 4)])
def test_a_tilted_stack_prepared_is_what_dcm2niix_straightens(made: Any, shared: Path, name: str, num: int) -> None:
    found = made(name)
    (row,) = found.pool.catalog.volumes.to_dicts()
    values = found.pool.reader().read(0) * row["slope"] + row["intercept"]
    image = ((values + 1024) / 4096).clip(0, 1).astype(np.float32)[None]
    ours = place(image, row, PrepareConfig(shape=(4, 4, 4), fit="crop"))
    theirs = nibabel.as_closest_canonical(nibabel.load(SERIES / "oracle" / name / "4_Tilt_1.nii.gz"))
    other = theirs.get_fdata().T  # Z Y X
    assert ours.array.shape[1:3] == (num, other.shape[1])
    errors = np.abs(ours.array[0] * 4096.0 - 1024 - other)
    inside = other > -900
    assert np.median(errors[inside]) < 5
    assert ours.spacing_mm == pytest.approx(row["spacing_mm"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "num", "at"),
    [("d2n_failing_sliceincrement_001", 5, [0, 5, 10, 20]), ("d2n_failing_sliceincrement_002", 5, None)],
)
def test_allowed_gaps_are_filled_and_recorded(made: Any, shared: Path, name: str, num: int, at: Any) -> None:
    found, quarantined = made(name, allow_gaps=True), made(name)
    assert quarantined.pool.catalog.volumes.height == 0
    (row,) = found.pool.catalog.volumes.to_dicts()
    assert row["shape"] == [num, 512, 512]
    assert {"gaps_resampled", "rescaled"} <= set(row["flags"])
    assert ("gantry_tilt" in row["flags"]) == name.endswith("002")
    at = at or np.array([0, 1, 2, 4]) * row["spacing_mm"][0]
    assert row["slices_mm"] == pytest.approx(at, abs=0.01)
    stored, _, slope, intercept = oracles(name)[0]  # the slices as they are
    planes = [round(depth / row["spacing_mm"][0]) for depth in row["slices_mm"]]
    voxels = np.asanyarray(found.images()[0].dataobj)
    assert np.array_equal(voxels[..., planes], stored * slope + intercept)
    missing = ({*range(num)} - {*planes}).pop()
    between = (voxels[..., missing - 1] + voxels[..., missing + 1]) / 2
    assert np.allclose(voxels[..., missing], between, atol=1e-3)


def test_paired_compressed_series_are_equal(made: Any, shared: Path) -> None:
    pools = [made(f"d2n_generic_compressed_{n}").pool for n in ("001", "j2k_001", "jpeg_001", "jpegls_001", "rle_001")]
    found = {(pool.reader().read(0).tobytes(), repr(pool.catalog.volumes["affine"].to_list())) for pool in pools}
    assert len(found) == 1


def test_slopes_of_each_slice_are_applied(made: Any, shared: Path) -> None:
    voxels = made("d2n_generic_anatomical_002_non_isotropic").pool.reader().read(0)
    assert voxels.dtype == np.float32
    assert (float(voxels.min()), float(voxels.max())) == pytest.approx((33.4438, 96.4680), abs=1e-3)


def test_all_series_together_are_as_safe_as_one_by_one(shared: Path, tmp_path: Path, key: Key) -> None:
    names = [name for name in ROWS if name.startswith("d2n_")]
    pool = Pool.create(tmp_path / "pool", key)
    report = ingest([SERIES / name for name in names], pool, key, workers=2)
    assert report.num_files == pool.instances.height == 129
    assert pool.verify() == []
    stored = pool.instances.filter(pl.col("outcome") == "stored").group_by("volume").agg("slice", "bytes")
    planes = {volume: sorted(slices) for volume, slices, _ in stored.iter_rows()}
    for volume, shape, axes in pool.catalog.volumes.select("volume", "shape", "axes").iter_rows():
        num = int(np.prod(shape[: axes.index("Y")]))
        assert planes[volume] in (list(range(num)), [0])  # a file a plane, or one file


def test_one_slice_in_fifteen_syntaxes_makes_no_stack(shared: Path, tmp_path: Path, key: Key) -> None:
    pool = Pool.create(tmp_path / "pool", key)
    try:
        ingest([shared / "data" / "dicom_files" / "ct_transfer_syntaxes"], pool, key)
    except MedsslError as error:
        pytest.fail(str(error))
    assert pool.catalog.volumes.height == 0
    assert pool.instances.height == 16
    assert not {"build_failed", None} & set(pool.instances["reason"])
