"""The sampler is a pure function of (seed, epoch, step)."""

import time
import tracemalloc
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core.errors import StudyError
from medssl.core.keys import mix
from medssl.data.balance import Balance, shuffled
from medssl.data.layout import BLOCK_BYTES, Layout
from medssl.data.sampler import Sampler


def epoch_rows(sampler: Sampler, epoch: int = 0) -> np.ndarray:
    first = epoch * sampler.steps_per_epoch
    return np.concatenate([r for s in range(first, first + sampler.steps_per_epoch) for r in sampler.step(s)[1]])


def on_disk(num: int, per_shard: int, length: int) -> pl.DataFrame:
    place = np.arange(num)
    return pl.DataFrame({"shard": place // per_shard, "offset": place % per_shard * length, "length": [length] * num})


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 3), st.integers(0, 3))
def test_an_epoch_visits_no_row_twice_and_leaves_less_than_a_step_over(
    num: int, size: int, accumulate: int, seed: int
) -> None:
    sampler = Sampler(num, size, accumulate, seed)
    rows = epoch_rows(sampler, epoch=seed)
    assert len(set(rows)) == len(rows) == sampler.reads_per_epoch
    assert num - len(rows) < size * accumulate
    assert set(rows) <= set(range(num))


@settings(max_examples=30)
@given(st.integers(1, 3000), st.integers(1, 500), st.sampled_from([10, BLOCK_BYTES // 3, BLOCK_BYTES * 2]))
def test_however_rows_lie_on_disk_an_epoch_has_each_once(num: int, per_shard: int, length: int) -> None:
    volumes = on_disk(num, per_shard, length).sample(fraction=1, shuffle=True, seed=num)
    layout = Layout.of(volumes)
    assert sorted(layout.rows(1, 2, 0, num)[0]) == list(range(num))
    shard, offset = (volumes[name].to_numpy()[layout.order] for name in ("shard", "offset"))
    inside = np.setdiff1d(np.arange(1, num), layout.starts)  # rows that follow another of their block
    assert (shard[inside] == shard[inside - 1]).all()
    assert (offset[inside] == offset[inside - 1] + length).all()


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 20))
def test_starting_late_gives_the_same_batches_as_starting_early(num: int, size: int, first: int) -> None:
    early, late = Sampler(num, size, 2, 0), Sampler(num, size, 2, 0)
    whole = [[r.tolist() for r in early.step(step)[1]] for step in range(25)]
    assert [[r.tolist() for r in late.step(step)[1]] for step in range(first, 25)] == whole[first:]


def test_epochs_and_seeds_shuffle_differently() -> None:
    def first_epoch(seed: int, epoch: int) -> list[int]:
        return Sampler(100, 100, 1, seed).step(epoch)[1][0].tolist()

    assert first_epoch(0, 0) != first_epoch(0, 1) != first_epoch(1, 1)


def test_a_batch_mixes_shards_and_neighbours_on_disk_are_read_within_one_window() -> None:
    volumes = on_disk(40_000, 1000, 100_000)  # 40 shards
    layout = Layout.of(volumes)
    sampler = Sampler(40_000, 256, 1, 0, order=layout)
    rows = epoch_rows(sampler)
    largest = max(Counter(batch.tolist()).most_common(1)[0][1] for batch in (rows // 1000).reshape(-1, 256))
    assert largest < 0.2 * 256
    place = np.argsort(rows)[:20]  # when the 20 rows of the first block are read
    assert np.ptp(place) < 128 * 20
    early, late = (rows[: len(rows) // 2] < 20_000).mean(), (rows[len(rows) // 2 :] < 20_000).mean()
    assert abs(early - late) < 0.1


def test_ten_million_rows_take_tens_of_megabytes_and_a_step_a_fraction_of_a_millisecond() -> None:
    volumes = pl.DataFrame(
        {"shard": np.arange(10_000_000) // 5000, "offset": np.arange(10_000_000) % 5000, "length": 100_000}
    )
    tracemalloc.start()
    sampler = Sampler(10_000_000, 256, 1, 0, order=Layout.of(volumes))
    sampler.micro_batch(30_000)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 80e6
    start = time.process_time()
    for index in range(1000):
        sampler.micro_batch(index)
    assert time.process_time() - start < 1.0


@settings(max_examples=30)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=5), st.integers(0, 2**63))
def test_a_shuffled_place_is_a_permutation(sizes: list[int], key: int) -> None:
    for size in sizes:
        made = shuffled(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))
        assert sorted(made.tolist()) == list(range(size))


def test_small_permutations_are_equally_frequent() -> None:
    keys = mix(np.arange(24_000))
    made = np.stack([shuffled(np.full(len(keys), i), np.full(len(keys), 4), keys) for i in range(4)], 1)
    counts = np.array(list(Counter(map(tuple, made.tolist())).values()))
    assert len(counts) == 24
    assert np.square(counts - 1000).sum() / 1000 < 50  # chi-squared of 23 degrees: 50 is the 0.999 quantile


@settings(max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 30), st.integers(0, 4))
def test_balanced_groups_differ_by_one_read_at_most(sizes: list[int], batch: int, seed: int) -> None:
    labels = [f"group {g}" for g, size in enumerate(sizes) for _ in range(size)]
    plain = Sampler(len(labels), batch, 1, seed)
    sampler = Sampler(len(labels), batch, 1, seed, order=Balance.of(labels, plain.reads_per_epoch))
    whole: Counter[int] = Counter()
    for epoch in range(4):
        rows = epoch_rows(sampler, epoch)
        counts = Counter(labels[row] for row in rows)
        share = len(rows) / len(sizes)
        assert all(abs(counts[f"group {g}"] - share) < 1 for g in range(len(sizes)))
        whole.update(rows.tolist())
        for g in range(len(sizes)):  # a group's volumes are in even use over the epochs
            used = [whole[row] for row, label in enumerate(labels) if label == f"group {g}"]
            assert max(used) - min(used) <= 1


def test_two_reads_of_a_row_in_an_epoch_are_two_visits() -> None:
    labels = ["many"] * 30 + [None] * 2
    rows, visits = Balance.of(labels, 32).rows(0, 3, 0, 32)
    assert Counter(rows.tolist())[31] == 8
    assert len(set(zip(rows.tolist(), visits.tolist(), strict=True))) == 32


def test_balanced_epochs_differ_and_can_be_entered_anywhere() -> None:
    order = Balance.of([f"{i % 3}" for i in range(50)], 50)
    whole = order.rows(0, 1, 0, 50)[0]
    assert np.array_equal(order.rows(0, 1, 17, 31)[0], whole[17:31])
    assert not np.array_equal(order.rows(0, 2, 0, 50)[0], whole)


def test_several_crops_a_read_shorten_the_epoch() -> None:
    sampler = Sampler(64, 16, 1, 0, crops=4)
    assert (sampler.reads, sampler.steps_per_epoch) == (4, 16)
    assert len(sampler.micro_batch(3).rows) == 4


def test_crops_that_do_not_fill_a_batch_are_refused() -> None:
    with pytest.raises(StudyError, match=r"loop.batch_size: 10 is not a multiple of loop.crops 4; take 8"):
        Sampler(64, 10, 1, 0, crops=4)
