"""Intervals where a class is rare, where two systems are both perfect, and over draws of labels."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.evaluation.bootstrap import freedom, paired_difference, patient_bootstrap, sides


def cohort(rng: np.random.Generator, num_sick: int, num_well: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = np.repeat([1, 0], [num_sick, num_well])
    score = rng.normal(size=len(truth)) + 1.2 * truth
    return truth, np.stack([-score, score], axis=1), np.arange(len(truth))


def test_intervals_cover_where_five_of_a_hundred_patients_are_ill():
    expected, rng = NormalDist().cdf(1.2 / np.sqrt(2)), np.random.default_rng(0)
    hits = 0
    for i in range(200):
        truth, given, patients = cohort(rng, 5, 95)
        score = patient_bootstrap("auroc", truth, given, patients, seed=i, num=200)
        hits += score.low <= expected <= score.high
    assert 0.9 <= hits / 200 <= 0.995


@given(st.lists(st.integers(2, 500), min_size=1, max_size=6))
def test_freedom_lies_between_that_of_the_rarest_class_and_that_of_all_patients(found: list[int]):
    assert min(found) - 1 - 1e-9 <= freedom(found) <= sum(found)
    assert freedom([max(found), max(found)]) == pytest.approx(2 * max(found) - 2)
    assert freedom([5, 10**9]) == pytest.approx(4)


def test_a_metric_rests_on_the_patients_of_each_class_and_an_error_on_all():
    truth, _, _ = cohort(np.random.default_rng(0), 3, 9)
    patients = np.arange(12) // 3  # a patient may have images of several classes
    assert sides("auroc", truth, patients) == (3, 1)
    assert sides("brier", truth, patients) == (4,)
    findings = np.stack([truth, 1 - truth], axis=1)
    assert sides("auroc", findings, np.arange(12)) == (9, 3, 3, 9)
    assert sides("mae", truth.astype(float), patients) == (4,)


@pytest.mark.parametrize(("num", "bound"), [(10, 0.31), (200, 0.02)])
def test_two_perfect_systems_are_not_proven_equal_by_few_patients(num: int, bound: float):
    truth = np.arange(2 * num) % 2
    one, other = (np.stack([1 - p, p], axis=1) for p in (0.1 + 0.8 * truth, 0.2 + 0.7 * truth))
    score = paired_difference("auroc", truth, one, other, np.arange(2 * num), seed=0, num=100)
    assert score.value == 0
    assert (-score.low, score.high) == pytest.approx((bound, bound), abs=0.005)
    same = paired_difference("auroc", truth, one, one, np.arange(2 * num), seed=0, num=100)
    assert (same.low, same.high) == (0, 0)


def test_an_interval_over_draws_is_wider_by_how_much_the_draws_differ_and_none_wider_where_they_do_not():
    rng = np.random.default_rng(0)
    truth, _, patients = cohort(rng, 60, 60)

    def draws(spread: float) -> np.ndarray:
        lead = 1 + spread * np.array([-1, -0.5, 0, 0.5, 1])
        score = lead[:, None] * truth + rng.normal(size=len(truth))  # one noise in all draws
        return np.stack([-score, score], axis=2)

    other = np.repeat(draws(0)[:1], 5, axis=0)
    for ours, is_wider in ((draws(0.8), True), (np.repeat(draws(0)[:1], 5, axis=0), False)):
        of_these, of_any = (
            paired_difference("auroc", truth, ours, other, patients, seed=0, num=200, over_draws=over)
            for over in (False, True)
        )
        assert of_these.value == of_any.value
        assert (of_any.high - of_any.low > 1.2 * (of_these.high - of_these.low)) == is_wider
        assert of_any.low <= of_these.low + 1e-12
        assert of_any.high >= of_these.high - 1e-12
