"""Metrics: equal to scikit-learn (scipy for correlations) under any weighting, and undefined only where they are."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from medssl.core.errors import EvaluationError
from medssl.evaluation.metrics import DEFAULT_METRIC, METRICS, metric_named, metrics_of
from medssl.evaluation.problem import Kind

NEED_EVERY_CLASS = ("auroc", "auprc", "balanced_accuracy", "f1", "sensitivity_at_90", "sensitivity_at_95")


@st.composite
def weighted_rows(draw, num_classes):
    """Truth, probabilities with many ties, and three integer weightings that leave every class some weight."""
    num = draw(st.integers(2 * num_classes, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = rng.integers(num_classes, size=num)
    raw = rng.integers(1, draw(st.sampled_from([3, 50])), size=(num, num_classes)).astype(float)
    weights = rng.integers(0, 4, size=(3, num)).astype(float)
    for w in weights:
        assume(all(w[truth == k].sum() > 0 for k in range(num_classes)))
    return truth, raw / raw.sum(1, keepdims=True), weights


@st.composite
def weighted_findings(draw):
    """Three findings of each row, their probabilities, and weightings in which each is present and absent."""
    num = draw(st.integers(8, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = rng.integers(2, size=(num, 3)).astype(float)
    weights = rng.integers(0, 4, size=(3, num)).astype(float)
    for w in weights:
        assume(all(w[truth[:, k] == value].sum() > 0 for k in range(3) for value in (0, 1)))
    return truth, rng.integers(0, draw(st.sampled_from([4, 50])), size=(num, 3)) / 50, weights


@st.composite
def weighted_numbers(draw):
    """Numbers and predicted ones, both with ties, and weightings under which both vary."""
    num = draw(st.integers(4, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = rng.integers(draw(st.sampled_from([3, 90])), size=num).astype(float)
    predicted = truth + rng.integers(-3, 4, size=num)
    weights = rng.integers(0, 4, size=(3, num)).astype(float)
    for w in weights:
        assume(all(len(np.unique(v[w > 0])) > 1 for v in (truth, predicted)))
    return truth, predicted[:, None], weights


def binary_sensitivity(truth, score, weight, specificity):
    fpr, tpr, _ = sk.roc_curve(truth, score, sample_weight=weight, drop_intermediate=False)
    return tpr[1 - fpr >= specificity - 1e-12].max()


def plain_ece(truth, probabilities, weight):
    """Guo et al.'s equation, a bin at a time."""
    top, right, total = probabilities.max(1), probabilities.argmax(1) == truth, 0.0
    for m in range(15):
        rows = (top > m / 15) & (top <= (m + 1) / 15)
        if weight[rows].sum() > 0:
            accuracy = np.average(right[rows], weights=weight[rows])
            confidence = np.average(top[rows], weights=weight[rows])
            total += weight[rows].sum() / weight.sum() * abs(accuracy - confidence)
    return total


@settings(max_examples=30)
@given(weighted_rows(2))
def test_weighted_metrics_of_two_classes_equal_scikit_learn_for_each_weighting(rows):
    truth, p, weights = rows
    score, chosen = p[:, 1], p.argmax(1)
    for i, w in enumerate(weights):
        expected = {
            "auroc": sk.roc_auc_score(truth, score, sample_weight=w),
            "auprc": sk.average_precision_score(truth, score, sample_weight=w),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, chosen, sample_weight=w),
            "f1": sk.f1_score(truth, chosen, average="macro", sample_weight=w),
            "sensitivity_at_90": binary_sensitivity(truth, score, w, 0.90),
            "sensitivity_at_95": binary_sensitivity(truth, score, w, 0.95),
            "brier": sk.brier_score_loss(truth, score, sample_weight=w),
            "log_loss": sk.log_loss(truth, p, sample_weight=w),
            "ece": plain_ece(truth, p, w),
        }
        assert set(expected) == set(metrics_of(Kind.CLASSES))
        found = {name: metric_named(name)(truth, p, weights)[i] for name in expected}
        assert found == pytest.approx(expected)


@settings(max_examples=20)
@given(weighted_rows(4))
def test_weighted_metrics_of_four_ordered_classes_equal_scikit_learn(rows):
    truth, p, weights = rows
    chosen = p.argmax(1)
    for i, w in enumerate(weights):
        of_each = [(truth == k, p[:, k]) for k in range(4)]
        expected = {
            "auroc": sk.roc_auc_score(truth, p, multi_class="ovr", average="macro", sample_weight=w),
            "auprc": np.mean([sk.average_precision_score(t, s, sample_weight=w) for t, s in of_each]),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, chosen, sample_weight=w),
            "f1": sk.f1_score(truth, chosen, average="macro", sample_weight=w),
            "sensitivity_at_90": np.mean([binary_sensitivity(t, s, w, 0.90) for t, s in of_each]),
            "sensitivity_at_95": np.mean([binary_sensitivity(t, s, w, 0.95) for t, s in of_each]),
            "brier": sk.brier_score_loss(truth, p, sample_weight=w),
            "log_loss": sk.log_loss(truth, p, sample_weight=w),
            "ece": plain_ece(truth, p, w),
            "kappa": sk.cohen_kappa_score(truth, chosen, weights="quadratic", sample_weight=w),
            "class_mae": sk.mean_absolute_error(truth, chosen, sample_weight=w),
        }
        assert set(expected) == set(metrics_of(Kind.ORDINAL))
        found = {name: metric_named(name)(truth, p, weights)[i] for name in expected}
        assert found == pytest.approx(expected, abs=1e-12)


@settings(max_examples=20)
@given(weighted_findings())
def test_weighted_metrics_of_findings_are_the_macro_means_of_scikit_learn(rows):
    truth, p, weights = rows
    for i, w in enumerate(weights):
        columns = [(truth[:, k], p[:, k]) for k in range(3)]
        expected = {
            "auroc": sk.roc_auc_score(truth, p, average="macro", sample_weight=w),
            "auprc": sk.average_precision_score(truth, p, average="macro", sample_weight=w),
            "f1": sk.f1_score(truth, p >= 0.5, average="macro", sample_weight=w, zero_division=0),
            "sensitivity_at_90": np.mean([binary_sensitivity(t, s, w, 0.90) for t, s in columns]),
            "sensitivity_at_95": np.mean([binary_sensitivity(t, s, w, 0.95) for t, s in columns]),
            "brier": np.mean([sk.brier_score_loss(t, s, sample_weight=w) for t, s in columns]),
        }
        assert set(expected) == set(metrics_of(Kind.MULTILABEL))
        found = {name: metric_named(name)(truth, p, weights)[i] for name in expected}
        assert found == pytest.approx(expected)


@settings(max_examples=20)
@given(weighted_numbers())
def test_weighted_metrics_of_numbers_equal_scikit_learn_and_correlations_equal_scipy_on_copied_rows(rows):
    truth, predicted, weights = rows
    for i, w in enumerate(weights):
        copies = np.repeat(np.arange(len(truth)), w.astype(int))
        t, p = truth[copies], predicted[copies, 0]
        expected = {
            "mae": sk.mean_absolute_error(truth, predicted, sample_weight=w),
            "r2": sk.r2_score(truth, predicted, sample_weight=w),
            "pearson": stats.pearsonr(t, p).statistic,
            "spearman": stats.spearmanr(t, p).statistic,
        }
        assert set(expected) == set(metrics_of(Kind.REGRESSION))
        found = {name: metric_named(name)(truth, predicted, weights)[i] for name in expected}
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", metrics_of(Kind.ORDINAL))
@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_weighting_without_one_class_is_undefined_where_each_class_counts_and_leaves_the_others_alone(
    name, num_classes
):
    truth = np.arange(12) % num_classes
    probabilities = np.random.default_rng(0).dirichlet(np.ones(num_classes), 12)
    weights = np.stack([np.ones(12), (truth != 0).astype(float), np.zeros(12)])
    whole, without, nothing = metric_named(name)(truth, probabilities, weights)
    assert np.isfinite(whole)
    assert np.isnan(without) == (name in NEED_EVERY_CLASS)
    assert np.isnan(nothing)


@pytest.mark.parametrize("name", [n for n in metrics_of(Kind.MULTILABEL) if n != "brier"])
def test_a_finding_that_is_never_present_leaves_the_macro_mean_undefined(name):
    rng = np.random.default_rng(0)
    truth = np.stack([np.arange(10) % 2, np.zeros(10)], axis=1)
    assert np.isnan(metric_named(name)(truth, rng.random((10, 2)), np.ones((1, 10)))[0])


def test_numbers_that_do_not_vary_have_no_correlation_and_no_explained_variance_but_an_error():
    truth, predicted = np.full(5, 0.1), np.arange(5.0)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {name: float(metric_named(name)(truth, predicted, np.ones((1, 5)))[0]) for name in ("mae", "r2")}
        assert np.isnan(metric_named("pearson")(truth, predicted, np.ones((1, 5)))[0])
        assert np.isnan(metric_named("spearman")(predicted[:, 0], truth[:, None], np.ones((1, 5)))[0])
    assert found["mae"] == pytest.approx(1.94)
    assert np.isnan(found["r2"])


def test_perfect_and_reversed_scores_are_one_and_zero_and_constant_scores_one_half():
    truth = np.array([0, 0, 1, 1])
    one = np.ones((1, 4))
    for score, expected in (([0.1, 0.2, 0.3, 0.4], 1.0), ([0.4, 0.3, 0.2, 0.1], 0.0), ([0.5] * 4, 0.5)):
        probabilities = np.stack([1 - np.array(score), score], axis=1)
        assert metric_named("auroc")(truth, probabilities, one)[0] == expected


def test_better_predictions_move_every_metric_the_way_it_says():
    rng = np.random.default_rng(0)
    truth, one = np.arange(300) % 3, np.ones((1, 300))
    for kind in Kind:
        for name in metrics_of(kind):
            if kind is Kind.REGRESSION:
                y = rng.normal(size=300)
                good, bad = (y[:, None] + noise * rng.normal(size=(300, 1)) for noise in (0.1, 2))
            else:
                y = np.eye(3)[truth] if kind is Kind.MULTILABEL else truth
                good, bad = (_softened(np.eye(3)[truth], noise, rng) for noise in (0.1, 2))
            better, worse = (metric_named(name)(y, p, one)[0] for p in (good, bad))
            assert (better > worse) == METRICS[name].higher_is_better, name


def _softened(member, noise, rng):
    """Calibrated-looking probabilities whose sharpness follows their noise, overconfident where they are noisy."""
    logits = 4 * member + 3 * noise * rng.normal(size=member.shape)
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_each_kind_has_a_default_that_judges_it_and_comes_first():
    assert DEFAULT_METRIC == {"classes": "auroc", "multilabel": "auroc", "ordinal": "kappa", "regression": "mae"}
    assert all(metrics_of(kind)[0] == DEFAULT_METRIC[kind] for kind in Kind)
    assert {name for kind in Kind for name in metrics_of(kind)} == set(METRICS)


def test_an_unknown_metric_is_refused_with_the_closest_name_and_one_of_another_kind_with_what_fits():
    with pytest.raises(EvaluationError, match="unknown metric 'auroch': did you mean 'auroc'"):
        metric_named("auroch")
    with pytest.raises(EvaluationError, match="'auroc' does not judge regression tasks; these do: mae, r2"):
        metric_named("auroc", Kind.REGRESSION)
