"""Nothing planted in the input is found anywhere in the pool, decoded; a build that leaks on purpose is caught."""

from __future__ import annotations

import io
import logging
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import blosc2
import polars as pl
import pytest
from pydicom import uid
from synthetic_dicom import IDENTIFIERS, ROOT, ct_slice, dataset, radiograph, save

from medssl.core.errors import MedsslError
from medssl.dicom import vocabulary
from medssl.ingest.ingest import ingest
from medssl.ingest.labels import LabelFile
from medssl.pool.key import Key
from medssl.pool.pool import Pool

PLANTED = [
    *(part for value in IDENTIFIERS.values() for part in value.split("^") if part != "Dr"),
    *("Quillfeather", "Ottoline", "Zanzibart", "7719204", "1961-04-17", "20170203", "2017-02-03", ROOT, "PlantedPath"),
]


@pytest.fixture
def export(source: Path) -> Path:
    """Images, broken files, reports and texts, with identifiers in headers, names and tables."""
    folder = source / "PlantedPath_Quillfeather"
    for i in range(3):
        save(radiograph(f"x{i}", ManufacturerModelName="Quillfeather X1"), folder / f"Ottoline{i}.dcm")
    for z in range(3):
        body_part = "CHEST" if z else "OTTOLINE"
        save(ct_slice(z, BodyPartExamined=body_part, StudyID="QUILL"), folder / f"ct{z}", uid.RLELossless)
    cut = save(radiograph("cut"), folder / "cut.dcm")
    cut.write_bytes(cut.read_bytes()[:-100])
    save(dataset(uid.BasicTextSRStorage, "report", SeriesDescription="Quillfeather"), folder / "report")
    (folder / "Zanzibart.txt").write_text("Quillfeather was here\n" * 10)
    return source


@pytest.fixture
def labels(tmp_path: Path) -> LabelFile:
    path = tmp_path / "labels.csv"
    path.write_text("path,patient_name,finding\nPlantedPath_Quillfeather/Ottoline0.dcm,Quillfeather,nodule\n")
    return LabelFile.read(path, ["finding"])


def contents(pool: Path) -> Iterator[tuple[str, str]]:
    """Yield everything in a pool as text: names, raw bytes, cells, tar headers, voxels and their metadata."""
    for path in sorted(p for p in pool.rglob("*") if p.is_file()):
        name = str(path.relative_to(pool))
        yield name, name
        yield name, path.read_bytes().decode("latin1")
        if path.suffix == ".parquet":
            cells = pl.read_parquet(path)
            yield name, "\n".join(str(value) for row in cells.rows() for value in row)
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    yield name, repr((member.name, member.uname, member.gname, member.pax_headers))
                    handle = tar.extractfile(member)
                    assert handle is not None
                    stored = blosc2.ndarray_from_cframe(handle.read())
                    yield name, io.BytesIO(stored[()].tobytes()).read().decode("latin1")
                    yield name, repr(dict(stored.schunk.vlmeta.getall()))


def leaks(pool: Path) -> set[str]:
    return {
        planted
        for _, text in contents(pool)
        for planted in PLANTED
        if planted.casefold() in text.casefold() or planted.encode("utf-16-le").decode("latin1") in text
    }


def test_nothing_planted_is_in_the_pool_or_in_any_log(
    export: Path,
    labels: LabelFile,
    pool: Pool,
    key: Key,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.DEBUG):
        report = ingest([export], pool, key, labels=labels)
    assert (report.num_volumes, report.num_labels) == (4, 1)
    assert leaks(pool.path) == set()
    printed = capfd.readouterr()
    assert (caplog.text, printed.out, printed.err) == ("", "", "")


def test_the_search_finds_what_a_leaky_build_leaves(
    export: Path, pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "known", lambda value, words: value)
    monkeypatch.setattr(vocabulary, "model", lambda value, private: value)
    ingest([export], pool, key)
    assert leaks(pool.path) >= {"Ottoline", "Quillfeather"}


def test_the_search_finds_text_in_voxels(source: Path, pool: Pool, key: Key) -> None:
    ds = radiograph("x")
    ds.BitsStored, ds.HighBit = 16, 15
    ds.PixelData = b"Quillfeather" + ds.PixelData[12:]
    save(ds, source / "x")
    ingest([source], pool, key)
    assert leaks(pool.path) == {"Quillfeather"}


def test_no_error_names_a_patient(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("patient_id,finding\nMRN7719204,a\nMRN7719299,a\nMRN7719204,b\n")
    with pytest.raises(MedsslError) as caught:
        ingest([export], pool, key, labels=LabelFile.read(path))
    path.write_text("patient_id,finding\nMRN7719204,a\nMRN7719299,a\n")
    with pytest.raises(MedsslError) as later:
        ingest([export], pool, key, labels=LabelFile.read(path))
    for planted in PLANTED:
        assert planted not in f"{caught.value} {later.value}"


def test_the_linkage_file_holds_what_the_pool_does_not(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    path = tmp_path / "linkage.csv"
    ingest([export], pool, key, linkage=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = pl.read_csv(path, infer_schema_length=0)
    assert rows.height == pool.instances.height
    joined = rows.join(pool.instances.drop("volume"), on="source_key").join(pool.catalog.volumes, on="volume")
    assert joined.height == 6
    assert (joined["patient"] == joined["patient_right"]).all()
    assert (joined["study"] == joined["study_right"]).all()
    assert (joined["sop"] == joined["sop_right"]).all()
    assert set(joined["patient_id"]) == {"MRN7719204"}
    assert set(joined["path"]) == {str(p) for p in export.rglob("*") if p.suffix == ".dcm" and p.stem != "cut"} | {
        str(p) for p in export.rglob("ct*") if p.is_file()
    }
    assert leaks(pool.path) == set()
    before = path.read_bytes()
    ingest([export], pool, key, linkage=path)
    assert path.read_bytes() == before


def test_a_linkage_file_stays_outside_the_pool_and_overwrites_nothing_else(
    export: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    with pytest.raises(MedsslError, match="would undo its pseudonyms"):
        ingest([export], pool, key, linkage=pool.path / "catalog" / "linkage.csv")
    other = tmp_path / "thesis.txt"
    other.write_text("years of work")
    with pytest.raises(MedsslError, match="not a linkage file"):
        ingest([export], pool, key, linkage=other)
    assert other.read_text() == "years of work"
    assert pool.instances.height == 0
