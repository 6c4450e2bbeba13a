"""A run of ingest that is killed, interrupted or out of luck: all or nothing, and a fault costs only itself."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from deadly import Deadly, Greedy
from mixed_export import counts, shard_bytes, tables
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames
from synthetic_dicom import ct_slice, dataset, radiograph, save, with_pixels

from medssl.core.errors import MedsslError
from medssl.ingest import building, planning
from medssl.ingest.executors import Died, Workers
from medssl.ingest.ingest import ingest
from medssl.ingest.rules import Rules
from medssl.ingest.work import Work
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.pool.shards import ShardWriter
from medssl.verbs.ingest import ingest as ingest_verb

pytestmark = pytest.mark.usefixtures("small_shards")


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
        is_deadly = isinstance(task, list) and any(getattr(item, "source_key", "") == killer for item in task)
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


def _deadly_and_others(source: Path) -> None:
    """Write a series of 4 slices and one of 12."""
    for series, num in (("1.2.1", 4), ("1.2.2", 12)):
        for z in range(num):
            save(ct_slice(z, f"{series} {z}", SeriesInstanceUID=series, PatientID=series), source / series / str(z))


@pytest.mark.parametrize(("transform", "workers"), [(Deadly(), 2), (Greedy(), 1)])
def test_a_series_that_kills_its_worker_or_leaves_it_no_memory_costs_only_itself(
    source: Path, tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch, transform: Deadly, workers: int
) -> None:
    monkeypatch.setattr(planning, "MIN_SHARD_BYTES", 1 << 20)  # both are in one shard
    _deadly_and_others(source)
    pool = Pool.create(tmp_path / "deadly", key, prepare=transform.settings)
    with Workers(workers, guarded=True) as processes:
        report = ingest([source], pool, key, workers=processes, transform=transform)
    assert counts(report) == {"stored": 4, "quarantined": 12}
    assert {(q.path.rpartition("/")[0], q.reason) for q in report.quarantined} == {("export/1.2.2", "worker_died")}
    assert pool.verify() == []
    assert ingest([source], pool, key, transform=transform).num_files == 0


def _starved(source: Path, path: Path) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 30), resource.RLIM_INFINITY))
    ingest([source], Pool.open(path), Key(b"k" * 32), rules=Rules(burned_in="accept"))


def test_a_small_file_that_unpacks_to_more_than_there_is_memory_costs_only_itself(source: Path, pool: Pool) -> None:
    film = with_pixels(dataset(uid.XRayAngiographicImageStorage, "xa", Modality="XA"), np.zeros((4096, 4096), np.uint8))
    film.compress(uid.JPEGLSLossless, encoding_plugin="pyjpegls", generate_instance_uid=False)
    (frame,) = generate_frames(film.PixelData, number_of_frames=1)
    film.NumberOfFrames, film.PixelData = 1000, encapsulate([frame] * 1000)
    assert save(film, source / "film").stat().st_size < 10 << 20
    save(radiograph("x", SeriesInstanceUID="1.2.3"), source / "x")
    process = multiprocessing.get_context("spawn").Process(target=_starved, args=(source, pool.path))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    found = Pool.open(pool.path).instances
    assert sorted(found.select("outcome", "reason").rows()) == [("quarantined", "worker_died"), ("stored", None)]


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


def test_the_journal_of_a_run_that_ended_early_names_no_source(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_bytes(b"k" * 32)
    known = {"key_file": tmp_path / "key", "workspace": tmp_path / "workspace"}
    ingest_verb([mixed], tmp_path / "found", **known)
    work = Work.beside(tmp_path / "found").folder
    work.mkdir(mode=0o700)
    (work / "headers").mkdir()  # something to go on with
    with pytest.raises(MedsslError, match="Quillfeather Jan: no such"):
        ingest_verb([Path("Quillfeather Jan")], tmp_path / "found", **known)
    journals = [file.read_text() for file in (tmp_path / "workspace").rglob("journal.jsonl")]
    assert len(journals) == 2
    assert any('"failed"' in text for text in journals)
    assert not any("Quillfeather" in text for text in journals)
