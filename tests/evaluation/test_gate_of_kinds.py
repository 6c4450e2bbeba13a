"""What the gate asks of tasks that no network learns, of few labels, and with the border covered."""

from dataclasses import replace

import numpy as np
import pytest
from hand_made_figures import covered, figures

from medssl.core.score import Score
from medssl.evaluation import fits
from medssl.evaluation.audits import Audits
from medssl.evaluation.evaluate import Systems, evaluate
from medssl.evaluation.gate import Decision, GateRule, gate
from medssl.evaluation.judge import Judge
from medssl.evaluation.problem import Kind, Problem
from medssl.evaluation.shortcuts import covering_audit

GO, NO_GO, UNDECIDED = Decision.GO, Decision.NO_GO, Decision.UNDECIDED


def without_networks(kind: Kind, **changes):
    base = figures(kind=kind, classes=("a", "b") if kind is Kind.MULTILABEL else (), **changes)
    return replace(
        base,
        systems={name: found for name, found in base.systems.items() if name != "small_resnet"},
        differences={name: found for name, found in base.differences.items() if name != "small_resnet"},
    )


def test_findings_and_numbers_can_go_without_a_network_from_scratch_and_the_verdict_says_so():
    for kind in (Kind.MULTILABEL, Kind.REGRESSION):
        verdict = without_networks(kind).verdict
        assert verdict.decision is GO
        assert any(f"no one from scratch stands beside it on {kind} labels" in reason for reason in verdict.reasons)
    assert without_networks(Kind.CLASSES).verdict.decision is UNDECIDED
    strict = replace(without_networks(Kind.REGRESSION), rule=GateRule(required=("random", "corners")))
    assert strict.verdict.decision is UNDECIDED


def test_the_margin_of_an_error_is_a_share_of_what_a_constant_guess_has():
    losses = {"random": (1.0, 0.5, 1.5), "pixels": (0.0, -0.04, 0.04)}
    years = without_networks(Kind.REGRESSION, metric="mae", unit=6.0, encoder=5.0, **losses)
    assert years.verdict.decision is GO
    assert "not worse (by 0.06) than raw pixels" in " ".join(years.verdict.reasons)
    assert replace(years, unit=1.0).verdict.decision is UNDECIDED


@pytest.mark.parametrize("unit", [1, 3000])
def test_a_good_encoder_of_numbers_goes_whatever_the_unit_of_the_labels(unit):
    """Its errors have that unit, its covered comparisons (of R², as audits of a pool judge numbers) have none."""
    rng, num = np.random.default_rng(0), 900
    latent = rng.normal(size=num)
    roles = np.array(["dev", "val", "test"])[np.searchsorted([0.5, 0.65], rng.random(num))].tolist()
    people = [f"p{i}" for i in range(num)]
    problem = Problem.of("t", [f"{unit * (50 + v)}" for v in latent], roles, people, kind=Kind.REGRESSION)
    noises = {"encoder": 0.2, "random": 2.5, "pixels": 1.5}
    x = {name: latent[:, None] + noise * rng.normal(size=(num, 4)) for name, noise in noises.items()}
    probes = {name: {"linear": fits.linear_fit(problem, seen)} for name, seen in x.items()}
    judge = Judge(problem, "r2", num_resamples=200)
    plain = {name: judge.predicted(found["linear"]) for name, found in probes.items()}
    covered = covering_audit(judge, "border", plain, plain)[1]
    measured = evaluate(problem, Systems(probes, x["encoder"]), num_resamples=200)
    verdict = measured.audited(Audits((), covered)).verdict
    assert verdict.decision is GO, verdict
    assert covered["pixels"].unit == 1
    assert measured.comparison("pixels").unit == pytest.approx(0.8 * unit, rel=0.1)


def test_pixels_with_as_few_labels_are_a_baseline_of_their_own():
    base = figures()
    systems = {**base.systems, "pixels": {**base.systems["pixels"], "few": Score("auroc", 0.97, 0.9, 1.0, 100)}}
    worse = Score("auroc difference", -0.1, -0.15, -0.05, 100)
    case = replace(base, systems=systems, differences={**base.differences, "pixels_few": worse})
    assert case.verdict.decision is NO_GO
    assert "worse than raw pixels, both with few labels: auroc 0.870 against 0.970" in case.verdict.reasons[0]
    assert case.comparison("pixels").baseline == base.systems["pixels"]["pca"]


def test_an_encoder_that_never_led_is_not_accused_of_needing_the_border():
    equal = (0.0, -0.005, 0.005)
    said = figures(random=equal, covered=covered(random=equal)).verdict
    assert said.decision is NO_GO
    assert any(
        "is no better than the random encoder with the border of every image covered, either" in r for r in said.reasons
    )
    assert not any("only while it sees the border" in reason for reason in said.reasons)
    led = gate(replace(figures(), covered=covered(random=equal)), GateRule())
    assert any("only while it sees the border" in reason for reason in led.reasons)
