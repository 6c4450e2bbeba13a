"""An evaluation as a whole: nothing of test patients is learnt from, wrong examples are refused, figures are whole."""

import json
from dataclasses import replace

import numpy as np
import pytest
from simulated_cohort import judged

from medssl.core.errors import EvaluationError
from medssl.evaluation.evaluate import Systems


def test_labels_of_test_patients_reach_no_probe():
    """Shuffling the test labels only changes the truth that is compared with, so no encoder can look good."""
    examples = judged()
    rng = np.random.default_rng(0)
    truth = np.array(examples.truth, dtype=object)
    test = np.flatnonzero(examples.roles == "test")
    truth[test] = rng.permutation(truth[test])
    evaluation = replace(examples, truth=list(truth)).measured()
    assert all(abs(s.value - 0.5) < 0.12 for probes in evaluation.systems.values() for s in probes.values())


def test_a_patient_on_two_sides_is_refused_without_naming_the_patient():
    examples = judged()
    roles = np.array(examples.roles)
    roles[0] = "test" if roles[1] != "test" else "dev"
    with pytest.raises(EvaluationError, match="1 patients have images of two roles") as caught:
        replace(examples, roles=roles).measured()
    assert str(examples.patients[0]) not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: {"patients": e.patients[1:]}, "patients has 719 rows, truth has 720"),
        (lambda e: {"roles": ["train"] * len(e.roles)}, "unknown role 'train'"),
        (
            lambda e: {
                "systems": e.systems | {"encoder": np.where(np.arange(720)[:, None] == 5, np.nan, e.systems["encoder"])}
            },
            "encoder: 1 of 720 rows are not finite, first row 5",
        ),
    ],
)
def test_wrong_examples_are_refused_in_one_line(change, words):
    examples = judged()
    with pytest.raises(EvaluationError, match=words):
        replace(examples, **change(examples)).measured()


def test_the_encoder_must_be_among_the_systems():
    with pytest.raises(EvaluationError, match="no system called 'encoder'"):
        Systems({"random": {}}, np.zeros((2, 2)))


def test_an_evaluation_is_json_with_an_interval_and_an_n_for_every_figure_and_repeats_bit_for_bit():
    evaluation = judged().measured(seed=3, num_resamples=200)
    data = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert set(data) == {
        *("task", "metric", "kind", "classes", "num_train", "num_val", "num_test", "systems", "differences"),
        *("draw_spreads", "metrics", "by_class", "probe_differences", "covered", "warnings"),
        *("feature_std", "rankme", "rule", "verdict"),
    }
    assert {s: set(p) for s, p in data["systems"].items()} == {
        "encoder": {"knn", "linear", "few"},
        "random": {"knn", "linear"},
        "pixels": {"pca"},
        "small_resnet": {"few"},
    }
    scores = [s for probes in data["systems"].values() for s in probes.values()] + list(data["differences"].values())
    for score in scores:
        assert score["low"] <= score["value"] <= score["high"]
        assert score["n"] == evaluation.num_test_patients == data["num_test"] // 2
    assert set(data["differences"]) == {"random", "pixels", "small_resnet"}
    assert data["verdict"]["decision"] == "go"
    assert data == json.loads(json.dumps(judged().measured(seed=3, num_resamples=200).to_json()))


def test_three_classes_and_no_validation_patients_are_measured_too():
    examples = judged()
    third = [("mild" if i % 3 else "sick") if t == "sick" else t for i, t in enumerate(examples.truth)]
    truth = [None if r == "val" else t for t, r in zip(third, examples.roles, strict=True)]
    evaluation = replace(examples, truth=truth).measured(num_resamples=200)
    assert evaluation.classes == ("mild", "sick", "well")
    assert evaluation.num_val == 0
    assert evaluation.systems["encoder"]["linear"].value > evaluation.systems["random"]["linear"].value
