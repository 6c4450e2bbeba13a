"""Every metric at once: the same figures as one at a time, of each class or finding too."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_cohort import judged

from medssl.evaluation.bootstrap import patient_bootstrap
from medssl.evaluation.judge import Judge
from medssl.evaluation.metrics import DEFAULT_METRIC, metrics_of
from medssl.evaluation.panel import panel
from medssl.evaluation.problem import Kind, Problem
from medssl.evaluation.results import deciding

NUM, FINDINGS = 120, ("effusion", "mass", "nodule")


def judge_of(kind, num_classes=3, level="volume"):
    """Labelled test patients of three images each, who are all of one kind of label."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(NUM // 3), 3)
    of_patient = rng.integers(num_classes, size=NUM // 3)[patients]
    names = [f"c{i}" for i in range(num_classes)]
    values = {
        Kind.CLASSES: [names[i] for i in of_patient],
        Kind.ORDINAL: [names[i] for i in of_patient],
        Kind.MULTILABEL: ["|".join(f for j, f in enumerate(FINDINGS) if (i + j) % 3) for i in of_patient],
        Kind.REGRESSION: [str(i + 0.5) for i in of_patient],
    }[kind]
    order = names if kind is Kind.ORDINAL else FINDINGS if kind is Kind.MULTILABEL else ()
    problem = Problem.of("t", values, ["test"] * NUM, [f"p{i}" for i in patients], kind=kind, order=order)
    return Judge(problem, DEFAULT_METRIC[kind], level, seed=3, num_resamples=50)


def predictions_of(judge, num_draws=0):
    rng = np.random.default_rng(1)
    raw = rng.random((max(num_draws, 1), NUM, judge.problem.num_outputs)).round(2) + 0.01
    found = raw / raw.sum(2, keepdims=True) if judge.problem.kind.exclusive else raw
    return found if num_draws else found[0]


def like(score):
    return pytest.approx([score.value, score.low, score.high, score.n], nan_ok=False)


def figures(score):
    return [score.value, score.low, score.high, score.n]


@pytest.mark.parametrize("num_draws", [0, 2])
@pytest.mark.parametrize("level", ["volume", "patient"])
@pytest.mark.parametrize("kind", list(Kind))
def test_every_metric_of_the_kind_is_what_it_is_when_asked_for_alone(kind, level, num_draws):
    judge = judge_of(kind, level=level)
    given = predictions_of(judge, num_draws)
    found = panel(judge, given).metrics
    assert list(found) == list(metrics_of(kind))
    for name, score in found.items():
        alone = patient_bootstrap(
            name, judge.units.truth, judge.units.mean(given), judge.units.patients, seed=3, num=50
        )
        assert (score.metric, figures(score)) == (name, like(alone))


def test_each_finding_is_judged_as_if_it_were_the_only_one():
    judge = judge_of(Kind.MULTILABEL)
    given = predictions_of(judge)
    found = panel(judge, given).by_class
    assert list(found) == list(FINDINGS)
    for k, name in enumerate(FINDINGS):
        truth = judge.units.truth[:, [k]]
        assert figures(found[name]) == like(
            patient_bootstrap("auroc", truth, given[:, [k]], judge.units.patients, seed=3, num=50)
        )


@pytest.mark.parametrize("kind", [Kind.CLASSES, Kind.ORDINAL])
def test_each_of_several_classes_is_told_from_the_rest_and_of_two_there_is_nothing_more_to_tell(kind):
    judge = judge_of(kind)
    given = predictions_of(judge)
    found = panel(judge, given).by_class
    assert {score.metric for score in found.values()} == {"auroc"}  # a kappa is of all classes together
    for k, name in enumerate(judge.problem.names):
        of_one = np.stack([1 - given[:, k], given[:, k]], axis=1)
        alone = patient_bootstrap("auroc", judge.units.truth == k, of_one, judge.units.patients, seed=3, num=50)
        assert figures(found[name]) == like(alone)
    two = judge_of(kind, num_classes=2)
    assert panel(two, predictions_of(two)).by_class == {}


def test_a_metric_that_is_not_defined_is_left_out():
    judge = judge_of(Kind.REGRESSION)
    found = panel(judge, np.ones((NUM, 1))).metrics
    assert list(found) == ["mae", "r2"]  # a constant guess has no correlation


def test_an_evaluation_holds_every_metric_of_the_encoder_and_its_baselines_with_all_and_few_labels():
    found = judged().measured(num_resamples=30)
    systems = {"encoder", "random", "pixels"}
    assert found.panels.keys() == systems | {"encoder_few", "small_resnet_few"}
    data = found.to_json()
    assert all(list(scores) == list(metrics_of(Kind.CLASSES)) for scores in data["metrics"].values())
    for system in systems:
        decides = found.systems[system][deciding(found.systems[system])]
        assert figures(found.panels[system].metrics["auroc"]) == like(decides)
    assert data["by_class"] == {}
