"""One run after another: every file once, all or nothing, the same from any number of workers."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import pytest
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder
from synthetic_dicom import ct_slice, dataset, radiograph, save

from medssl.core.errors import MedsslError, PoolError
from medssl.core.types import Outcome
from medssl.ingest import building, planning
from medssl.ingest.executors import Died, Workers
from medssl.ingest.ingest import ingest
from medssl.ingest.report import IngestReport
from medssl.ingest.work import Work
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.pool.shards import ShardWriter

SYNTAXES = (None, uid.ImplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MIN_SHARD_BYTES", 20_000)


@pytest.fixture
def mixed(source: Path) -> Path:
    """An export of 12 radiographs, one CT, a copy, a cut file, a report and a text."""
    for i in range(12):
        elements = {"PatientID": f"MRN{i // 2}", "StudyInstanceUID": f"1.2.{i}", "SeriesInstanceUID": f"1.2.{i}.1"}
        path = save(radiograph(f"x{i}", **elements), source / f"p{i // 2}" / f"{i}.dcm", SYNTAXES[i % 4])
    (source / "copy_of_last.dcm").write_bytes(path.read_bytes())
    for z in range(4):
        save(ct_slice(z), source / "ct" / str(9 - z))
    cut = save(radiograph("cut"), source / "cut.dcm", uid.RLELossless)
    cut.write_bytes(cut.read_bytes()[:-300])
    save(dataset(uid.BasicTextSRStorage, "report"), source / "report.dcm")
    (source / "notes.txt").write_text("for Quillfeather\n" * 20)
    return source


def counts(report: IngestReport) -> dict[str, int]:
    found: Counter[str] = Counter()
    for count in report.outcomes:
        found[count.outcome] += count.files
    return dict(found)


def shard_bytes(pool: Pool) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(pool.shards.glob("*"))}


def tables(pool: Pool) -> tuple[object, ...]:
    return (*pool.catalog.volumes.rows(), *pool.instances.rows(), pool.fingerprints)


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


def test_a_second_run_adds_nothing(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    before = tables(pool), shard_bytes(pool)
    report = ingest([mixed], pool, key)
    assert (report.num_files, report.num_known, report.num_volumes) == (0, 20, 0)
    assert (tables(pool), shard_bytes(pool)) == before


def test_new_files_are_added_and_old_ones_not_read_again(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    volumes = set(pool.catalog.volumes["volume"])
    save(radiograph("late", SeriesInstanceUID="1.2.99"), mixed / "late.dcm")
    report = ingest([mixed], pool, key)
    assert counts(report) == {"stored": 1}
    assert volumes < set(pool.catalog.volumes["volume"])
    assert pool.verify() == []


def test_a_file_that_was_mended_is_a_new_file(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    save(radiograph("cut"), mixed / "cut.dcm", uid.RLELossless)
    assert counts(ingest([mixed], pool, key)) == {"stored": 1}
    assert ingest([mixed], pool, key).num_files == 0


def test_the_same_images_under_other_names_are_duplicates_across_runs(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    volumes, shards = pool.catalog.volumes.rows(), shard_bytes(pool)
    moved = mixed.rename(mixed.with_name("moved"))
    report = ingest([moved], pool, key)
    assert counts(report) == {"duplicate": 17, "quarantined": 1, "non_image": 2}
    assert pool.catalog.volumes.rows() == volumes
    assert shard_bytes(pool) == shards
    assert pool.verify() == []


def test_slices_that_come_after_their_series_are_not_made_a_volume(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    for z in (4, 5):
        save(ct_slice(z), mixed / "ct" / f"late{z}")
    report = ingest([mixed], pool, key)
    assert [(q.path, q.reason) for q in report.quarantined] == [
        ("export/ct/late4", "late_slices"),
        ("export/ct/late5", "late_slices"),
    ]


def test_another_export_under_known_names_is_refused(mixed: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    before = tables(pool)
    other = tmp_path / "tuesday" / "export"
    elements = {"PatientID": "MRN9", "StudyInstanceUID": "9.9.9", "SeriesInstanceUID": "9.9.9.1"}
    path = save(radiograph("yy", **elements), other / "p0" / "0.dcm")
    assert path.stat().st_size == (mixed / "p0" / "0.dcm").stat().st_size
    with pytest.raises(MedsslError, match="1 of 1 folders hold other files under names that this pool knows"):
        ingest([other], pool, key)
    assert tables(pool) == before


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


def test_files_that_could_not_be_read_are_looked_at_again(
    source: Path, pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(radiograph("a"), source / "a")
    save(radiograph("b", SOPInstanceUID="1.2.9"), source / "b", uid.RLELossless)
    (source / "share").symlink_to(source.parent / "share")  # not mounted yet
    with monkeypatch.context() as without:
        without.setattr(type(get_decoder(uid.RLELossless)), "available_plugins", ())
        first = ingest([source], pool, key)
    assert sorted(q.reason for q in first.quarantined) == ["needs_pylibjpeg_rle", "unreadable"]
    assert ingest([source], pool, key).num_files == 2
    save(radiograph("c", SOPInstanceUID="1.2.10"), source.parent / "share")
    again = ingest([source], pool, key)
    assert again.num_files == 1
    assert not again.quarantined
    assert pool.instances.height == 3
    assert set(pool.instances["outcome"]) == {"stored"}
    assert ingest([source], pool, key).num_files == 0


def test_another_key_is_refused_before_any_work(mixed: Path, pool: Pool) -> None:
    with pytest.raises(PoolError, match="key"):
        ingest([mixed], pool, Key(b"x" * 32))


def _killed(source: Path, path: Path, where: str) -> None:
    key = Key(b"k" * 32)
    pool = Pool.open(path, key)
    planning.MIN_SHARD_BYTES = 20_000

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if where == "within a shard":
        ShardWriter.__exit__ = die  # type: ignore[assignment]
    if where == "before the rows":
        Pool.append = die  # type: ignore[assignment]
    if where == "within the rows":
        Pool._commit = die  # type: ignore[assignment]
    ingest([source], pool, key, progress=lambda stage, done, total: die() if stage == where else None)


@pytest.mark.parametrize("where", ["headers", "within a shard", "volumes", "before the rows", "within the rows"])
def test_killed_and_run_again_equals_never_killed(where: str, mixed: Path, tmp_path: Path, key: Key) -> None:
    whole, killed = (Pool.create(tmp_path / name, key) for name in ("whole", "killed"))
    ingest([mixed], whole, key)
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(mixed, killed.path, where))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert Pool.open(killed.path, key).instances.height == 0
    ingest([mixed], Pool.open(killed.path, key), key)
    again = Pool.open(killed.path, key)
    assert tables(again) == tables(whole)
    assert shard_bytes(again) == shard_bytes(whole)
    assert again.verify() == []


def test_an_interrupted_run_leaves_no_shards(mixed: Path, pool: Pool, key: Key) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "volumes":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest([mixed], pool, key, progress=stop)
    assert list(pool.shards.glob("*")) == []
    assert pool.verify() == []


def test_a_shard_that_cannot_be_written_is_one_line(
    mixed: Path, pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(MedsslError, match=r"cannot write shards \(No space left on device\); nothing was added"):
        ingest([mixed], pool, key)
    assert pool.instances.height == 0


def test_a_file_that_kills_its_decoder_costs_only_itself(
    mixed: Path, pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = key.hmac("source", "export/p0/0.dcm")

    def alone(function: Callable[[object], object], task: object) -> object:
        is_deadly = isinstance(task, list) and any(item.source_key == killer for item in task)
        return Died() if is_deadly else function(task)

    def run(self: object, function: Callable[[object], object], tasks: Iterable[object]) -> list[object]:
        return [Died() if function is building.build_shard else function(task) for task in tasks]

    monkeypatch.setattr(planning, "MIN_SHARD_BYTES", 1 << 20)
    monkeypatch.setattr(building, "alone", alone)
    monkeypatch.setattr(Workers, "run", run)
    report = ingest([mixed], pool, key)
    assert [(q.path, q.reason) for q in report.quarantined] == [
        ("export/cut.dcm", "truncated"),
        ("export/p0/0.dcm", "decoder_died"),
    ]
    assert counts(report)["stored"] == 15


def test_a_fault_in_one_series_stays_there(mixed: Path, pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    from medssl.ingest import volumes

    def picture(decoded: object, header: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(volumes, "picture", picture)
    report = ingest([mixed], pool, key)
    assert {q.reason for q in report.quarantined} == {"build_failed", "truncated"}
    assert counts(report) == {"stored": 4, "quarantined": 14, "non_image": 2}


def test_a_file_that_changes_meanwhile_is_not_trusted(mixed: Path, pool: Pool, key: Key) -> None:
    path = mixed / "p0" / "0.dcm"

    def touch(stage: str, done: int, total: int) -> None:
        if stage == "headers":
            path.write_bytes(path.read_bytes())

    report = ingest([mixed], pool, key, progress=touch)
    assert ("export/p0/0.dcm", "source_changed") in [(q.path, q.reason) for q in report.quarantined]


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
