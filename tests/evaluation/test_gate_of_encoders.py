"""From features to a verdict: good, untrained, collapsed and unlabelled encoders that are simulated."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_cohort import judged

from medssl.evaluation.gate import Decision

GO, NO_GO, UNDECIDED = Decision.GO, Decision.NO_GO, Decision.UNDECIDED


def test_a_good_encoder_goes():
    verdict = judged().measured().verdict
    assert verdict.decision is GO, verdict
    assert len(verdict.reasons) == 3  # a baseline each


def test_an_untrained_encoder_does_not_go_in_any_of_twelve_cohorts():
    decisions = [judged(8.0, 8.0, 8.0, seed=s).measured(num_resamples=300).verdict.decision for s in range(12)]
    assert GO not in decisions
    assert NO_GO in decisions


def test_an_encoder_that_equals_its_baselines_is_refused_in_at_most_one_of_twelve_cohorts():
    """It has lost nothing, so a no would be chance: each of three comparisons may say one in 2.5 % of cohorts."""
    decisions = [judged(3.0, 8.0, 3.0, 3.0, seed=s).measured(num_resamples=300).verdict.decision for s in range(12)]
    assert decisions.count(NO_GO) <= 1


def test_the_random_encoder_itself_is_refused():
    """Features equal to the baseline's differ by exactly nothing: no better than no pretraining."""
    examples = judged()
    same = replace(examples, systems={**examples.systems, "encoder": examples.systems["random"]})
    verdict = same.measured().verdict
    assert verdict.decision is NO_GO


def test_an_encoder_that_pixels_beat_is_refused():
    verdict = judged(encoder_noise=6.0, random_noise=12.0, pixel_noise=0.3).measured().verdict
    assert verdict.decision is NO_GO
    assert any("worse than raw pixels" in r for r in verdict.reasons)


@pytest.mark.parametrize("labels", ["all", "none"])
def test_a_collapsed_encoder_is_refused_with_and_without_labels(labels):
    examples = judged(labels=labels)
    point = 1 + 1e-4 * examples.systems["encoder"]  # the signal is still there, and a probe would find it
    evaluation = replace(examples, systems={**examples.systems, "encoder": point}).measured()
    assert evaluation.verdict.decision is NO_GO
    assert "collapsed" in evaluation.verdict.reasons[0]


def test_without_labels_the_gate_is_undecided_and_there_is_no_figure():
    evaluation = judged(labels="none").measured()
    assert evaluation.verdict.decision is UNDECIDED
    assert evaluation.systems == {}
    assert evaluation.rankme > 2


def test_too_few_test_patients_are_undecided_however_good_the_encoder():
    examples = judged()
    few = sorted(set(examples.patients[examples.roles == "test"]))[:16]
    kept = [r != "test" or p in few for r, p in zip(examples.roles, examples.patients, strict=True)]
    truth = [t if k else None for t, k in zip(examples.truth, kept, strict=True)]
    evaluation = replace(examples, truth=truth).measured()
    assert evaluation.systems  # figures are shown, with their wide intervals
    assert evaluation.verdict.decision is UNDECIDED
    assert "16 labelled test patients of the 20 needed: 4 missing" in evaluation.verdict.reasons[0]


def test_random_labels_score_chance_on_average_over_twelve_draws_and_go_at_most_once():
    examples = judged()
    patients, values, decisions = sorted(set(examples.patients)), [], []
    for seed in range(12):
        rng = np.random.default_rng((1, seed))  # independent of the seed that drew the cohort and its true labels
        drawn = dict(zip(patients, rng.choice(["sick", "well"], len(patients)), strict=True))
        truth = [drawn[p] for p in examples.patients]
        evaluation = replace(examples, truth=truth).measured(num_resamples=200)
        values.append([score.value for probes in evaluation.systems.values() for score in probes.values()])
        decisions.append(evaluation.verdict.decision)
    assert np.mean(values, axis=0) == pytest.approx(0.5, abs=0.05)  # five probes; three standard errors
    assert decisions.count(GO) <= 1  # a 95 % interval lets chance win in 2.5 % of draws
