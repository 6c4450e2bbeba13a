"""Few shots, clusters and retrieval on features whose answer is known."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from medssl.core.errors import EvaluationError
from medssl.core.types import Role
from medssl.evaluation.few_shot import few_shot, shot_rows
from medssl.evaluation.problem import Kind, Problem
from medssl.evaluation.structure import ari, chance, nmi, retrieval, structure


def clouds(num_patients=200, num_classes=2, seed=0, rows_each=2):
    """Classes that are clouds at unit distance from one another in two of twelve directions, plus a common offset."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(num_patients) % num_classes, rows_each)
    roles = np.repeat(rng.choice(["dev", "val", "test"], num_patients, p=[0.5, 0.1, 0.4]), rows_each)
    patients = np.repeat([f"p{i:03}" for i in range(num_patients)], rows_each)
    angle = 2 * np.pi * y / num_classes
    x = 50 + 0.5 * rng.normal(size=(len(y), 12))
    x[:, :2] += np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Problem.of("t", [f"c{i}" for i in y], roles, patients), x, rng.normal(size=x.shape)


def test_few_shots_rise_with_their_number_beat_noise_and_keep_draw_spread_apart_from_patient_spread():
    problem, features, noise = clouds()
    found = few_shot(problem, {"encoder": features, "random": noise}, draws=6, num_resamples=300)
    assert (found.metric, found.draws, found.skipped) == ("auroc", 6, {})
    by = {(s.system, s.probe, s.shots): s for s in found.measured}
    assert len(by) == len(found.measured) == 2 * 2 * 3
    for probe in ("nearest_mean", "logistic"):
        one, five, ten = (by["encoder", probe, k] for k in (1, 5, 10))
        assert 0.6 < one.score.value < five.score.value < ten.score.value
        assert one.draw_spread > five.draw_spread > ten.draw_spread > 0
        assert one.difference is one.difference_spread is None
        assert by["random", probe, 1].difference_spread > by["random", probe, 10].difference_spread > 0
        assert all(abs(by["random", probe, k].score.value - 0.5) < 0.1 for k in (1, 5, 10))
        assert by["random", probe, 10].difference.low > 0
        gap = ten.score.value - by["random", probe, 10].score.value
        assert by["random", probe, 10].difference.value == pytest.approx(gap)
    again = few_shot(problem, {"encoder": features}, draws=6, shots=(5,), num_resamples=300)
    assert again.measured == tuple(by["encoder", probe, 5] for probe in ("nearest_mean", "logistic"))
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["measured"][0]["score"]["n"] > 50


def test_two_systems_of_equal_worth_seldom_differ_provably_with_one_label_a_class(monkeypatch):
    """Which patients were labelled is chance too: an interval over test patients alone leaves out 0 in 29 %."""
    monkeypatch.setattr(
        "medssl.evaluation.few_shot.solve", lambda spaces, *_, **__: np.full((len(spaces[0][1]), 2), 0.5)
    )
    roles, apart = ["dev"] * 100 + ["test"] * 150, 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        y = rng.integers(2, size=250)
        equal = {name: rng.normal(size=(250, 16)) + np.pad(y[:, None] * np.ones(3), ((0, 0), (0, 13)))
                 for name in ("encoder", "random")}  # fmt: skip
        problem = Problem.of("t", [str(v) for v in y], roles, [f"p{i}" for i in range(250)])
        found = few_shot(problem, equal, shots=(1,), num_resamples=100, seed=seed)
        (difference,) = (s.difference for s in found.measured if s.difference and s.probe == "nearest_mean")
        apart += difference.low > 0 or difference.high < 0
    assert apart <= 6, apart


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_a_draw_holds_exactly_so_many_dev_patients_of_each_class_and_larger_draws_hold_smaller_ones(seed, num_classes):
    problem, _, _ = clouds(60 * num_classes, num_classes)
    drawn = [shot_rows(problem, shots, seed) for shots in (1, 5, 10)]
    assert all(set(small) <= set(large) for small, large in pairwise(drawn))
    for shots, rows in zip((1, 5, 10), drawn, strict=True):
        assert set(rows) <= set(problem.rows(Role.DEV))
        for c in range(num_classes):
            assert len(np.unique(problem.patients[rows[problem.truth[rows] == c]])) == shots


def test_shots_that_there_are_too_few_patients_for_are_named_and_not_measured():
    problem, features, _ = clouds(num_patients=30)
    found = few_shot(problem, {"encoder": features}, shots=(1, 100), draws=3, num_resamples=100)
    assert {s.shots for s in found.measured} == {1}
    assert found.skipped[100].endswith("labelled dev patients of 100")


def test_shots_and_clusters_are_refused_where_there_are_no_classes():
    problem = Problem.of("t", ["1.5", "2"], ["dev", "test"], ["a", "b"], kind=Kind.REGRESSION)
    for call in (few_shot, structure):
        with pytest.raises(EvaluationError, match="a regression task has none"):
            call(problem, {"encoder": np.zeros((2, 3))})


def test_labels_of_test_and_val_patients_reach_no_few_shot():
    problem, features, _ = clouds()
    truth = problem.truth.copy()
    hidden = problem.roles != "dev"
    truth[hidden] = np.random.default_rng(0).permutation(truth[hidden])
    shuffled = Problem("t", problem.kind, problem.names, truth, problem.roles, problem.patients, problem.studies)
    found = few_shot(shuffled, {"encoder": features}, draws=3, shots=(1, 10), num_resamples=100)
    assert all(abs(s.score.value - 0.5) < 0.1 for s in found.measured)


def test_structure_finds_separate_clouds_and_none_in_noise_whatever_offset_all_images_share():
    problem, features, noise = clouds(num_classes=3)
    found = structure(problem, {"encoder": features, "random": noise}, num_resamples=200)
    encoder, random = found.figures["encoder"], found.figures["random"]
    assert set(encoder) == {"nmi", "ari", "recall_at_1", "recall_at_5", "map"}
    for name, score in encoder.items():
        assert score.low <= score.value <= score.high
        assert score.low > found.chance.get(name, 0.05)
        assert found.differences["random"][name].low > 0
        assert found.differences["random"][name].value == pytest.approx(score.value - random[name].value)
    assert random["map"].value == pytest.approx(found.chance["map"], abs=0.05)
    assert random["ari"].value == pytest.approx(0, abs=0.03)
    json.dumps(found.to_json(), allow_nan=False)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_cluster_agreement_equals_scikit_learn_on_copied_rows(seed, num):
    rng = np.random.default_rng(seed)
    truth, clusters = rng.integers(num, size=(2, 30))
    truth[:2] = (0, 1)
    weights = np.maximum(rng.integers(0, 4, size=30), np.arange(30) < 2)
    table = np.zeros((1, num, num))
    np.add.at(table[0], (truth, clusters), weights)
    copies = np.repeat(np.arange(30), weights)
    t, c = truth[copies], clusters[copies]
    assert nmi(table)[0] == pytest.approx(sk.normalized_mutual_info_score(t, c), abs=1e-9)
    assert ari(table)[0] == pytest.approx(sk.adjusted_rand_score(t, c), abs=1e-9)


def test_retrieval_equals_a_plain_loop_that_leaves_the_images_of_the_same_patient_out(monkeypatch):
    monkeypatch.setattr("medssl.evaluation.structure.QUERIES_AT_ONCE", 7)
    rng = np.random.default_rng(0)
    x, truth, patients = rng.normal(size=(40, 5)), rng.integers(3, size=40), rng.integers(12, size=40)
    truth[patients == 3] = 3  # a class that one patient alone has
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = retrieval(x, truth, patients)
    for i in range(40):
        gallery = np.flatnonzero(patients != patients[i])
        alike = truth[gallery] == truth[i]
        if not alike.any():
            assert all(np.isnan(values[i]) for values in found.values())
            continue
        similarity = x[gallery] @ x[i]
        near = np.argsort(-similarity)
        assert found["recall_at_1"][i] == alike[near[0]]
        assert found["recall_at_5"][i] == alike[near[:5]].any()
        assert found["map"][i] == pytest.approx(sk.average_precision_score(alike, similarity))


def test_chance_is_what_random_features_reach_on_average():
    rng = np.random.default_rng(0)
    truth, patients = (np.arange(24) % 4 == 0).astype(int), np.repeat(np.arange(12), 2)
    means = [
        {name: np.nanmean(v) for name, v in retrieval(rng.normal(size=(24, 6)), truth, patients).items()}
        for _ in range(400)
    ]
    for name, expected in chance(truth, patients).items():
        assert np.mean([m[name] for m in means]) == pytest.approx(expected, abs=0.02)
