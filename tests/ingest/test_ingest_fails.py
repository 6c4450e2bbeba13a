"""A run of ingest that is killed, interrupted or out of luck: all or nothing, and a fault costs only itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from mixed_export import counts, shard_bytes, tables

from medssl.core.errors import MedsslError
from medssl.ingest import building, planning
from medssl.ingest.executors import Died, Workers
from medssl.ingest.ingest import ingest
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
