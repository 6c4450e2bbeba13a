"""Keyed randomness: same key, same draw; the numpy and torch halves agree bit for bit."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from medssl.core import keys


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_numpy_and_torch_mix_the_same_bits(values: list[int]) -> None:
    array = np.array(values, np.int64)
    assert (keys.mix(array).view(np.int64) == keys._mix_torch(torch.from_numpy(array)).numpy()).all()


@given(st.integers(0, 1000), st.integers(1, 50), st.permutations(list(range(12))))
def test_a_draw_depends_on_its_key_alone_and_not_on_its_place_in_the_batch(
    epoch: int, num: int, order: list[int]
) -> None:
    made = torch.from_numpy(keys.view_keys(7, epoch, np.arange(12), 2))
    whole = keys.uniform(made, num, stream=3)
    assert torch.equal(keys.uniform(made[order], num, stream=3), whole[order])
    assert torch.equal(keys.uniform(made[:, :1], num, stream=3), whole[:, :1])
    assert torch.equal(keys.uniform(made, num + 5, stream=3)[..., :num], whole)


def test_draws_are_uniform_within_a_key_and_across_keys() -> None:
    made = torch.from_numpy(keys.view_keys(0, 0, np.arange(20000), 1))[:, 0]
    assert kstest(keys.uniform(made, 1, 0)[:, 0], "uniform").pvalue > 1e-3
    assert kstest(keys.uniform(made[:1], 20000, 0)[0], "uniform").pvalue > 1e-3


def test_seed_epoch_volume_view_and_stream_each_change_the_draw() -> None:
    def first(seed: int, epoch: int, volume: int, view: int, stream: int) -> float:
        made = keys.view_keys(seed, epoch, np.array([volume]), view + 1)
        return float(keys.uniform(torch.from_numpy(made[:, view]), 1, stream))

    base = (1, 2, 3, 0, 4)
    changed = [tuple(v + (i == k) for i, v in enumerate(base)) for k in range(5)]
    assert len({first(*base), *(first(*c) for c in changed)}) == 6


def test_neighbouring_keys_are_uncorrelated() -> None:
    made = torch.from_numpy(keys.view_keys(0, 0, np.arange(5000), 2))
    draws = keys.uniform(made, 4, 1).reshape(5000, -1).numpy()
    off = np.corrcoef(draws.T) - np.eye(8)
    assert np.abs(off).max() < 0.06
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.06
