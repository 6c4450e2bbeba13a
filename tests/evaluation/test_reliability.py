"""Reliability: what is predicted, how often it comes true, and how sure one can be of that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from medssl.evaluation.problem import Kind
from medssl.evaluation.reliability import confidences, reliability, wilson


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([20, 99, 100, 400]))
def test_bins_equal_those_of_scikit_learn(seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(size=num)
    came_true = rng.uniform(size=num) < predicted
    bins = reliability(predicted, came_true, np.arange(num).astype(str))
    observed, mean = calibration_curve(came_true, predicted, n_bins=10 if num >= 100 else 5)
    assert np.allclose([b.observed for b in bins], observed)
    assert np.allclose([b.predicted for b in bins], mean)
    assert sum(b.num for b in bins) == num
    assert all(b.low - 1e-9 <= b.observed <= b.high + 1e-9 and b.start <= b.predicted <= b.stop for b in bins)


@pytest.mark.parametrize(("hits", "num"), [(0, 1), (1, 1), (3, 7), (40, 40), (12, 200)])
def test_the_interval_is_wilsons(hits: int, num: int) -> None:
    expected = binomtest(hits, num).proportion_ci(0.95, method="wilson")
    assert np.allclose(wilson(hits / num, num, 0.95), (expected.low, expected.high))


def test_images_of_one_patient_do_not_make_a_bin_surer() -> None:
    predicted, came_true = np.full(40, 0.9), np.arange(40) % 4 > 0
    (apart,) = reliability(predicted, came_true, np.arange(40).astype(str))
    (together,) = reliability(predicted, came_true, (np.arange(40) // 8).astype(str))
    assert (apart.num_patients, together.num_patients) == (40, 5)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_certain_predictions_have_a_bin() -> None:
    assert [
        (b.start, b.stop, b.num)
        for b in reliability(np.array([0.0, 1.0]), np.array([False, True]), np.array(["a", "b"]))
    ] == [
        (0.0, 0.2, 1),
        (0.8, 1.0, 1),
    ]


def test_what_is_predicted_follows_the_kind_of_label() -> None:
    two = np.array([[0.3, 0.7], [0.8, 0.2]])
    predicted, came_true, rows = confidences(Kind.CLASSES, np.array([1, 1]), two)
    assert (predicted.tolist(), came_true.tolist(), rows.tolist()) == ([0.7, 0.2], [True, True], [0, 1])
    three = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    predicted, came_true, _ = confidences(Kind.ORDINAL, np.array([1, 2]), three)
    assert (predicted.tolist(), came_true.tolist()) == ([0.5, 0.6], [True, False])
    predicted, came_true, rows = confidences(Kind.MULTILABEL, np.array([[1, 0], [0, 0]]), two)
    assert predicted.tolist() == [0.3, 0.7, 0.8, 0.2]
    assert came_true.tolist() == [True, False, False, False]
    assert rows.tolist() == [0, 0, 1, 1]
