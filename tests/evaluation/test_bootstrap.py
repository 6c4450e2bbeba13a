"""Patient bootstrap: coverage, clusters, pairing, speed."""

import time
from statistics import NormalDist

import numpy as np
import pytest

from medssl.core.errors import EvaluationError
from medssl.evaluation.bootstrap import paired_difference, patient_bootstrap, score_of

SHIFT = 1.2


def simulated(rng, num_patients, rows_each=2, shift=SHIFT):
    """Scores N(0, 1) or N(shift, 1) by class; half of the variance is the patient's own."""
    patient = np.repeat(np.arange(num_patients), rows_each)
    truth = np.repeat(rng.permutation(np.arange(num_patients) % 2), rows_each)
    shared, own = rng.normal(size=num_patients)[patient], rng.normal(size=len(patient))
    score = truth * shift + np.sqrt(0.5) * (shared + own)
    return truth, np.stack([-score, score], axis=1), patient


def coverage(num_simulations, num_patients, shift=SHIFT):
    expected = NormalDist().cdf(shift / np.sqrt(2))  # P(positive > negative), of different patients
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(num_simulations):
        truth, probabilities, patient = simulated(rng, num_patients, shift=shift)
        score = patient_bootstrap("auroc", truth, probabilities, patient, seed=i, num=400)
        hits += score.low <= expected <= score.high
    return hits / num_simulations


def test_95_percent_intervals_of_100_patients_cover_the_true_auroc_in_91_to_98_percent_of_300_simulations():
    assert 0.91 <= coverage(300, 100) <= 0.98


def test_intervals_of_20_patients_cover_a_high_auroc_too_where_percentiles_cover_in_four_of_five():
    assert 0.91 <= coverage(200, 20, shift=2.4) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("shift", [SHIFT, 2.4])
@pytest.mark.parametrize("num_patients", [20, 40, 100, 300])
def test_95_percent_intervals_cover_in_92_to_98_5_percent_of_1000_simulations(num_patients, shift):
    assert 0.92 <= coverage(1000, num_patients, shift) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("num_patients", [20, 100])
def test_95_percent_intervals_of_a_paired_difference_cover_in_92_to_98_percent_of_1000_simulations(num_patients):
    expected = NormalDist().cdf(SHIFT / np.sqrt(2)) - NormalDist().cdf(SHIFT / 2)  # noise of variance 1, and 2
    rng, hits = np.random.default_rng(2), 0
    for i in range(1000):
        truth, good, patient = simulated(rng, num_patients)
        worse = good + rng.normal(size=(len(truth), 1)) * [[-1, 1]]
        score = paired_difference("auroc", truth, good, worse, patient, seed=i, num=400)
        hits += score.low <= expected <= score.high
    assert 0.92 <= hits / 1000 <= 0.98


@pytest.mark.parametrize(("num_patients", "deviation", "least"), [(40, 0.8, 0.84), (100, 0.8, 0.86), (100, 0.2, 0.91)])
def test_intervals_of_r2_cover_skewed_numbers_nearly_as_often_as_they_say(num_patients, deviation, least):
    rng, hits = np.random.default_rng(5), 0
    variance = np.expm1(deviation**2) * np.exp(deviation**2)  # of lognormal numbers
    noise = np.sqrt(0.2 * variance)
    for i in range(300):
        truth = rng.lognormal(0, deviation, num_patients)
        guess = (truth + noise * rng.normal(size=num_patients))[:, None]
        score = patient_bootstrap("r2", truth, guess, np.arange(num_patients), seed=i, num=250)
        assert score.low <= score.value <= score.high < 1
        hits += score.low <= 0.8 <= score.high
    assert hits / 300 >= least


def test_perfect_separation_is_not_sold_as_certainty_and_few_patients_prove_less_of_it_than_many():
    lows = []
    for num in (10, 40, 200):
        truth = np.arange(num) % 2
        score = patient_bootstrap("auroc", truth, np.eye(2)[truth], np.arange(num), seed=0, num=200)
        assert (score.value, score.high) == (1, 1)
        lows.append(score.low)
    assert lows == pytest.approx([0.025 ** (2 / num) for num in (10, 40, 200)])  # half of them of each class


def test_an_interval_of_a_fraction_holds_its_value_and_stays_in_0_to_1():
    for seed in range(30):
        truth, probabilities, patient = simulated(np.random.default_rng(seed), 12, shift=3.0)
        for metric in ("auroc", "auprc", "sensitivity_at_95", "balanced_accuracy", "f1"):
            score = patient_bootstrap(metric, truth, probabilities, patient, seed=0, num=100)
            assert 0 <= score.low <= score.value <= score.high <= 1


def test_an_interval_that_allows_for_ten_comparisons_is_wider():
    rng = np.random.default_rng(0)
    values, patients = rng.normal(size=60), np.arange(60)
    one, ten = (score_of("mean", lambda w: w @ values / w.sum(1), patients, seed=0, comparisons=num) for num in (1, 10))
    assert (ten.high - ten.low) / (one.high - one.low) == pytest.approx(2.81 / 1.96, rel=0.1)
    assert ten.level == one.level == 0.95


def test_rows_copied_within_a_patient_change_nothing_while_counting_them_as_patients_narrows_the_interval():
    truth, probabilities, _ = simulated(np.random.default_rng(0), 120, rows_each=1)
    copies = np.repeat(np.arange(120), 4)
    once = patient_bootstrap("auroc", truth, probabilities, np.arange(120), seed=0)
    by_patient = patient_bootstrap("auroc", truth[copies], probabilities[copies], copies, seed=0)
    by_row = patient_bootstrap("auroc", truth[copies], probabilities[copies], np.arange(480), seed=0)
    assert (by_patient.low, by_patient.high, by_patient.n) == (pytest.approx(once.low), pytest.approx(once.high), 120)
    assert by_row.n == 480
    assert (by_row.high - by_row.low) / (by_patient.high - by_patient.low) == pytest.approx(0.5, abs=0.1)


def test_the_order_of_rows_and_the_names_of_patients_in_order_change_no_digit():
    truth, probabilities, patient = simulated(np.random.default_rng(3), 50)
    names = np.array([f"p{p:04}" for p in patient])
    order = np.random.default_rng(4).permutation(len(truth))
    one = patient_bootstrap("auroc", truth, probabilities, patient, seed=7)
    assert one == patient_bootstrap("auroc", truth[order], probabilities[order], names[order], seed=7)
    assert one != patient_bootstrap("auroc", truth, probabilities, patient, seed=8)


def test_a_system_does_not_differ_from_itself():
    truth, probabilities, patient = simulated(np.random.default_rng(0), 40)
    score = paired_difference("auroc", truth, probabilities, probabilities, patient, seed=0)
    assert (score.value, score.low, score.high) == (0, 0, 0)


def test_pairing_sees_a_small_difference_that_two_separate_intervals_hide():
    rng = np.random.default_rng(0)
    truth, good, patient = simulated(rng, 200)
    worse = good + rng.normal(scale=0.5, size=(len(truth), 1)) * [[-1, 1]]
    difference = paired_difference("auroc", truth, good, worse, patient, seed=0)
    a, b = (patient_bootstrap("auroc", truth, p, patient, seed=0) for p in (good, worse))
    assert a.low < b.high  # they overlap
    assert difference.low > 0
    assert difference.value == pytest.approx(a.value - b.value)
    swapped = paired_difference("auroc", truth, worse, good, patient, seed=0)
    assert (swapped.low, swapped.high) == (pytest.approx(-difference.high), pytest.approx(-difference.low))


def test_memory_is_bounded_by_chunks_that_do_not_change_the_draws(monkeypatch):
    truth, probabilities, patient = simulated(np.random.default_rng(5), 30)
    whole = patient_bootstrap("auroc", truth, probabilities, patient, seed=0, num=50)
    monkeypatch.setattr("medssl.evaluation.bootstrap.CELLS_AT_ONCE", 7 * len(truth))
    assert patient_bootstrap("auroc", truth, probabilities, patient, seed=0, num=50) == whole


def test_one_class_is_refused_and_a_class_of_one_patient_gives_an_interval_of_the_defined_resamples():
    probabilities = np.random.default_rng(0).dirichlet([1, 1], 20)
    with pytest.raises(EvaluationError, match="undefined: each class needs a labelled row"):
        patient_bootstrap("auroc", np.zeros(20, np.int64), probabilities, np.arange(20), seed=0)
    one = patient_bootstrap("auroc", (np.arange(20) == 3).astype(int), probabilities, np.arange(20), seed=0)
    assert one.low <= one.value <= one.high


def test_more_undefined_than_defined_resamples_are_refused_with_their_number():
    truth = np.minimum(np.arange(20), 4)  # four classes of one patient each
    with pytest.raises(EvaluationError, match=r"only \d+ of 1000 resamples hold every class"):
        patient_bootstrap("auroc", truth, np.random.default_rng(0).dirichlet(np.ones(5), 20), np.arange(20), seed=0)


def test_a_thousand_resamples_of_a_thousand_rows_take_less_than_two_seconds():
    truth, probabilities, patient = simulated(np.random.default_rng(0), 500)
    start = time.perf_counter()
    patient_bootstrap("auroc", truth, probabilities, patient, seed=0)
    assert time.perf_counter() - start < 2
