"""Verification: each way in which a pool can be damaged is found and named."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_pools import filled, label, labels

from medssl.core.errors import CorruptShard, PoolError
from medssl.pool.pool import Pool


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return filled(tmp_path / "pool", [[0, 1, 2], [3, 4]])


def texts(pool: Pool) -> list[str]:
    return [str(problem) for problem in Pool.open(pool.path).verify()]


def change_table(pool: Pool, name: str, change: pl.Expr) -> None:
    path = pool.path / "catalog" / f"{name}.parquet"
    pl.read_parquet(path).with_columns(change).write_parquet(path)


def test_a_sound_pool_has_no_problems_and_progress_counts_its_volumes(pool: Pool) -> None:
    done: list[int] = []
    assert pool.verify(done.append) == []
    assert sum(done) == len(pool.catalog) == 5


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return filled(tmp_path_factory.mktemp("lasting") / "pool", [[0, 1, 2], [3, 4]])


@settings(max_examples=40)
@given(st.integers(0, 4), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_a_member_is_named_and_refused(
    lasting: Pool, row: int, position: float, bit: int
) -> None:
    name, shard, offset, length = lasting.catalog.volumes.select("volume", "shard", "offset", "length").row(row)
    path = lasting.shards / f"{shard:05d}.tar"
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[offset + int(position * length)] ^= 1 << bit
    try:
        path.write_bytes(damaged)
        assert texts(lasting) == [f"shards/{path.name}: the bytes of volume {name} differ from their checksum"]
        with pytest.raises(CorruptShard, match=f"{name}.*{path.name}"):
            lasting.reader().read(row)
    finally:
        path.write_bytes(sound)
    assert texts(lasting) == []


def test_a_damaged_tar_header_is_named_although_the_voxels_are_sound(pool: Pool) -> None:
    volume = pool.catalog.volumes.filter(pl.col("shard") == 1).sort("offset").row(1, named=True)
    content = bytearray((pool.shards / "00001.tar").read_bytes())
    content[volume["offset"] - 500] ^= 1
    (pool.shards / "00001.tar").write_bytes(content)
    (found,) = texts(pool)
    assert volume["volume"] in found
    assert "tar header" in found


def test_missing_cut_and_orphan_shards_are_named(pool: Pool) -> None:
    (pool.shards / "00001.tar").rename(pool.shards / "00007.tar")
    first = pool.shards / "00000.tar"
    first.write_bytes(first.read_bytes()[:600])
    found = texts(pool)
    assert len([text for text in found if text.startswith("shards/00000.tar: the bytes of volume")]) == 3
    assert "shards/00001.tar: missing, with 2 volumes" in found
    assert any(text.startswith("shards/00007.tar: no volume is in it") for text in found)


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        ("volumes", pl.col("role").replace({"dev": "spare"}), "unknown role"),
        ("volumes", pl.col("volume").reverse(), "fingerprint of the images"),
        ("volumes", pl.lit("ab" * 16).alias("patient"), "1 patients in two roles"),
        ("volumes", pl.lit("ab" * 16).alias("volume"), "4 repeated volume ids"),
        ("instances", pl.lit("ab").alias("source_key"), "4 repeated source keys"),
        ("instances", pl.lit("excluded").alias("outcome"), "5 volumes have no stored instance"),
        ("instances", pl.lit(None, pl.String).alias("volume"), "5 stored instances point to no volume"),
    ],
)
def test_tables_that_contradict_each_other_are_named(pool: Pool, table: str, change: pl.Expr, says: str) -> None:
    assert pool.catalog.volumes["role"].n_unique() > 1
    change_table(pool, table, change)
    assert any(says in text for text in texts(pool)), texts(pool)


def test_changed_labels_are_noticed_by_their_fingerprint(pool: Pool) -> None:
    pool.add_labels(labels(label("ab", "yes")))
    change_table(pool, "labels/00000", pl.lit("no").alias("value"))
    assert texts(pool) == ["pool.json: the fingerprint of the labels differs from that of the catalog"]


def test_lost_rows_and_unreadable_tables_are_problems_and_refused_by_use(pool: Pool) -> None:
    path = pool.path / "catalog" / "instances.parquet"
    pl.read_parquet(path).head(3).write_parquet(path)
    (found,) = texts(pool)
    assert "instances.parquet: 3 rows, expected 5" in found
    with pytest.raises(PoolError, match="3 rows, expected 5"):
        _ = Pool.open(pool.path).instances
    (pool.path / "catalog" / "volumes.parquet").write_bytes(b"not a table")
    (found,) = texts(pool)
    assert "volumes.parquet: cannot read this table" in found
