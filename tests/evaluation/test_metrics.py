"""Metrics: equal to scikit-learn under any weighting, and undefined only where scikit-learn is."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from medssl.core.errors import EvaluationError
from medssl.evaluation.metrics import METRICS, auprc, auroc, balanced_accuracy, metric_named


@st.composite
def weighted_rows(draw, num_classes):
    """Truth, probabilities with many ties, and three integer weightings."""
    num = draw(st.integers(2 * num_classes, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = rng.integers(num_classes, size=num)
    raw = rng.integers(1, draw(st.sampled_from([3, 50])), size=(num, num_classes)).astype(float)
    weights = rng.integers(0, 4, size=(3, num)).astype(float)
    for w in weights:
        assume(all(w[truth == k].sum() > 0 for k in range(num_classes)))
    return truth, raw / raw.sum(1, keepdims=True), weights


@settings(max_examples=100, deadline=None)
@given(weighted_rows(2))
def test_weighted_binary_metrics_equal_scikit_learn_for_each_weighting(rows):
    truth, probabilities, weights = rows
    for i, w in enumerate(weights):
        score = probabilities[:, 1]
        assert auroc(truth, probabilities, weights)[i] == pytest.approx(roc_auc_score(truth, score, sample_weight=w))
        expected = average_precision_score(truth, score, sample_weight=w)
        assert auprc(truth, probabilities, weights)[i] == pytest.approx(expected)
        expected = balanced_accuracy_score(truth, probabilities.argmax(1), sample_weight=w)
        assert balanced_accuracy(truth, probabilities, weights)[i] == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(weighted_rows(4))
def test_weighted_macro_one_vs_rest_auroc_equals_scikit_learn(rows):
    truth, probabilities, weights = rows
    for value, w in zip(auroc(truth, probabilities, weights), weights, strict=True):
        one_vs_rest = [roc_auc_score(truth == k, probabilities[:, k], sample_weight=w) for k in range(4)]
        assert value == pytest.approx(np.mean(one_vs_rest))
        expected = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro", sample_weight=w)
        assert value == pytest.approx(expected)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_weighting_without_one_class_is_undefined_and_leaves_the_others_alone(name, num_classes):
    truth = np.arange(12) % num_classes
    probabilities = np.random.default_rng(0).dirichlet(np.ones(num_classes), 12)
    weights = np.stack([np.ones(12), (truth != 0).astype(float)])
    whole, without = metric_named(name)(truth, probabilities, weights)
    assert np.isfinite(whole)
    assert np.isnan(without)


def test_perfect_and_reversed_scores_are_one_and_zero_and_constant_scores_one_half():
    truth = np.array([0, 0, 1, 1])
    one = np.ones((1, 4))
    for score, expected in (([0.1, 0.2, 0.3, 0.4], 1.0), ([0.4, 0.3, 0.2, 0.1], 0.0), ([0.5] * 4, 0.5)):
        probabilities = np.stack([1 - np.array(score), score], axis=1)
        assert auroc(truth, probabilities, one)[0] == expected


def test_an_unknown_metric_is_refused_with_the_closest_name():
    with pytest.raises(EvaluationError, match="unknown metric 'auroch': did you mean 'auroc'"):
        metric_named("auroch")
