"""Copies of remote pools: whole or bounded, interrupted, damaged, changed on either side, read by many processes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
import pytest
from small_pools import KEY, add, voxels

from medssl.core.errors import CorruptShard, PoolError
from medssl.pool import masks, remote
from medssl.pool.catalog import INSTANCES, VOLUMES, empty
from medssl.pool.pool import Pool
from medssl.pool.remote import pull

SHARDS = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.fixture
def source(tmp_path: Path) -> Pool:
    pool = Pool.create(tmp_path / "source", KEY)
    add(pool, SHARDS)
    return pool


def url(pool: Pool) -> str:
    return f"file://{pool.path}"


def expect_all_readable(path: Path, num: int = 12) -> None:
    pool = Pool.open(path)
    numbers = {KEY.hmac("volume", str(number)): number for number in range(num)}
    reader = pool.reader()
    for row, volume in enumerate(pool.catalog.volumes["volume"]):
        assert np.array_equal(reader.read(row), voxels(numbers[volume]))


def kept(path: Path) -> set[str]:
    return {p.name for p in (path / "shards").glob("*.tar")}


def largest(pool: Pool) -> int:
    return max(p.stat().st_size for p in pool.shards.glob("*.tar"))


def label(pool: Pool, value: str) -> None:
    row = {"id": pool.catalog.volumes["study"][0], "level": "study", "task": "t", "value": value, "source": "s"}
    pool.add_labels(pl.DataFrame([row | {"annotator": "a", "time": "2026-01-01"}]))


def test_a_copy_has_the_tables_labels_and_voxels_of_the_pool(source: Pool, tmp_path: Path) -> None:
    label(source, "x")
    seen: list[tuple[int, int]] = []
    pull(url(source), tmp_path / "copy", on_progress=lambda done, total: seen.append((done, total)))
    copy = Pool.open(tmp_path / "copy", KEY)
    assert copy.fingerprints == source.fingerprints
    assert copy.catalog.volumes.equals(source.catalog.volumes)
    assert copy.instances.equals(source.instances)
    assert copy.verify() == []
    assert seen[-1][0] == seen[-1][1] == sum(p.stat().st_size for p in source.shards.glob("*.tar"))
    expect_all_readable(copy.path)


def test_masks_come_along_also_those_that_are_drawn_later(source: Pool, tmp_path: Path) -> None:
    row = source.catalog.volumes.row(0, named=True)
    for name in ("one", "two"):
        mask = KEY.hmac("mask", name)
        drawn = np.random.default_rng(len(name)).integers(0, 2, (2, 3, 4, 5)).astype(np.uint8)
        columns = masks.write(masks.path_of(source.path, mask), drawn)
        ids = {level: row[level] for level in ("volume", "patient", "study")}
        rows = pl.DataFrame([{"mask": mask, **ids, "labels": ["a", "b"], **columns}], schema=masks.MASKS)
        source.append(empty(VOLUMES), empty(INSTANCES), rows)
        pull(url(source), tmp_path / "copy")
        copy = Pool.open(tmp_path / "copy")
        found = copy.masks.filter(pl.col("mask") == mask).row(0, named=True)
        assert np.array_equal(masks.read(copy.path, mask, found["sha256"]), drawn)


def test_an_interrupted_pull_is_no_pool_and_goes_on_without_loading_again(
    source: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    original = remote.Remote.get

    def get(self, name, out, expect=lambda path: None):
        if len(loaded) == 4:
            raise KeyboardInterrupt
        original(self, name, out, expect)
        loaded.append(name)

    with monkeypatch.context() as patched:
        patched.setattr(remote.Remote, "get", get)
        with pytest.raises(KeyboardInterrupt):
            pull(url(source), tmp_path / "copy")
    with pytest.raises(PoolError, match="not a pool"):
        Pool.open(tmp_path / "copy")
    (tmp_path / "copy" / "shards" / ".00002.tar.123.partial").write_bytes(b"torn")
    first = tmp_path / "copy" / "shards" / "00000.tar"
    before = first.stat().st_ino
    pull(url(source), tmp_path / "copy")
    assert first.stat().st_ino == before
    assert not list((tmp_path / "copy" / "shards").glob(".*.partial"))
    expect_all_readable(tmp_path / "copy")


def test_a_bounded_copy_fetches_when_read_and_never_keeps_more_than_it_may(source: Pool, tmp_path: Path) -> None:
    most = largest(source) * 2
    pull(url(source), tmp_path / "copy", most)
    assert kept(tmp_path / "copy") == set()
    pool = Pool.open(tmp_path / "copy")
    reader = pool.reader()
    for row in range(12):
        reader.read(row)
        assert 0 < sum(p.stat().st_size for p in pool.shards.glob("*.tar")) <= most
    expect_all_readable(tmp_path / "copy")
    assert pool.verify() == []


def test_the_least_recently_opened_shard_makes_room(source: Pool, tmp_path: Path) -> None:
    pull(url(source), tmp_path / "copy", largest(source) * 2)
    shards = tmp_path / "copy" / "shards"
    for shard in (0, 1, 0, 2):
        time.sleep(0.01)
        with remote.shard_file(shards, shard) as path:
            assert path.is_file()
    assert kept(tmp_path / "copy") == {"00000.tar", "00002.tar"}


def read_all(path: Path, order: int) -> None:
    pool = Pool.open(path)
    for row in np.random.default_rng(order).permutation(len(pool.catalog)).repeat(2):
        pool.reader().read(int(row))


def test_many_processes_may_read_a_bounded_copy_at_once(source: Pool, tmp_path: Path) -> None:
    pull(url(source), tmp_path / "copy", largest(source))
    context = multiprocessing.get_context("spawn")
    readers = [context.Process(target=read_all, args=(tmp_path / "copy", order)) for order in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
        assert reader.exitcode == 0
    assert len(kept(tmp_path / "copy")) == 1


def test_a_shard_that_arrives_damaged_never_appears(source: Pool, tmp_path: Path) -> None:
    pull(url(source), tmp_path / "copy", largest(source))
    shard = source.shards / "00001.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(CorruptShard, match=r"00001\.tar differs from its checksum"):
        expect_all_readable(tmp_path / "copy")
    assert "00001.tar" not in kept(tmp_path / "copy")
    shard.write_bytes(bytes(content[:-512]))
    with pytest.raises(PoolError, match="another size than when it was listed"):
        expect_all_readable(tmp_path / "copy")


def test_what_is_added_to_the_remote_pool_is_noticed_and_comes_with_the_next_pull(
    source: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pull(url(source), tmp_path / "copy", largest(source) * 9)
    add(source, [[12, 13]])
    expect_all_readable(tmp_path / "copy")
    assert "has changed since it was pulled" in capsys.readouterr().err
    pull(url(source), tmp_path / "copy")
    expect_all_readable(tmp_path / "copy", 14)
    assert Pool.open(tmp_path / "copy").fingerprints == source.fingerprints


def test_labels_that_were_added_to_the_copy_stay_and_two_sided_changes_are_refused(
    source: Pool, tmp_path: Path
) -> None:
    pull(url(source), tmp_path / "copy")
    label(Pool.open(tmp_path / "copy"), "here")
    pull(url(source), tmp_path / "copy")
    assert Pool.open(tmp_path / "copy").catalog.labels["value"].to_list() == ["here"]
    label(source, "there")
    with pytest.raises(PoolError, match="changed here and at"):
        pull(url(source), tmp_path / "copy")
    assert Pool.open(tmp_path / "copy").catalog.labels["value"].to_list() == ["here"]


def test_another_pool_at_the_address_is_refused(source: Pool, tmp_path: Path) -> None:
    pull(url(source), tmp_path / "copy")
    other = Pool.create(tmp_path / "other", KEY)
    add(other, [[1, 2]])
    source.path.rename(tmp_path / "away")
    other.path.rename(source.path)
    with pytest.raises(PoolError, match="no longer the pool that was pulled"):
        pull(url(source), tmp_path / "copy")


@pytest.mark.parametrize(
    ("address", "most", "said"),
    [
        ("file://{tmp}/nothing", None, "no pool.json there"),
        ("file://{source}", 100, "the largest shard has"),
        ("nonsense://x", None, "cannot be reached"),
        ("https://me:secret@host/pool", None, "must not hold a password"),
    ],
)
def test_what_cannot_be_pulled_is_said_in_a_line(
    source: Pool, tmp_path: Path, address: str, most: int | None, said: str
) -> None:
    with pytest.raises(PoolError, match=said) as told:
        pull(address.format(tmp=tmp_path, source=source.path), tmp_path / "copy", most)
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)
    pull(url(source), tmp_path / "copy")  # what failed left nothing in the way


def test_a_folder_of_other_things_is_left_alone(source: Pool, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(PoolError, match="not a copy of a remote pool"):
        pull(url(source), tmp_path)


def test_any_file_system_of_fsspec_will_do(source: Pool, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(source.path), "/pools/one", recursive=True)
    pull("memory://pools/one", tmp_path / "copy", largest(source))
    expect_all_readable(tmp_path / "copy")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A real S3 server on the loopback."""
    pytest.importorskip("moto")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stderr is not None
    address = next(line.split(" on ")[1].split()[0] for line in server.stderr if "Running on http" in line)
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "ENDPOINT_URL": address}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    yield fsspec.filesystem("s3", skip_instance_cache=True)
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(10)
    server.stderr.close()


@pytest.mark.slow
def test_a_pool_on_s3_is_pulled_whole_and_lazily(source: Pool, tmp_path: Path, s3) -> None:
    s3.mkdir("bucket")
    s3.put(str(source.path), "bucket/pool", recursive=True)
    pull("s3://bucket/pool", tmp_path / "whole")
    expect_all_readable(tmp_path / "whole")
    pull("s3://bucket/pool", tmp_path / "lazy", largest(source))
    expect_all_readable(tmp_path / "lazy")
    assert json.loads((tmp_path / "lazy" / "remote.json").read_text())["url"] == "s3://bucket/pool"
