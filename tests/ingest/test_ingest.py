"""One run of ingest: a row a file with outcome and reason, the same from any number of workers."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from mixed_export import counts, shard_bytes, tables
from pydicom import uid
from synthetic_dicom import dataset, radiograph, save

from medssl.core.errors import MedsslError, PoolError
from medssl.core.types import Outcome
from medssl.ingest.ingest import ingest
from medssl.ingest.work import Work
from medssl.pool.key import Key
from medssl.pool.pool import Pool

pytestmark = pytest.mark.usefixtures("small_shards")


def test_every_file_has_one_row_with_outcome_and_reason(mixed: Path, pool: Pool, key: Key) -> None:
    heard: list[tuple[str, int, int]] = []
    report = ingest([mixed], pool, key, progress=lambda *words: heard.append(words))
    assert counts(report) == {"stored": 16, "duplicate": 1, "quarantined": 1, "non_image": 2}
    assert [report.count(outcome) for outcome in Outcome] == [16, 1, 1, 0, 0, 2]
    assert (report.num_files, report.num_volumes, report.num_patients, report.num_studies) == (20, 13, 7, 13)
    assert [(q.path, q.reason) for q in report.quarantined] == [("export/cut.dcm", "truncated")]
    assert pool.instances.height == 20
    assert pool.instances["source_key"].n_unique() == 20
    assert pool.instances.filter(pl.col("outcome") != "stored")["reason"].null_count() == 0
    assert pool.instances.filter(pl.col("outcome") == "stored")["reason"].null_count() == 16
    assert report.num_bytes == pool.instances["bytes"].sum()
    assert not Work.beside(pool.path).folder.exists()
    assert [words for words in heard if words[1] == words[2]] == [
        ("listing", 0, 0), ("listing", 20, 20), ("headers", 20, 20), ("volumes", 17, 17), ("commit", 20, 20)
    ]  # fmt: skip
    assert pool.verify() == []


def test_the_copy_is_the_duplicate_and_not_the_file_it_copies(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    outcome = dict(pool.instances.select("source_key", "outcome").iter_rows())
    assert outcome[key.hmac("source", "export/copy_of_last.dcm")] == "stored"  # it comes first by name
    assert outcome[key.hmac("source", "export/p5/11.dcm")] == "duplicate"


def test_any_number_of_workers_gives_the_same_bytes(mixed: Path, tmp_path: Path, key: Key) -> None:
    pools = [Pool.create(tmp_path / f"pool{workers}", key) for workers in (1, 3)]
    for pool, workers in zip(pools, (1, 3), strict=True):
        ingest([mixed], pool, key, workers=workers)
    assert len(shard_bytes(pools[0])) > 2
    assert shard_bytes(pools[0]) == shard_bytes(pools[1])
    assert tables(pools[0]) == tables(pools[1])


def test_folders_without_files_or_without_images_are_errors(source: Path, pool: Pool, key: Key) -> None:
    with pytest.raises(MedsslError, match="no files below"):
        ingest([source], pool, key)
    (source / "a.txt").write_text("text " * 50)
    save(dataset(uid.BasicTextSRStorage, "report"), source / "b")
    with pytest.raises(MedsslError, match=r"no image among 2 files .*\(1 not_dicom, 1 report_object\)"):
        ingest([source], pool, key)
    assert pool.instances.height == 0
    assert list(pool.shards.glob("*")) == []


def test_a_folder_of_broken_images_is_accounted_for(source: Path, pool: Pool, key: Key) -> None:
    path = save(radiograph(), source / "a")
    path.write_bytes(path.read_bytes()[:-500])
    (source / "gone").symlink_to("nowhere")
    report = ingest([source], pool, key)
    assert {(q.path, q.reason) for q in report.quarantined} == {
        ("export/a", "truncated"),
        ("export/gone", "unreadable"),
    }
    assert pool.instances.height == 2


def test_another_key_is_refused_before_any_work(mixed: Path, pool: Pool) -> None:
    with pytest.raises(PoolError, match="key"):
        ingest([mixed], pool, Key(b"x" * 32))


def test_patients_without_a_number_are_told_apart_by_study(source: Path, pool: Pool, key: Key) -> None:
    for i in range(3):
        save(
            radiograph(f"{i}", PatientID="ANON", StudyInstanceUID=f"1.2.{i}", SeriesInstanceUID=f"1.3.{i}"),
            source / str(i),
        )
    ingest([source], pool, key)
    assert pool.catalog.volumes["patient"].n_unique() == 3
    assert pool.catalog.volumes["flags"].to_list() == [["placeholder_patient"]] * 3


def test_roles_follow_the_patient(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    for row in pool.catalog.volumes.iter_rows(named=True):
        assert row["role"] == pool.role_of(row["patient"], key)
