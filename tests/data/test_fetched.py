"""Training from a copy whose shards come and go: each is downloaded about once an epoch, whatever else it costs."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fetched_pools import Counted, copied, prepared_pool
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.data.layout import BLOCK_BYTES, Layout
from medssl.data.loader import TrainingFeed
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.sampler import Sampler
from medssl.data.views import ViewRecipe
from medssl.pool.pool import Pool
from medssl.pool.remote import Copy, pull

CONFIG = PrepareConfig(shape=(16, 16), codec="none")
SHARDS, EACH = 24, 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return prepared_pool(tmp_path_factory.mktemp("fetched") / "source", CONFIG, SHARDS, EACH)


def rows(pool: Pool, workers: int = 0, epochs: int = 1) -> list[list[int]]:
    """Read whole epochs; the volumes of each step."""
    data = prepare(pool, CONFIG)
    sampler = Sampler.of(data, 16, 1, seed=3)
    steps = TrainingFeed(data, ViewRecipe(), sampler, workers).steps(0, epochs * sampler.steps_per_epoch)
    return [block.read.rows.tolist() for step in steps for block in step]


@pytest.mark.parametrize(("kept", "most"), [(SHARDS, SHARDS), (6, 2 * SHARDS), (2, 2 * SHARDS), (1, 2 * SHARDS)])
def test_an_epoch_downloads_each_shard_about_once(source: Pool, tmp_path: Path, kept: int, most: int) -> None:
    pool = copied(source, tmp_path / "copy", kept)
    read = rows(pool, epochs=2)
    assert len(Counted.fetched) <= most
    for epoch in np.array(read).reshape(2, -1):
        assert sorted(epoch.tolist()) == list(range(SHARDS * EACH))
    assert read[: len(read) // 2] != read[len(read) // 2 :]


def test_a_batch_mixes_as_many_shards_as_half_of_the_cache_holds(source: Pool, tmp_path: Path) -> None:
    pool = copied(source, tmp_path / "copy", 8)
    shards = pool.catalog.volumes["shard"].to_numpy()
    assert {len(set(shards[batch])) for batch in rows(pool)} == {4}


def test_workers_change_no_batch_of_a_copy_and_a_whole_copy_has_those_of_the_pool(source: Pool, tmp_path: Path) -> None:
    largest = max(path.stat().st_size for path in source.shards.glob("*.tar"))
    pull(f"file://{source.path}", tmp_path / "copy", 4 * largest)
    pool = Pool.open(tmp_path / "copy")
    assert rows(pool, workers=2) == rows(pool) != rows(source)
    pull(f"file://{source.path}", tmp_path / "whole")
    assert rows(Pool.open(tmp_path / "whole")) == rows(source)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.sampled_from([10, BLOCK_BYTES // 3, BLOCK_BYTES * 2]),
    st.integers(1, 50),
    st.integers(0, 3),
)
def test_an_epoch_has_each_row_once_and_reads_out_the_shards_of_half_a_cache_before_others(
    volumes: list[int], length: int, kept: int, epoch: int
) -> None:
    shard = np.repeat(np.arange(len(volumes)), volumes)
    offset = np.concatenate([np.arange(num) * length for num in volumes])
    table = pl.DataFrame({"shard": shard, "offset": offset, "length": [length] * len(shard)})
    sizes = {f"{number:05d}.tar": num * length for number, num in enumerate(volumes)}
    room = kept * max(sizes.values())
    found = Layout.of(table, Copy("", {}, sizes, room)).rows(1, epoch, 0, len(shard))[0]
    assert sorted(found.tolist()) == list(range(len(shard)))
    seen = shard[found]
    first, last = (np.array([edge(np.flatnonzero(seen == one)) for one in range(len(volumes))]) for edge in (min, max))
    for one in range(len(volumes)):
        beside = (first <= last[one]) & (last >= first[one])  # all that are needed before this one may go
        assert beside.sum() == 1 or length * np.array(volumes)[beside].sum() <= room // 2
