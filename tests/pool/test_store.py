"""A store: the pool's format for prepared data, whole or absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_pools import filled

from medssl.core.errors import PoolError
from medssl.pool.lock import locked
from medssl.pool.pool import Pool
from medssl.pool.shards import ShardWriter
from medssl.pool.store import Store


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return filled(tmp_path / "pool", [[0, 1, 2], [3, 4]])


def halved(pool: Pool, shards: Path) -> pl.DataFrame:
    """Write every volume of the pool at half its values, last one first."""
    rows, reader = pool.catalog.volumes, pool.reader()
    with ShardWriter(shards, 0, "lz4") as writer:
        members = [writer.add(rows["volume"][row], reader.read(row) // 2) for row in reversed(range(len(rows)))]
    placed = pl.DataFrame([vars(member) for member in members], schema_overrides={"shard": pl.Int32})
    return rows.reverse().with_columns(placed)


def test_prepared_data_are_read_by_the_reader_of_the_pool_in_the_same_order(pool: Pool) -> None:
    store = Store.build(pool.path / "prepared" / "abc", lambda shards: halved(pool, shards))
    assert store.volumes["volume"].to_list() == pool.catalog.volumes["volume"].to_list()
    for row in range(len(pool.catalog)):
        assert np.array_equal(store.reader().read(row), pool.reader().read(row) // 2)
    assert pool.verify() == []


def test_a_store_that_is_there_is_not_built_again(pool: Pool) -> None:
    built: list[Path] = []

    def write(shards: Path) -> pl.DataFrame:
        built.append(shards)
        return halved(pool, shards)

    stores = [Store.build(pool.path / "prepared" / "abc", write) for _ in range(2)]
    assert len(built) == 1
    assert stores[0] == stores[1] == Store(pool.path / "prepared" / "abc")


def test_a_build_that_fails_leaves_nothing(pool: Pool) -> None:
    folder = pool.path / "prepared" / "abc"

    def fail(shards: Path) -> pl.DataFrame:
        halved(pool, shards)
        raise ValueError("unfit")

    with pytest.raises(ValueError, match="unfit"):
        Store.build(folder, fail)
    assert [path.name for path in folder.parent.iterdir()] == [".abc.lock"]


def test_a_build_that_is_refused_before_it_wrote_anything_leaves_nothing(pool: Pool) -> None:
    folder = pool.path / "prepared" / "abc"

    def refuse(shards: Path) -> pl.DataFrame:
        raise PoolError("unfit")

    with pytest.raises(PoolError, match="unfit"):
        Store.build(folder, refuse)
    assert [path.name for path in folder.parent.iterdir()] == [".abc.lock"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PoolError("a worker died"), OSError(28, "no space left")])
def test_a_build_that_was_interrupted_finds_what_it_wrote_and_half_written_files_go(
    pool: Pool, error: BaseException
) -> None:
    folder = pool.path / "prepared" / "abc"

    def interrupted(shards: Path) -> pl.DataFrame:
        halved(pool, shards)
        (shards / ".00001.tar.123.partial").write_text("half")
        raise error

    def finished(shards: Path) -> pl.DataFrame:
        assert (shards / "00000.tar").exists()
        return halved(pool, shards)

    with pytest.raises(type(error)):
        Store.build(folder, interrupted)
    assert not folder.exists()
    Store.build(folder, finished)
    assert [path.name for path in (folder / "shards").iterdir()] == ["00000.tar"]
    assert sorted(path.name for path in folder.parent.iterdir()) == [".abc.lock", "abc"]


def test_two_processes_do_not_prepare_the_same_data_at_once(pool: Pool) -> None:
    folder = pool.path / "prepared" / "abc"
    with locked(folder.with_name(".abc.lock"), "x"), pytest.raises(PoolError, match="another process is preparing abc"):
        Store.build(folder, lambda shards: halved(pool, shards))


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="no prepared data"):
        Store(tmp_path)
