"""The sampler is a pure function of (seed, epoch, step)."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medssl.data.sampler import Sampler


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 3), st.integers(0, 3))
def test_an_epoch_visits_no_row_twice_and_leaves_less_than_a_step_over(
    num: int, size: int, accumulate: int, seed: int
) -> None:
    sampler = Sampler(num, size, accumulate, seed)
    rows = np.concatenate([r for _, _, r in sampler.micro_batches(0, sampler.steps_per_epoch)])
    assert len(set(rows)) == len(rows)
    assert num - len(rows) < size * accumulate
    assert set(rows) <= set(range(num))


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 20))
def test_starting_late_gives_the_same_batches_as_starting_early(num: int, size: int, first: int) -> None:
    sampler = Sampler(num, size, 2, 0)
    whole = [(s, e, r.tolist()) for s, e, r in sampler.micro_batches(0, 25)]
    assert [(s, e, r.tolist()) for s, e, r in sampler.micro_batches(first, 25)] == [w for w in whole if w[0] >= first]


def test_epochs_and_seeds_shuffle_differently() -> None:
    def first_epoch(seed: int, epoch: int) -> list[int]:
        return Sampler(100, 100, 1, seed).step(epoch)[1][0].tolist()

    assert first_epoch(0, 0) != first_epoch(0, 1) != first_epoch(1, 1)
