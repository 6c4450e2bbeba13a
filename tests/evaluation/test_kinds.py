"""Probes, metrics and intervals together on each kind of task, from labels as text to a figure with its interval."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from medssl.core.errors import EvaluationError
from medssl.core.types import Role
from medssl.evaluation import fits, solvers
from medssl.evaluation.bootstrap import mean_bootstrap, paired_difference, patient_bootstrap
from medssl.evaluation.metrics import DEFAULT_METRIC, METRICS, metric_named, metrics_of
from medssl.evaluation.probes import Labelled, knn_probe, linear_probe
from medssl.evaluation.problem import Kind, Problem
from medssl.evaluation.units import Units

GRADES = ("none", "mild", "severe")


def task(kind, num_patients=150, seed=0, val=True):
    """A problem of two images a patient, and ten features of which the first two hold the answer, in noise."""
    rng = np.random.default_rng(seed)
    latent = np.repeat(rng.normal(size=(num_patients, 2)), 2, axis=0)
    roles = np.repeat(rng.choice(["dev", "val", "test"], num_patients, p=[0.5, 0.2, 0.3]), 2)
    values = {
        Kind.CLASSES: [GRADES[i] for i in latent.argmax(1) + (latent.max(1) < 0)],
        Kind.ORDINAL: [GRADES[i] for i in np.digitize(latent[:, 0], [-0.5, 0.7])],
        Kind.MULTILABEL: ["|".join(n for n, v in zip("ab", row, strict=True) if v > 0.3) for row in latent],
        Kind.REGRESSION: [f"{50 + 10 * v}" for v in latent[:, 0]],
    }[kind]
    values = [None if r == "val" and not val else v for r, v in zip(roles, values, strict=True)]
    order = GRADES if kind is Kind.ORDINAL else ()
    patients = np.repeat([f"p{i:03}" for i in range(num_patients)], 2)
    problem = Problem.of("t", values, roles, patients, kind=kind, order=order)
    features = np.concatenate([latent, rng.normal(size=(len(latent), 8))], axis=1)
    return problem, features + 0.3 * rng.normal(size=features.shape)


@pytest.mark.parametrize(("kind", "val"), [*((kind, True) for kind in Kind), (Kind.REGRESSION, False)])
def test_every_probe_and_every_metric_of_every_kind_tell_a_signal_from_noise_with_an_interval(kind, val):
    problem, features = task(kind, val=val)
    noise = np.random.default_rng(1).normal(size=features.shape)
    rows = [problem.rows(role) for role in (Role.DEV, Role.VAL, Role.TEST)]
    units = Units.of(problem, rows[2], "patient")
    for probe in (fits.linear_fit, fits.knn_fit, fits.pca_fit):
        good, bad = (units.mean(probe(problem, x)(*rows, 0)) for x in (features, noise))
        assert good.shape == (len(units.patients), problem.num_outputs)
        for metric in metrics_of(kind):
            score = patient_bootstrap(metric, units.truth, good, units.patients, seed=0, num=100)
            assert score.low <= score.high
            assert score.n == len(np.unique(units.patients))
        default = DEFAULT_METRIC[kind]
        gain = paired_difference(default, units.truth, good, bad, units.patients, seed=0, num=200)
        assert gain.low > 0, (probe, gain)  # positive is better, whatever the metric
        a, b = (metric_named(default)(units.truth, p, np.ones((1, len(p))))[0] for p in (good, bad))
        assert gain.value == pytest.approx(a - b if METRICS[default].higher_is_better else b - a)


def test_a_gain_of_a_loss_is_called_a_reduction():
    truth, given = np.arange(30.0), np.arange(30.0)[:, None]
    gain = paired_difference("mae", truth, given + 1, given + 3, np.arange(30), seed=0)
    assert (gain.metric, gain.value) == ("mae reduction", 2)


def test_the_mean_of_cases_is_resampled_by_patient_and_cases_without_a_value_are_left_out():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.random(50), 3)
    patients = np.repeat(np.arange(50), 3)
    whole = mean_bootstrap("dice", values, patients, seed=0)
    assert whole.value == pytest.approx(values.mean())
    assert (whole.high - whole.low) / 2 == pytest.approx(1.96 * values[::3].std() / np.sqrt(50), rel=0.15)
    some = mean_bootstrap("dice", np.where(patients < 10, np.nan, values), patients, seed=0)
    assert (some.n, some.value) == (40, pytest.approx(values[30:].mean()))
    for bad in (np.full(3, np.nan), np.array([1.0, np.inf, 0.0])):
        with pytest.raises(EvaluationError, match="of 3 cases have a value; all must be finite"):
            mean_bootstrap("dice", bad, np.arange(3), seed=0)


@pytest.mark.parametrize("kind", [Kind.CLASSES, Kind.REGRESSION])
def test_fewer_rows_than_features_change_no_prediction_though_the_fit_is_made_in_their_span(kind):
    problem, features = task(kind, num_patients=24)
    x = np.random.default_rng(0).normal(size=(48, 200)) + 2 * features[:, :1]
    train, test = problem.rows(Role.DEV), problem.rows(Role.TEST)
    known = Labelled.of(problem, x, train)
    scaler = StandardScaler().fit(x[train])
    scaled = scaler.transform(x[train]), scaler.transform(x[test])
    assert len(train) < 200
    nothing = Labelled(x[:0], known.y[:0], known.patients[:0])
    one_each = Labelled(known.x, known.y, np.zeros(len(train)))  # one patient: nothing can be held out
    found = linear_probe(one_each, nothing, x[test], num_classes=problem.num_outputs, kind=kind)
    c = solvers.UNTUNED_INVERSE_PENALTY
    if kind is Kind.CLASSES:
        expected = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(scaled[0], known.y).predict_proba(scaled[1])
        assert found[:, np.unique(known.y)] == pytest.approx(expected, abs=1e-3)
    else:
        expected = Ridge(alpha=1 / c).fit(scaled[0], known.y).predict(scaled[1])
        assert found[:, 0] == pytest.approx(expected, rel=1e-9)


def test_a_finding_that_training_shows_on_one_side_only_is_told_by_its_frequency_and_none_at_all_is_refused():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), np.zeros((20, 2))
    y[:, 0] = x[:, 0] > 0
    train, val = Labelled(x, y, np.arange(20)), Labelled(x[:0], y[:0], np.arange(0))
    p = linear_probe(train, val, x, num_classes=2, kind=Kind.MULTILABEL)
    assert ((p[:, 0] > 0.5) == (y[:, 0] == 1)).mean() > 0.8
    assert (p[:, 1] == 1 / 22).all()
    with pytest.raises(EvaluationError, match="both present and absent, found none in 20 rows"):
        linear_probe(Labelled(x, np.zeros((20, 2)), np.arange(20)), val, x, num_classes=2, kind=Kind.MULTILABEL)
    with pytest.raises(EvaluationError, match="needs two numbers"):
        linear_probe(
            Labelled(x, np.ones(20), np.arange(20)),
            Labelled(x[:0], np.ones(0), np.arange(0)),
            x,
            num_classes=1,
            kind=Kind.REGRESSION,
        )


def test_nearest_neighbours_average_numbers_and_findings_as_they_average_votes():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    numbers = knn_probe(Labelled(x, y, np.arange(30)), x[:5], num_classes=1, k=6, kind=Kind.REGRESSION)
    member = (y > 0).astype(int)
    votes = knn_probe(Labelled(x, member, np.arange(30)), x[:5], num_classes=2, k=6)
    findings = np.stack([member, 1 - member], axis=1).astype(float)
    both = knn_probe(Labelled(x, findings, np.arange(30)), x[:5], num_classes=2, k=6, kind=Kind.MULTILABEL)
    assert both == pytest.approx(votes[:, ::-1])
    cosine = (x[:5] @ x.T) / np.linalg.norm(x[:5], axis=1)[:, None] / np.linalg.norm(x, axis=1)
    for row in range(5):
        near = np.argsort(-cosine[row])[:6]
        assert numbers[row, 0] == pytest.approx(np.average(y[near], weights=np.exp(cosine[row, near] / 0.07)))


def test_numbers_without_validation_are_tuned_on_folds_that_keep_a_patient_together():
    """Features that name the patient: folds by row would trust them wholly, folds by patient do not."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 6)
    x = rng.normal(size=(30, 40))[patients] + rng.normal(scale=0.01, size=(180, 40))
    y = rng.normal(size=30)[patients]
    nothing = Labelled(x[:0], y[:0], patients[:0])
    spread = {
        name: np.ptp(linear_probe(Labelled(x, y, who), nothing, x, num_classes=1, kind=Kind.REGRESSION))
        for name, who in {"patient": patients, "row": np.arange(180)}.items()
    }
    assert spread["patient"] < 0.3 * spread["row"]
    for fold in solvers.folds(Labelled(x, y, patients), nothing, Kind.REGRESSION):
        assert not set(patients[fold.fit]) & set(patients[fold.held])
