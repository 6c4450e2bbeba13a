"""Known files that changed since: what is in the pool stays and the run says so; the rest is looked at again."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import polars as pl
import pytest
from mixed_export import counts, tables
from pydicom import uid
from synthetic_dicom import radiograph, save

from medssl.ingest.ingest import ingest
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.verbs.ingest import ingest as ingest_verb


def retouched(path: Path, old: bytes, new: bytes) -> None:
    """Write other bytes of the same length in place."""
    before = path.read_bytes()
    assert old in before
    path.write_bytes(before.replace(old, new))
    os.utime(path, (1, 1))


def test_known_files_that_changed_in_place_are_counted_and_taken_anew_once_their_patient_is_removed(
    source: Path, pool: Pool, key: Key
) -> None:
    for name in ("a", "b"):
        save(radiograph(name, PatientID="MRN00001", SeriesInstanceUID=f"1.2.{ord(name)}"), source / name)
    ingest([source], pool, key)
    before = tables(pool)
    retouched(source / "b", b"MRN00001", b"MRN00002")
    report = ingest([source], pool, key)
    assert (report.num_files, report.num_known, report.num_changed) == (0, 2, 1)
    assert report.changed == ("export/b",)
    assert tables(pool) == before
    pool.remove([pool.catalog.volumes["patient"][0]])
    again = ingest([source], pool, key)
    assert (counts(again), again.num_changed) == ({"stored": 2}, 0)
    assert pool.catalog.volumes["patient"].n_unique() == 2
    assert ingest([source], pool, key).num_changed == 0


def test_a_file_that_left_nothing_in_the_pool_is_looked_at_again_when_it_changed(
    source: Path, pool: Pool, key: Key
) -> None:
    save(radiograph("a"), source / "a")
    whole = save(radiograph("b", SOPInstanceUID="1.2.9"), source / "b", uid.RLELossless).read_bytes()
    (source / "b").write_bytes(bytes(len(whole)))
    assert counts(ingest([source], pool, key)) == {"stored": 1, "non_image": 1}
    (source / "b").write_bytes(whole)
    os.utime(source / "b", (1, 1))
    again = ingest([source], pool, key)
    assert (counts(again), again.num_changed) == ({"stored": 1}, 0)
    assert pool.instances.height == 2
    assert ingest([source], pool, key).num_files == 0


def test_members_of_a_zip_are_known_by_their_checksums_and_rows_of_earlier_pools_by_their_size(
    source: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    data = {
        name: save(radiograph(name, SOPInstanceUID=f"1.2.{ord(name)}"), tmp_path / name).read_bytes() for name in "abc"
    }

    def pack(names: str) -> None:
        with zipfile.ZipFile(source / "x.zip", "w") as archive:
            for name in names:
                archive.writestr(name, data[name])

    pack("ab")
    ingest([source], pool, key)
    pack("abc")
    added = ingest([source], pool, key)
    assert (counts(added), added.num_known, added.num_changed) == ({"stored": 1}, 2, 0)
    data["b"] = data["b"].replace(b"MRN7719204", b"MRN7719205")
    pack("abc")
    assert ingest([source], pool, key).changed == ("export/x.zip/b",)
    table = pool.path / "catalog" / "instances.parquet"
    pl.read_parquet(table).drop("mark").write_parquet(table)
    old = ingest([source], Pool.open(pool.path), key)
    assert (old.num_files, old.num_changed) == (0, 0)


def test_the_terminal_names_changed_files_and_the_outcome_counts_them(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(b"k" * 32)
    options = {"key_file": tmp_path / "key", "workspace": tmp_path / "workspace"}
    save(radiograph("a"), source / "a")
    assert ingest_verb([source], tmp_path / "pool", **options).data["changed"] == 0
    assert "changed" not in capsys.readouterr().err
    os.utime(source / "a", (1, 1))
    result = ingest_verb([source], tmp_path / "pool", **options)
    assert (result.data["changed"], result.exit_code) == (1, 0)
    said = capsys.readouterr().err
    assert "changed since: export/a" in said
    assert "1 known files changed since they were ingested" in said
    assert "export/a" not in str(result.data)
