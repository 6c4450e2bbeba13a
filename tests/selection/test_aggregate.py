"""Volume scores become study scores, and strata become comparable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.core.errors import SelectionError
from medssl.selection.aggregate import by_study, standardise

scored = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 1e6)), min_size=1, max_size=40)


@given(scored, st.randoms(use_true_random=False))
def test_study_scores_equal_a_naive_loop_and_do_not_depend_on_the_order_of_volumes(rows, random):
    studies, values = zip(*rows, strict=True)
    names, means = by_study(np.array(values), np.array(studies))
    _, highest = by_study(np.array(values), np.array(studies), "max")
    for name, mean, high in zip(names, means, highest, strict=True):
        own = [v for s, v in rows if s == name]
        assert mean == pytest.approx(np.mean(own))
        assert high == max(own)
    shuffled = random.sample(rows, len(rows))
    again = by_study(np.array([v for _, v in shuffled]), np.array([s for s, _ in shuffled]))[1]
    assert again.tolist() == means.tolist()  # bit for bit


def test_float32_losses_are_summed_in_float64():
    losses = np.full(2**12, np.float32(16_777_217 / 2**24))
    assert by_study(losses, np.array(["a"] * 2**12))[1][0] == np.float64(losses[0])


def test_probabilities_of_a_study_are_the_mean_of_its_volumes_and_keep_their_sum():
    probabilities = np.array([[0.2, 0.8], [0.6, 0.4], [1.0, 0.0]])
    names, out = by_study(probabilities, np.array(["b", "b", "a"]))
    assert names.tolist() == ["a", "b"]
    assert out == pytest.approx(np.array([[1.0, 0.0], [0.4, 0.6]]))


def test_values_that_are_no_numbers_and_columns_of_two_lengths_are_refused():
    with pytest.raises(SelectionError, match="1 of 2 values are not finite"):
        by_study(np.array([1.0, np.nan]), np.array(["a", "b"]))
    with pytest.raises(SelectionError, match="2 values for 1 volumes"):
        by_study(np.array([1.0, 2.0]), np.array(["a"]))


def test_no_volumes_give_no_studies():
    names, values = by_study(np.empty(0), np.empty(0, dtype=str))
    assert len(names) == len(values) == 0


def test_ranks_run_from_zero_to_one_within_each_stratum_and_ties_share_theirs():
    out = standardise(np.array([1.0, 100.0, 3.0, 3.0, 200.0]), np.array(["a", "b", "a", "a", "b"]))
    assert out.tolist() == pytest.approx([0.5 / 3, 0.25, 2 / 3, 2 / 3, 0.75])


def test_z_scores_have_mean_zero_and_spread_one_and_a_constant_stratum_is_zero():
    scores = np.array([1.0, 2.0, 3.0, 7.1, 7.1, 7.1])
    out = standardise(scores, np.array(["a"] * 3 + ["b"] * 3), "zscore")
    assert out[:3].mean() == pytest.approx(0)
    assert out[:3].std() == pytest.approx(1)
    assert out[3:].tolist() == [0, 0, 0]
