"""The rule of the gate where the fine-tuned encoder is judged, case by case on hand-made figures."""

from dataclasses import replace

import pytest
from hand_made_figures import figures

from medssl.core.score import Score
from medssl.evaluation.gate import By, Decision, GateRule, gate
from medssl.evaluation.results import Comparison

GO, NO_GO, UNDECIDED = Decision.GO, Decision.NO_GO, Decision.UNDECIDED
RULE = GateRule(by=By.FINE_TUNED)
TOLD = {"scratch": (0.1, 0.05, 0.15), "pixels_few": (0.05, 0.01, 0.09), "small_resnet": (0.02, 0.0, 0.04)}


def score(value, low=0.0, high=1.0, name="auroc"):
    return Score(name, value, low, high, 100)


def fine_tuned(covered=None, **changes):
    """An evaluation by fine-tuning; probes say the opposite of what decides."""
    told = {**TOLD, **changes}
    base = figures(random=(-0.3, -0.4, -0.2), pixels=(-0.3, -0.4, -0.2))
    systems = {name: dict(probes) for name, probes in base.systems.items()}
    for name in filter(told.get, ("scratch", "pixels_few")):
        systems.setdefault(name.removesuffix("_few"), {})["few"] = score(0.87 - told[name][0])
    of_few = {name: score(*told[name], "auroc difference") for name in told if told[name]}
    kept = {name: found for name, found in base.differences.items() if name not in told}
    rule = RULE.model_copy(update={"shortcut": covered is not None})
    return replace(base, systems=systems, differences={**kept, **of_few}, covered=covered or {}, rule=rule)


def under_cover(scratch=(0.08, 0.04, 0.12), pixels=(0.0, -0.02, 0.02), lost=(0.01, -0.02, 0.04)):
    def compared(difference):
        found = score(*difference, "auroc difference")
        return Comparison(score(0.85), score(0.85 - difference[0]), found, score(*lost), draw_spread=0.01, draws=5)

    return {"scratch": compared(scratch), "pixels_few": compared(pixels)}


@pytest.mark.parametrize(
    ("case", "decision", "words"),
    [
        (fine_tuned(), GO, "better than the same network from scratch: auroc 0.870 against 0.770"),
        (fine_tuned(pixels_few=(-0.002, -0.009, 0.005)), GO, "not worse (by 0.01) than raw pixels, both with few"),
        (fine_tuned(pixels_few=(-0.06, -0.1, -0.02)), NO_GO, "worse than raw pixels, both with few labels"),
        (fine_tuned(scratch=(0.02, -0.01, 0.05)), UNDECIDED, "not yet told apart from the same network from scratch"),
        (fine_tuned(scratch=(0.0, -0.005, 0.005)), NO_GO, "no better (by 0.01) than the same network from scratch"),
        (fine_tuned(scratch=(-0.05, -0.08, -0.02)), NO_GO, "worse than the same network from scratch"),
        (fine_tuned(small_resnet=(-0.05, -0.09, -0.01)), NO_GO, "worse than a small ResNet from scratch"),
        (fine_tuned(scratch=None), UNDECIDED, "not compared with the same network from scratch"),
        (fine_tuned(pixels_few=None), UNDECIDED, "not compared with raw pixels, both with few labels"),
        (fine_tuned(under_cover()), GO, "the same network from scratch with the border of every image covered, too"),
        (fine_tuned(under_cover(scratch=(0.0, -0.005, 0.005))), NO_GO, "from scratch only while it sees the border"),
        (fine_tuned(under_cover(pixels=(-0.1, -0.15, -0.05))), NO_GO, "both with few labels only while it sees"),
        (fine_tuned(under_cover(scratch=(0.01, -0.03, 0.045), lost=(0.09, 0.02, 0.16))), NO_GO, "only while it sees"),
        (fine_tuned(under_cover(scratch=(0.03, -0.01, 0.07), lost=(0.07, -0.01, 0.15))), UNDECIDED, "told apart"),
    ],
)
def test_the_rule_in_words_holds_case_by_case(case, decision, words):
    verdict = case.verdict
    assert verdict.decision is decision, verdict
    assert any(words in reason for reason in verdict.reasons), verdict.reasons


def test_probes_neither_refuse_nor_let_go():
    assert gate(fine_tuned(), GateRule()).decision is NO_GO  # by probes it is worse than pixels
    assert not any("random" in reason for reason in fine_tuned().verdict.reasons)


def test_what_the_frame_tells_a_probe_says_nothing_of_fine_tuning_but_an_audit_may_refuse():
    case = fine_tuned(under_cover())
    worse = score(-0.2, -0.3, -0.1, "auroc difference")
    systems = {**case.systems, "frame": {"pca": score(0.99)}}
    case = replace(case, systems=systems, differences={**case.differences, "frame": worse})
    assert case.verdict.decision is GO
    warned = replace(case, warnings={"frame alone": "The data set has a shortcut."})
    assert gate(warned, GateRule(by=By.FINE_TUNED, refuse_on=("frame alone",))).decision is NO_GO


def test_a_verdict_says_what_was_fine_tuned_with_how_many_labels():
    (first, *_) = gate(fine_tuned(), GateRule(by=By.FINE_TUNED, budget=60, shortcut=False)).reasons
    assert first.startswith("The encoder, fine-tuned with the labels of 60 patients (5 draws), is better than")
    whole = gate(fine_tuned(), GateRule(by=By.FINE_TUNED, budget=1000, shortcut=False))
    assert whole.reasons[0].startswith("The encoder, fine-tuned with all labels (5 draws), is better than")


def test_a_collapsed_encoder_is_refused_however_it_fine_tunes():
    assert replace(fine_tuned(), rankme=1.2).verdict.decision is NO_GO


def test_what_a_verdict_needs_can_be_said_in_the_rule():
    rule = GateRule(by=By.FINE_TUNED, required=("scratch",), shortcut=False)
    assert gate(fine_tuned(pixels_few=None, small_resnet=None), rule).decision is GO
