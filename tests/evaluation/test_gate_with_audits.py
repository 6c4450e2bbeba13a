"""The gate and the audits: an encoder that needs the border is refused, warnings are said."""

import pytest
from hand_made_figures import covered, figures

from medssl.evaluation.gate import Decision, GateRule, gate

GO, NO_GO, UNDECIDED = Decision.GO, Decision.NO_GO, Decision.UNDECIDED


@pytest.mark.parametrize(
    ("case", "decision", "words"),
    [
        (covered(), GO, "with the border of every image covered, too"),
        (covered(pixels=(-0.012, -0.027, 0.002)), GO, "not shown to be worse than raw pixels with the border"),
        (covered(pixels=(-0.08, -0.12, -0.04)), NO_GO, "raw pixels only while it sees the border"),
        (covered(random=(-0.1, -0.2, -0.01)), NO_GO, "random encoder only while it sees the border"),
        (covered(random=(0.0, -0.005, 0.005)), NO_GO, "random encoder only while it sees the border"),
        (covered(random=(0.01, -0.03, 0.045), lost=(0.09, 0.02, 0.16)), NO_GO, "only while it sees the border"),
        (covered(random=(0.01, -0.05, 0.07), lost=(0.09, 0.02, 0.16)), UNDECIDED, "not yet told apart"),
        (covered(random=(0.03, -0.01, 0.07), lost=(0.07, -0.01, 0.15)), UNDECIDED, "border covered: auroc 0.880"),
        (covered(random=(-0.02, -0.06, 0.02), lost=(0.1, -0.01, 0.2)), UNDECIDED, "not yet told apart"),
        (covered(random=(0.0, -0.004, 0.004), encoder=0.999), GO, "not shown to be worse than the random encoder"),
    ],
)
def test_an_encoder_that_is_better_only_with_the_border_uncovered_is_refused(case, decision, words):
    verdict = figures(covered=case).verdict
    assert verdict.decision is decision, verdict
    assert any(words in reason for reason in verdict.reasons), verdict.reasons


def test_the_shortcut_rule_can_be_left_out_and_without_evidence_there_is_no_go():
    refused = figures(covered=covered(random=(-0.1, -0.2, -0.01)))
    assert gate(refused, GateRule(shortcut=False)).decision is GO
    assert gate(figures(), GateRule(shortcut=False)).decision is GO
    unknown = gate(figures(), GateRule())
    assert unknown.decision is UNDECIDED
    assert len(unknown.reasons) == 1
    assert "nothing was compared with it covered" in unknown.reasons[0]
    lost = gate(figures(pixels=(-0.2, -0.3, -0.1)), GateRule())
    assert lost.decision is NO_GO


def test_a_covered_border_never_turns_a_no_into_a_go():
    assert figures(pixels=(-0.2, -0.3, -0.1), covered=covered()).verdict.decision is NO_GO
    assert figures(random=(0.02, -0.01, 0.05), covered=covered()).verdict.decision is UNDECIDED


def test_warnings_of_audits_are_said_and_decide_nothing_unless_the_rule_says_so():
    warned = figures(covered=covered(), warnings={"frame alone": "The data set has a shortcut."})
    assert warned.verdict.decision is GO
    assert warned.verdict.reasons[-1] == "Warning (frame alone): The data set has a shortcut."
    refusing = gate(warned, GateRule(refuse_on=("frame alone",)))
    assert refusing.decision is NO_GO
    assert "'frame alone'" in refusing.reasons[0]
    assert gate(figures(), GateRule(refuse_on=("frame alone",), shortcut=False)).decision is GO
    unlabelled = figures(classes=(), systems={}, differences={}, warnings={"views": "Too weak."})
    assert unlabelled.verdict.decision is UNDECIDED
    assert unlabelled.verdict.reasons[-1] == "Warning (views): Too weak."
