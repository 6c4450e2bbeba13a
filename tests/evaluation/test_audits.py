"""The audits name a planted cue, accuse no clean encoder, and give the gate what refuses a shortcut solver."""

import json

import numpy as np
import pytest
from cue_images import (
    DELTA,
    ENCODERS,
    audited,
    cohort,
    cover,
    gated,
    good,
    inside_shortcut,
    predicted,
    shortcut,
    untrained,
)

from medssl.core.score import Score
from medssl.data.covers import Cover
from medssl.data.pixels import frame
from medssl.evaluation import fits
from medssl.evaluation.acquisition import by_group, group_audit
from medssl.evaluation.audits import Audit, Audits
from medssl.evaluation.duplicates import duplicate_audit, same_digest, same_hash, same_look
from medssl.evaluation.gate import Decision, GateRule, gate
from medssl.evaluation.judge import Judge, surely_above
from medssl.evaluation.problem import Kind, Problem
from medssl.evaluation.shortcuts import pretext_audit, region_audit
from medssl.evaluation.view_strength import recognised, view_audit

GO, NO_GO, UNDECIDED = Decision.GO, Decision.NO_GO, Decision.UNDECIDED
NUM = 300


# --- planted cues -------------------------------------------------------------------------------------------------


def frame_named(cue, seed=0):
    made = cohort(seed, NUM, cue)
    judge = Judge(made.problem, "auroc", num_resamples=200)
    alone = judge.predicted(fits.pca_fit(made.problem, frame(made.images)))
    return region_audit(judge, "frame", {"pixels": alone}, predicted(judge, made.images, good), DELTA)


@pytest.mark.parametrize("cue", ["corner", "border"])
def test_a_planted_cue_is_named_with_what_it_explains(cue):
    found = frame_named(cue)
    assert found.warning
    assert "The data set has a shortcut: 'nodule' is predicted from the frame" in found.finding
    assert "% of what the encoder has over chance" in found.finding
    assert found.scores["frame by pixels"].low > 0.7


def test_a_clean_cohort_is_not_accused():
    found = frame_named(None)
    assert not found.warning
    assert "is not shown to be predicted" in found.finding


def test_a_shortcut_solver_that_beats_every_baseline_is_refused_because_of_the_frame():
    """Which of two signs stands somewhere in the frame is beyond pixels and random filters, not beyond the solver."""
    measured = gated(cohort(3, NUM, "marker", strength=0.95), shortcut, 200)
    verdict = measured.verdict
    assert gate(measured.audited(Audits()), GateRule(shortcut=False)).decision is GO  # it would pass, were it not asked
    assert measured.audited(Audits()).verdict.decision is UNDECIDED
    assert verdict.decision is NO_GO, verdict
    assert "only while it sees the border" in verdict.reasons[0]
    assert "border covered" in measured.warnings
    assert "frame alone" in measured.warnings


def test_a_solver_of_signs_that_stand_in_the_corners_inside_the_frame_is_refused():
    made = cohort(2, 500, "inside", strength=0.95)
    plain = gated(made, inside_shortcut, 200, closely=False)
    assert gate(plain, GateRule(shortcut=False)).decision is GO
    audits = audited(made, inside_shortcut, 200)
    verdict = plain.audited(audits).verdict
    assert verdict.decision is NO_GO, verdict
    assert "only while it sees the border of the image; with it covered" in verdict.reasons[0]
    assert {"border covered", "corners covered"} <= audits.warnings.keys()


def test_a_good_encoder_goes_though_the_data_set_has_a_shortcut_which_is_said():
    measured = gated(cohort(0, NUM, "border"), good, 200)
    assert measured.verdict.decision is GO, measured.verdict
    assert set(measured.warnings) == {"frame alone", "corners alone"}
    assert sum(reason.startswith("Warning (") for reason in measured.verdict.reasons) == 2
    assert json.loads(json.dumps(measured.to_json(), allow_nan=False))["covered"]["random"]["difference"]["low"] > 0


@pytest.mark.parametrize("name", ["random", "collapsed", "other"])
def test_bad_encoders_are_refused(name):
    assert gated(cohort(0, NUM), ENCODERS[name], 200, closely=False).verdict.decision is NO_GO


@pytest.mark.slow
def test_over_a_hundred_cohorts_clean_encoders_are_rarely_accused_and_cues_are_nearly_always_named():
    accused = [set(audited(cohort(seed, NUM), good, 200, pixels=False).warnings) for seed in range(100)]
    assert sum(map(bool, accused)) <= 5, accused
    for cue in ("corner", "border"):
        assert sum(frame_named(cue, seed).warning for seed in range(100)) >= 98


@pytest.mark.slow
def test_over_twenty_cohorts_the_gate_refuses_the_bad_and_passes_the_good():
    for seed in range(20):
        assert gated(cohort(seed, NUM), good, 200).verdict.decision is not NO_GO
        solvers = [
            gated(cohort(seed, NUM, cue, strength=0.95), solver, 200).verdict.decision
            for cue, solver in (("marker", shortcut), ("inside", inside_shortcut))
        ]
        decisions = [
            gated(cohort(seed, NUM), ENCODERS[n], 200).verdict.decision for n in ("random", "collapsed", "other")
        ]
        assert GO not in (*solvers, *decisions)


def test_shuffled_labels_are_predicted_from_no_part_of_an_image():
    values = []
    for seed in range(6):
        made = cohort(seed, NUM, "border", labels="shuffled")
        judge = Judge(made.problem, "auroc", num_resamples=100)
        for encode in (good, shortcut, untrained):
            values.append(judge.score(predicted(judge, made.images, encode)).value)
            values.append(judge.score(predicted(judge, cover(made.images, Cover.BORDER), encode)).value)
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)


# --- scanners and sites -------------------------------------------------------------------------------------------


def scanned(seed=0, num=600, goes_with=0.0, visible=2.0, kind=Kind.CLASSES):
    """Features that show the scanner as much as ``visible``; the label is the scanner's ``goes_with`` of the time."""
    rng = np.random.default_rng(seed)
    scanner = rng.integers(3, size=num)
    label = np.where(rng.random(num) < goes_with, scanner == 0, rng.integers(2, size=num)).astype(int)
    x = rng.normal(size=(num, 12))
    x[:, :3] += visible * np.eye(3)[scanner]
    roles = np.array(["dev", "val", "test"])[np.searchsorted([0.5, 0.7], rng.random(num))]
    values = [str(v) for v in label]
    people = [f"p{i // 2}" for i in range(num)]
    roles = np.repeat(roles[::2], 2)
    groups = {"scanner": [f"maker {s}" for s in scanner], "site": ["one"] * num}
    problem = Problem.of("t", values, roles.tolist(), people, kind=kind, order=("0", "1"), groups=groups)
    return Judge(problem, "auroc", num_resamples=200), problem, x


def asked_of(judge, problem, x, group="scanner"):
    return group_audit(judge, problem, group, {"encoder": x, "pixels": x}, DELTA, seed=0, num_resamples=200)


@pytest.mark.parametrize(
    ("goes_with", "visible", "warning", "words"),
    [
        (0.0, 3.0, False, "tells 3 scanners apart"),
        (0.7, 3.0, True, "associated: it alone predicts 't'"),
        (0.7, 0.0, False, "is not shown to tell 3 scanners apart"),
    ],
)
def test_a_scanner_is_a_warning_where_it_shows_and_goes_with_the_label(goes_with, visible, warning, words):
    found = asked_of(*scanned(goes_with=goes_with, visible=visible))
    assert found.warning is warning
    assert words in found.finding
    assert found.scores["encoder"].metric == "balanced_accuracy"


def test_one_site_is_no_question_and_rare_scanners_are_left_out():
    judge, problem, x = scanned()
    assert asked_of(judge, problem, x, "site") is None
    problem.groups["scanner"][:] = "maker 0"
    problem.groups["scanner"][:2] = "maker 1"
    assert asked_of(judge, problem, x) is None


def test_without_labels_the_scanner_is_still_asked_for():
    _, problem, x = scanned()
    found = group_audit(None, problem, "scanner", {"encoder": x}, DELTA, seed=0, num_resamples=100)
    assert "label by group" not in found.scores
    assert found.scores["encoder over chance"].low > 0


def test_what_a_scanner_says_of_a_label_is_learnt_from_dev_patients_only():
    judge, problem, _ = scanned(goes_with=0.9)
    before = by_group(judge, problem.groups["scanner"])
    problem.truth[problem.roles == "test"] = 1 - problem.truth[problem.roles == "test"]
    assert np.array_equal(by_group(judge, problem.groups["scanner"]), before)


# --- pretext, views, copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plain", "without", "alone", "chance", "warning", "words"),
    [
        (0.1, 1.2, 0.2, 1.386, True, "solved by the border"),
        (0.1, 0.3, 1.4, 1.386, False, "needs what is inside"),
        (0.1, 0.9, 1.2, 1.386, False, "needs what is inside"),
        (1.38, 1.39, 1.39, 1.386, True, "was not learned"),
        (0.5, 0.3, 0.2, None, False, "part of the question"),
    ],
)
def test_a_pretext_is_solved_by_the_border_where_the_border_alone_tells_more_than_the_rest(
    plain, without, alone, chance, warning, words
):
    rng = np.random.default_rng(0)
    losses = {n: v + 0.1 * rng.normal(size=200) for n, v in (("plain", plain), ("frame", without), ("interior", alone))}
    found = pretext_audit(losses, np.arange(200) // 2, chance, seed=0, num_resamples=200)
    assert found.warning is warning
    assert words in found.finding
    assert found.scores["plain"].n == 100


def test_views_are_too_weak_too_strong_or_neither():
    rng = np.random.default_rng(0)
    image, people = rng.normal(size=(120, 16)), np.arange(120)
    for noise, warning, words in ((1e-3, True, "too weak"), (1.0, False, "Two views"), (50.0, True, "too strong")):
        pair = image + noise * rng.normal(size=image.shape), image + noise * rng.normal(size=image.shape)
        found = view_audit({"random": pair}, people, comparing=True, seed=0, num_resamples=200)
        assert (found.warning, words in found.finding) == (warning, True), found
        assert not view_audit({"random": pair}, people, comparing=False, seed=0, num_resamples=200).warning


def test_recognition_is_one_for_equal_views_half_for_unrelated_ones_and_blind_to_a_patients_own_images():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300, 8))
    assert (recognised(a, a, np.arange(300)) == 1).all()
    assert recognised(a, b, np.arange(300)).mean() == pytest.approx(0.5, abs=0.05)
    twice = np.repeat(a[:150], 2, axis=0)  # two images of a patient that look the same
    assert (recognised(twice, twice, np.arange(300) // 2) == 1).all()
    assert np.isnan(recognised(a[:4], b[:4], np.zeros(4))).all()


def test_copies_are_found_by_bytes_by_hash_and_by_look_and_confirmed_by_pixels():
    rng = np.random.default_rng(0)
    images, features = rng.random((40, 1, 8, 8)), rng.normal(size=(40, 12))
    roles = np.array(["dev"] * 20 + ["val"] * 5 + ["test"] * 15)
    digests = np.array([f"{i}" for i in range(40)])
    digests[30], digests[31] = digests[3], digests[32]  # a copy of a dev image, and two equal test images
    hashes = rng.integers(-(2**62), 2**62, size=40)
    hashes[33], hashes[34] = hashes[4] ^ 1, hashes[21]
    images[33] = images[4] + 0.01 * rng.random((1, 8, 8))  # the hash of 34 is another image's by chance
    features[35:37] = features[5:7]
    images[35] = images[5]  # the encoder sees no difference between 36 and 6, but there is one
    found = {
        "exact": same_digest(digests, roles),
        "hash": same_hash(hashes, np.arange(40) != 39, roles, lambda rows: images[rows]),
        "look": same_look(features, roles, lambda rows: images[rows]),
    }
    assert {name: np.flatnonzero(rows).tolist() for name, rows in found.items()} == {
        "exact": [30], "hash": [33], "look": [35],
    }  # fmt: skip


def test_a_score_is_shown_without_the_copies():
    made = cohort(0, NUM)
    judge = Judge(made.problem, "auroc", num_resamples=100)
    predictions = predicted(judge, made.images, untrained)
    copies = np.zeros(NUM, bool)
    copies[judge.test[:9]] = True
    found = duplicate_audit({"exact": copies}, len(judge.test), judge, predictions)
    assert found.warning
    assert "9 of" in found.finding
    assert found.scores["encoder without copies"].n == found.scores["encoder"].n - 9
    clean = duplicate_audit({"exact": np.zeros(NUM, bool)}, len(judge.test), judge, predictions)
    assert (clean.warning, clean.scores) == (False, {})


def test_audits_are_plain_json_and_their_warnings_go_by_name():
    score = Score("auroc", 0.9, 0.8, 1.0, 30)
    audits = Audits((Audit("views", "Fine.", scores={"random": score}), Audit("site", "Doubtful.", True)))
    assert audits.warnings == {"site": "Doubtful."}
    data = json.loads(json.dumps(audits.to_json(), allow_nan=False))
    assert data["audits"][0]["scores"]["random"]["n"] == 30
    assert data["covered"] == {}


def test_more_questions_need_more_proof_and_a_wider_interval_never_proves_more():
    score = Score("auroc difference", 0.15, 0.06, 0.24, 60)
    assert [surely_above(score, 0.05, num) for num in (1, 2, 3, 30)] == [True, False, False, False]
    assert surely_above(score, 0.0, 3)
    assert not surely_above(Score("auroc difference", 0.15, 0.04, 0.26, 60), 0.05)
