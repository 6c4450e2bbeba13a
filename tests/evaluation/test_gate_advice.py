"""What the gate advises settles a difference of that size as often as it says."""

import re

import numpy as np
import pytest
from hand_made_figures import figures

from medssl.core.score import Score
from medssl.evaluation.advice import POWER, Asked
from medssl.evaluation.bootstrap import draw_reach
from medssl.evaluation.gate import Decision, _compare
from medssl.evaluation.results import Comparison

PLAIN, FEW = Score("auroc", 0.9, 0.85, 0.95, 160), 5


def compared(value: float, error: float, num: int, spread: float = 0.0, draws: int = 1) -> Comparison:
    """A difference whose standard error is ``error`` over ``num`` patients; draws add theirs."""
    reach = np.hypot(1.96 * error, draw_reach(spread, draws))
    difference = Score("auroc difference", value, value - reach, value + reach, num)
    return Comparison(PLAIN, PLAIN, difference, draw_spread=spread, draws=draws)


def settled(asked: Asked, value: float, of_patient: float, num: int, spread: float = 0.0, draws: int = 1) -> float:
    """Return in what share of cohorts of so many patients and draws a true difference of ``value`` is decided on."""
    rng, decided = np.random.default_rng(0), 0
    for _ in range(300):
        error = of_patient / np.sqrt(num)
        each = value + rng.normal() * error + spread * rng.normal(size=draws)
        seen = float(np.std(each, ddof=1)) if draws > 1 else 0.0
        decided += _compare(asked, compared(each.mean(), error, num, seen, draws)).decision is not Decision.UNDECIDED
    return decided / 300


def number(pattern: str, reason: str) -> int:
    found = re.search(pattern, reason)
    assert found, reason
    return int(found.group(1))


@pytest.mark.parametrize("num_questions", [1, 7])
@pytest.mark.parametrize(
    ("name", "value"), [("pixels", -0.018), ("pixels", 0.004), ("random", 0.02), ("random", -0.03), ("random", 0.001)]
)
def test_the_number_of_patients_advised_settles_a_difference_in_four_of_five_cohorts(name, value, num_questions):
    asked, of_patient = Asked(name, 0.01, num_questions, top=False, leads=name == "random"), 0.3
    reason = _compare(asked, compared(value, of_patient / np.sqrt(160), 160)).reasons[0]
    advised = number(r"About (\d+) labelled test patients would settle", reason)
    assert POWER - 0.06 < settled(asked, value, of_patient, advised) < POWER + 0.09  # both a yes and a no may settle
    assert settled(asked, value, of_patient, advised // 3) < 0.6


def test_where_draws_of_labels_decide_more_draws_are_advised_not_patients():
    """A difference of .018 with a spread of .04 between five draws stays undecided with any number of patients."""
    asked, spread = Asked("small_resnet", 0.01, 7, top=False, leads=False), 0.04
    reason = _compare(asked, compared(0.018, 0.3 / 10, 100, spread, FEW)).reasons[0]
    draws = number(r"About (\d+) draws of labels \(gate\.draws, now 5\)", reason)
    patients = number(r"and (\d+) labelled test patients would settle", reason)
    assert settled(asked, 0.018, 0.3, 100_000, spread, FEW) < 0.5
    assert POWER - 0.06 < settled(asked, 0.018, 0.3, patients, spread, draws) < POWER + 0.09
    enough = _compare(asked, compared(0.018, 0.3 / 100, 10_000, spread, FEW)).reasons[0]
    assert f"About {draws} draws of labels (gate.draws, now 5) would settle" in enough
    hopeless = _compare(asked, compared(0.001, 0.3 / 10, 100, 1.0, FEW)).reasons[0]
    assert "would settle" not in hopeless


def test_an_evaluation_tells_the_gate_how_far_its_draws_differ():
    spread = figures(small_resnet=(0.01, -0.05, 0.07), draw_spreads={"small_resnet": 0.035})
    assert (spread.comparison("small_resnet").draw_spread, spread.comparison("small_resnet").draws) == (0.035, 5)
    assert "draws of labels (gate.draws, now 5)" in spread.verdict.reasons[0]
    assert spread.comparison("pixels").draws == 1
