"""The rule of the gate, case by case on hand-made figures."""

from dataclasses import replace

import pytest
from hand_made_figures import figures

from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation.gate import Decision, GateRule, gate
from medssl.evaluation.problem import Kind

GO, NO_GO, UNDECIDED = Decision.GO, Decision.NO_GO, Decision.UNDECIDED


@pytest.mark.parametrize(
    ("case", "decision", "words"),
    [
        (figures(), GO, "better than the random encoder"),
        (figures(pixels=(-0.002, -0.009, 0.005)), GO, "not worse (by 0.01) than raw pixels"),
        (figures(pixels=(-0.002, -0.03, 0.02)), UNDECIDED, "not yet told apart from raw pixels"),
        (figures(pixels=(-0.004, -0.007, -0.001)), NO_GO, "worse than raw pixels"),
        (figures(pixels=(-0.02, -0.06, 0.02)), UNDECIDED, "About 1100 labelled test patients would settle"),
        (figures(random=(0.02, -0.01, 0.05)), UNDECIDED, "About 460 labelled test patients would settle"),
        (figures(random=(-0.02, -0.05, 0.01)), UNDECIDED, "not yet told apart from the random encoder"),
        (figures(random=(0.0, -0.005, 0.005)), NO_GO, "no better (by 0.01) than the random encoder"),
        (figures(random=(0.004, 0.001, 0.007)), GO, "better than the random encoder"),
        (figures(random=(0.0, -0.002, 0.002), pixels=(0.0, -0.002, 0.002), encoder=0.998), GO, "at the ceiling"),
        (figures(random=(0.0, -0.02, 0.004), pixels=(0.0, -0.002, 0.002), encoder=0.998), UNDECIDED, "told apart"),
        (figures(random=(0.01, -0.002, 0.02), encoder=0.998), UNDECIDED, "told apart"),
        (figures(random=(0.02, -0.01, 0.05), pixels=(-0.2, -0.3, -0.1)), NO_GO, "-0.200 [-0.300, -0.100]"),
        (figures(feature_std=0.001), NO_GO, "feature std is 0.0010"),
        (figures(rankme=1.2), NO_GO, "(RankMe) is 1.20"),
        (figures(num=18), UNDECIDED, "18 labelled test patients of the 20 needed: 2 missing"),
        (figures(classes=(), systems={}, differences={}), UNDECIDED, "at least two classes are needed"),
        (figures(classes=("yes",), systems={}, differences={}), UNDECIDED, "found only the class 'yes'"),
        (figures(classes=(), systems={}, differences={}, rankme=1.2), NO_GO, "collapsed"),
        (figures(small_resnet=(-0.05, -0.09, -0.01)), NO_GO, "worse than a small ResNet from scratch: auroc 0.870"),
        (figures(small_resnet=(0.0, -0.03, 0.03)), UNDECIDED, "not yet told apart from a small ResNet from scratch"),
        (figures(differences={}), UNDECIDED, "the random encoder and raw pixels and a small ResNet from scratch"),
    ],
)
def test_the_rule_in_words_holds_case_by_case(case, decision, words):
    verdict = case.verdict
    assert verdict.decision is decision, verdict
    assert any(words in reason for reason in verdict.reasons), verdict.reasons
    assert all(reason.endswith(".") for reason in verdict.reasons)


def test_missing_labels_are_counted_by_class_and_role():
    counts = {Role.DEV: {"no": 0, "yes": 5}, Role.VAL: {"no": 0, "yes": 0}, Role.TEST: {"no": 30, "yes": 2}}
    reasons = figures(class_patients=counts, systems={}, differences={}).verdict.reasons
    assert reasons == (
        "Class 'no' has no labelled dev patient to train a probe on: 1 is missing.",
        "Class 'yes' has 2 labelled test patients of 5: 3 missing.",
    )


def test_a_further_baseline_is_judged_like_pixels():
    base = figures()
    systems = {**base.systems, "frame": {"linear": Score("auroc", 0.95, 0.9, 1.0, 100)}}
    worse = Score("auroc difference", -0.05, -0.08, -0.02, 100)
    verdict = replace(base, systems=systems, differences={**base.differences, "frame": worse}).verdict
    assert verdict.decision is NO_GO
    assert "worse than the frame of the image alone" in verdict.reasons[0]


def test_a_wider_margin_never_turns_a_go_into_a_no():
    for random, pixels in (((0.1, 0.05, 0.15), (0.05, 0.01, 0.09)), ((0.1, 0.05, 0.15), (-0.002, -0.009, 0.005))):
        case = figures(random=random, pixels=pixels)
        assert all(gate(case, GateRule(margin=m, shortcut=False)).decision is GO for m in (0.01, 0.05, 0.2))


@pytest.mark.parametrize("name", ["random", "pixels", "small_resnet"])
def test_without_one_of_the_required_baselines_there_is_no_decision_unless_the_rule_says_so(name):
    base = figures()
    fewer = replace(base, differences={k: v for k, v in base.differences.items() if k != name})
    assert fewer.verdict.decision is UNDECIDED
    assert "was not compared with" in fewer.verdict.reasons[0]
    beaten = Score("auroc difference", -0.2, -0.3, -0.1, 100)
    lost = replace(fewer, differences={**fewer.differences, next(iter(fewer.differences)): beaten})
    assert lost.verdict.decision is NO_GO  # a loss is a loss, whatever else is missing
    rule = GateRule(required=tuple({"random", "pixels", "small_resnet"} - {name}), shortcut=False)
    assert gate(fewer, rule).decision is GO


def test_a_loss_inside_the_margin_must_be_proven_for_the_number_of_comparisons():
    """One such loss of three is a no; of thirty it is what chance brings, and only says that nothing is proven."""
    base = figures(pixels=(-0.004, -0.0075, -0.0005))
    assert (
        gate(base, GateRule(required=(), shortcut=False)).decision is GO
    )  # one of three: not proven, and inside the margin
    alone = replace(base, differences={"pixels": base.differences["pixels"]})
    assert gate(alone, GateRule(required=(), shortcut=False)).decision is NO_GO


@pytest.mark.parametrize(
    ("kind", "classes", "counts", "decision"),
    [
        (Kind.ORDINAL, ("low", "high"), {"low": 40, "high": 40}, GO),
        (Kind.MULTILABEL, ("mass",), {"mass": 30, "no mass": 60}, GO),
        (Kind.MULTILABEL, ("mass",), {"mass": 30, "no mass": 2}, UNDECIDED),
        (Kind.MULTILABEL, (), {}, UNDECIDED),
        (Kind.REGRESSION, (), {"": 80}, GO),
        (Kind.REGRESSION, (), {"": 0}, UNDECIDED),
    ],
)
def test_every_kind_of_task_can_go_and_lacks_what_its_labels_lack(kind, classes, counts, decision):
    num = counts.get("", 100)
    case = figures(kind=kind, classes=classes, class_patients=dict.fromkeys(Role, counts), num_test_patients=num)
    assert case.verdict.decision is decision, case.verdict


def test_errors_that_fall_below_one_are_not_taken_for_the_ceiling():
    """A mean absolute error of 5 is above .995 and no ceiling: there the encoder must be better than the random one."""
    case = figures(random=(0.0, -0.005, 0.005), encoder=5.0, metric="mae", kind=Kind.REGRESSION, classes=())
    assert case.verdict.decision is NO_GO
