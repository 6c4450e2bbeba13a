"""NIfTI into a pool: stored as it is, placed as nibabel places it, label maps left out, every file accounted for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core.errors import MedsslError
from medssl.core.places import LocalFile
from medssl.ingest.export import nifti_image
from medssl.ingest.ingest import ingest
from medssl.ingest.nifti import NiftiHeader, read_header
from medssl.ingest.sources import SourceFile
from medssl.pool.key import Key
from medssl.pool.pool import Pool


def write(
    path: Path, array: np.ndarray, affine: np.ndarray | None = None, scale: tuple[float, float] | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine)
    if scale is not None:
        image.header.set_slope_inter(*scale)
    nibabel.save(image, path)
    return path


def ramp(shape: tuple[int, ...] = (7, 8, 9), start: int = 0) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) + start).astype(np.int16)


def source_file(path: Path, relative: str | None = None) -> SourceFile:
    place = LocalFile(path)
    return SourceFile(place, relative or f"export/{path.name}", path.stat().st_size, place.mark())


def outcomes(pool: Pool, key: Key, folder: Path) -> dict[str, tuple[str, str | None]]:
    names = {key.hmac("source", f"{folder.name}/{p.relative_to(folder)}"): str(p.relative_to(folder))
             for p in folder.rglob("*") if p.is_file()}  # fmt: skip
    rows = pool.instances.select("source_key", "outcome", "reason").iter_rows()
    return {names[name]: (outcome, reason) for name, outcome, reason in rows}


def test_a_decathlon_folder_becomes_a_pool_of_its_images(source: Path, pool: Pool, key: Key) -> None:
    for i in range(4):
        write(source / "imagesTr" / f"case_{i:03}.nii.gz", ramp(start=i))
        write(source / "labelsTr" / f"case_{i:03}.nii.gz", ramp())
    write(source / "imagesTs" / "case_004.nii.gz", ramp((5, 6, 7, 2, 3)))
    (source / "imagesTr" / "._case_000.nii.gz").write_bytes(b"\x00\x05\x16\x07" * 20)
    (source / "dataset.json").write_text(json.dumps({"modality": {"0": "CT"}}))
    report = ingest([source], pool, key)
    found = outcomes(pool, key, source)
    assert found.pop("imagesTs/case_004.nii.gz") == ("excluded", "time_axis")
    assert {found.pop(f"imagesTr/case_{i:03}.nii.gz") for i in range(4)} == {("stored", None)}
    assert {found.pop(f"labelsTr/case_{i:03}.nii.gz") for i in range(4)} == {("label", "label_map")}
    assert {outcome for outcome, _ in found.values()} == {"non_image"}
    assert len(found) == 2
    assert report.quarantined == ()
    volumes = pool.catalog.volumes
    assert volumes["patient"].n_unique() == volumes["study"].n_unique() == 4
    assert set(volumes["modality"]) == {"CT"}
    assert set(volumes["units"]) == {"HU"}
    assert {*volumes["flags"].explode()} - {"near_duplicate"} == {"patient_from_file_name"}
    for row in volumes.iter_rows(named=True):
        assert row["role"] == pool.role_of(row["patient"], key)
    assert pool.verify() == []


@settings(max_examples=40)
@given(st.permutations(range(3)), st.tuples(*[st.sampled_from([-1, 1])] * 3), st.integers(0, 2**32 - 1))
def test_voxels_and_places_are_those_of_nibabel(tmp_path_factory: Any, axes: list[int], signs: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[axes] * signs * rng.uniform(0.5, 3, 3)
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    path = write(tmp_path_factory.mktemp("nifti") / "a.nii", ramp((4, 5, 6)), affine)
    header = read_header(source_file(path), None)[0]
    assert isinstance(header, NiftiHeader)
    made, image = header.load(source_file(path)), nibabel.load(path)
    assert np.array_equal(made.array.T, image.get_fdata())
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ np.reshape(made.affine or [], (4, 4)), image.affine)
    assert made.spacing_mm == pytest.approx(image.header.get_zooms()[::-1])


def test_sheared_planes_are_measured_along_their_normal_flagged_and_exported_without_a_qform(
    source: Path, pool: Pool, key: Key
) -> None:
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    affine[1, 2] = 0.8  # each plane lies 0.8 mm further back
    write(source / "a.nii.gz", ramp((6, 7, 8)), affine)
    ingest([source], pool, key)
    (row,) = pool.catalog.volumes.iter_rows(named=True)
    assert row["spacing_mm"] == pytest.approx([2.0, 1.5, 1.0])
    assert "gantry_tilt" in row["flags"]
    image = nifti_image(pool.reader().read(0), row)
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 0)
    assert np.allclose(np.abs(image.affine[:3, :3]), np.abs(affine[:3, :3]))


def test_integers_stay_integers_beside_their_slope(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", ramp(), scale=(0.5, -1024.0))
    header = read_header(source_file(path), "CT")[0]
    assert isinstance(header, NiftiHeader)
    made = header.load(source_file(path))
    assert (made.array.dtype, made.slope, made.intercept, made.units) == (np.dtype("i2"), 0.5, -1024.0, "HU")
    assert np.array_equal(made.array.T * 0.5 - 1024, nibabel.load(path).get_fdata())


def test_a_file_without_a_place_says_so_by_having_no_affine(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ramp(), None)
    image.header.set_zooms((1.0, 2.0, 3.0))
    image.header["sform_code"] = image.header["qform_code"] = 0
    image.header.set_xyzt_units("micron")
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    header = read_header(source_file(tmp_path / "a.nii"), None)[0]
    assert isinstance(header, NiftiHeader)
    made = header.load(source_file(tmp_path / "a.nii"))
    assert made.affine is None
    assert made.spacing_mm == pytest.approx([0.003, 0.002, 0.001])


@pytest.mark.parametrize(("unit", "times"), [("sec", [0.0, 2.5, 5.0]), ("unknown", None)])
def test_a_fourth_axis_is_time(source: Path, pool: Pool, key: Key, unit: str, times: list[float] | None) -> None:
    image = nibabel.Nifti1Image(ramp((4, 5, 6, 3)), np.diag([-1.0, 2.0, 3.0, 1.0]))
    image.header.set_zooms((1.0, 2.0, 3.0, 2.5))
    image.header.set_xyzt_units("mm", unit)
    nibabel.save(image, source / "a.nii")
    ingest([source], pool, key, modality="MR")
    row = pool.catalog.volumes.row(0, named=True)
    assert (row["axes"], row["shape"], row["spacing_mm"]) == ("TZYX", [3, 6, 5, 4], [3.0, 2.0, 1.0])
    assert (row["times"], row["affine"][:4]) == (times, [1, 0, 0, 0])
    assert ("t_seconds" if times else "t_index") in row["flags"]
    assert np.array_equal(pool.reader().read(0), ramp((4, 5, 6, 3)).T)
    assert pool.verify() == []


def test_one_slice_is_a_flat_image(source: Path, pool: Pool, key: Key) -> None:
    write(source / "a.nii", ramp((6, 7, 1)))
    ingest([source], pool, key, modality="MR")
    row = pool.catalog.volumes.row(0, named=True)
    assert (row["axes"], row["shape"], row["affine"], row["spacing_mm"]) == ("YX", [7, 6], None, [1.0, 1.0])
    assert np.array_equal(pool.reader().read(0), ramp((6, 7, 1))[..., 0].T)


def test_damaged_files_are_quarantined_by_name(source: Path, pool: Pool, key: Key) -> None:
    noise = np.random.default_rng(0).integers(0, 2000, (20, 20, 20)).astype(np.int16)
    whole = write(source / "a.nii.gz", noise).read_bytes()
    (source / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    (source / "flipped.nii.gz").write_bytes(bytes(flipped))
    (source / "cut.nii").write_bytes(gzip.decompress(whole)[:-100])
    (source / "empty.nii").write_bytes(b"")
    (source / "text.nii").write_text("no image at all " * 40)
    report = ingest([source], pool, key)
    assert {q.path: q.reason for q in report.quarantined} == {
        "export/cut.nii": "truncated", "export/cut.nii.gz": "truncated", "export/empty.nii": "empty",
        "export/flipped.nii.gz": "corrupt", "export/text.nii": "corrupt",
    }  # fmt: skip
    assert pool.catalog.volumes.height == 1
    assert pool.verify() == []


def test_channels_sessions_and_placeholders_find_their_patients(source: Path, pool: Pool, key: Key) -> None:
    names = [
        "imagesTr/brain_7_0000.nii.gz", "imagesTr/brain_7_0001.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii",
        "x/image.nii", "unknown.nii", "y/unknown.nii",
    ]  # fmt: skip
    for i, name in enumerate(names):
        write(source / name, ramp(start=i))
    ingest([source], pool, key)
    volumes = pool.catalog.volumes
    assert volumes.height == 7
    assert volumes["patient"].n_unique() == 5
    assert volumes["study"].n_unique() == 6
    assert volumes["patient"].is_in([key.hmac("patient", "", "sub-01")]).sum() == 2
    assert volumes.filter(pl.col("flags").list.contains("placeholder_patient")).height == 2
    assert volumes["flags"].list.contains("assumed_modality").all()
    assert set(volumes["modality"]) == {"MR"}


def test_a_moved_folder_is_known_and_workers_change_nothing(source: Path, tmp_path: Path, key: Key) -> None:
    for i in range(5):
        write(source / f"p{i}.nii.gz", ramp(start=i))
    pools = [Pool.create(tmp_path / f"pool{workers}", key) for workers in (1, 2)]
    for pool, workers in zip(pools, (1, 2), strict=True):
        ingest([source], pool, key, workers=workers)
    assert pools[0].catalog.volumes.equals(pools[1].catalog.volumes)
    moved = ingest([source.rename(tmp_path / "elsewhere")], pools[0], key)
    assert {(o.outcome, o.reason, o.files) for o in moved.outcomes} == {("duplicate", "same_pixels", 5)}


def test_colour_is_not_supported_and_label_maps_alone_are_no_pool(source: Path, pool: Pool, key: Key) -> None:
    colour = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    write(source / "colour.nii", colour)
    report = ingest([source], pool, key)
    assert [(q.path, q.reason) for q in report.quarantined] == [("export/colour.nii", "unsupported_pixels")]
    (source / "colour.nii").unlink()
    write(source / "labels" / "a.nii", ramp())
    with pytest.raises(MedsslError, match=r"no image among 1 files .*\(1 label_map\)"):
        ingest([source / "labels"], pool, key)


def test_all_of_hippocampus_is_stored_bit_by_bit(shared: Path, tmp_path: Path, key: Key) -> None:
    folder, pool = shared / "data" / "hippocampus", Pool.create(tmp_path / "pool", key)
    report = ingest([folder], pool, key)
    assert {(o.outcome, o.files) for o in report.outcomes} == {("stored", 160), ("label", 160)}
    names = {key.hmac("source", f"hippocampus/images/{p.name}"): p for p in (folder / "images").glob("*.nii.gz")}
    place = {volume: row for row, volume in enumerate(pool.catalog.volumes["volume"])}
    reader = pool.reader()
    for name, volume in pool.instances.filter(pl.col("outcome") == "stored").select("source_key", "volume").iter_rows():
        image, row = nibabel.load(names[name]), pool.catalog.volumes.row(place[volume], named=True)
        stored = reader.read(place[volume])
        assert np.array_equal(stored.T * row["slope"] + row["intercept"], image.get_fdata())
        assert stored.dtype == image.get_data_dtype()
        assert np.allclose(np.diag([-1, -1, 1, 1]) @ np.reshape(row["affine"], (4, 4)), image.affine)
    assert pool.catalog.volumes["patient"].n_unique() == 160
