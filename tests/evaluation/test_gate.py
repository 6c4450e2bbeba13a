"""The gate: its rule on hand-made figures, and its verdicts on simulated encoders from features to decision."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from medssl.core.errors import EvaluationError
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation import fits
from medssl.evaluation.evaluate import Systems, evaluate
from medssl.evaluation.gate import Decision, GateRule, gate
from medssl.evaluation.problem import Kind, Problem
from medssl.evaluation.results import Comparison, Evaluation

GO, NO_GO, UNDECIDED = Decision.GO, Decision.NO_GO, Decision.UNDECIDED


def figures(
    random=(0.1, 0.05, 0.15), pixels=(0.05, 0.01, 0.09), small_resnet=(0.02, 0.0, 0.04), encoder=0.9, num=100, **changes
):
    """An evaluation whose differences are (value, low, high)."""

    def score(value, low=0.0, high=1.0, name="auroc"):
        return Score(name, value, low, high, num)

    base = Evaluation(
        task="pneumonia",
        metric="auroc",
        classes=("no", "yes"),
        num_train=200,
        num_val=50,
        num_test=num,
        num_test_patients=num,
        class_patients={role: {"no": num // 2, "yes": num // 2} for role in Role},
        systems={
            "encoder": {"linear": score(encoder), "few": score(encoder - 0.03)},
            "random": {"linear": score(encoder - random[0])},
            "pixels": {"pca": score(encoder - pixels[0])},
            "small_resnet": {"few": score(encoder - 0.03 - small_resnet[0])},
        },
        differences={
            name: score(*difference, "auroc difference")
            for name, difference in {"random": random, "pixels": pixels, "small_resnet": small_resnet}.items()
        },
        feature_std=0.5,
        rankme=40.0,
        rule=GateRule(),
    )
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("case", "decision", "words"),
    [
        (figures(), GO, "better than the random encoder"),
        (figures(pixels=(-0.002, -0.009, 0.005)), GO, "not worse (by 0.01) than raw pixels"),
        (figures(pixels=(-0.002, -0.03, 0.02)), UNDECIDED, "not yet told apart from raw pixels"),
        (figures(pixels=(-0.004, -0.007, -0.001)), NO_GO, "worse than raw pixels"),
        (figures(pixels=(-0.02, -0.06, 0.02)), NO_GO, "worse than raw pixels"),
        (figures(random=(0.02, -0.01, 0.05)), UNDECIDED, "About 230 labelled test patients would settle"),
        (figures(random=(-0.02, -0.05, 0.01)), NO_GO, "worse than the random encoder"),
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
    worse = Score("auroc difference", -0.05, -0.09, -0.01, 100)
    verdict = replace(base, systems=systems, differences={**base.differences, "frame": worse}).verdict
    assert verdict.decision is NO_GO
    assert "worse than the frame of the image alone" in verdict.reasons[0]


def test_a_wider_margin_never_turns_a_go_into_a_no():
    for random, pixels in (((0.1, 0.05, 0.15), (0.05, 0.01, 0.09)), ((0.1, 0.05, 0.15), (-0.002, -0.009, 0.005))):
        case = figures(random=random, pixels=pixels)
        assert all(gate(case, GateRule(margin=m)).decision is GO for m in (0.01, 0.05, 0.2))


@pytest.mark.parametrize("name", ["random", "pixels", "small_resnet"])
def test_without_one_of_the_required_baselines_there_is_no_decision_unless_the_rule_says_so(name):
    base = figures()
    fewer = replace(base, differences={k: v for k, v in base.differences.items() if k != name})
    assert fewer.verdict.decision is UNDECIDED
    assert "was not compared with" in fewer.verdict.reasons[0]
    beaten = Score("auroc difference", -0.2, -0.3, -0.1, 100)
    lost = replace(fewer, differences={**fewer.differences, next(iter(fewer.differences)): beaten})
    assert lost.verdict.decision is NO_GO  # a loss is a loss, whatever else is missing
    rule = GateRule(required=tuple({"random", "pixels", "small_resnet"} - {name}))
    assert gate(fewer, rule).decision is GO


def test_a_loss_inside_the_margin_must_be_proven_for_the_number_of_comparisons():
    """One such loss of three is a no; of thirty it is what chance brings, and only says that nothing is proven."""
    base = figures(pixels=(-0.004, -0.0075, -0.0005))
    assert gate(base, GateRule(required=())).decision is GO  # one of three: not proven, and inside the margin
    alone = replace(base, differences={"pixels": base.differences["pixels"]})
    assert gate(alone, GateRule(required=())).decision is NO_GO


def covered(random=(0.08, 0.04, 0.12), pixels=(0.0, -0.02, 0.02), lost=(0.01, -0.02, 0.04), encoder=0.88):
    """Comparisons with the frame covered."""

    def compared(difference, shrunk=None):
        value, low, high = difference
        score = Score("auroc difference", value, low, high, 100)
        baseline = Score("auroc", encoder - value, 0.0, 1.0, 100)
        return Comparison(Score("auroc", encoder, 0.0, 1.0, 100), baseline, score, shrunk)

    return {"random": compared(random, Score("auroc lead lost", *lost, 100)), "pixels": compared(pixels)}


@pytest.mark.parametrize(
    ("case", "decision", "words"),
    [
        (covered(), GO, "with the frame of every image covered, too"),
        (covered(pixels=(-0.012, -0.027, 0.002)), GO, "not shown to be worse than raw pixels with the frame"),
        (covered(pixels=(-0.08, -0.12, -0.04)), NO_GO, "raw pixels only while it sees the frame"),
        (covered(random=(-0.1, -0.2, -0.01)), NO_GO, "random encoder only while it sees the frame"),
        (covered(random=(0.0, -0.005, 0.005)), NO_GO, "random encoder only while it sees the frame"),
        (covered(random=(0.01, -0.05, 0.07), lost=(0.09, 0.02, 0.16)), NO_GO, "only while it sees the frame"),
        (covered(random=(0.03, -0.01, 0.07), lost=(0.07, -0.01, 0.15)), UNDECIDED, "frame covered: auroc 0.880"),
        (covered(random=(-0.02, -0.06, 0.02), lost=(0.1, -0.01, 0.2)), UNDECIDED, "not yet told apart"),
        (covered(random=(0.0, -0.004, 0.004), encoder=0.999), GO, "not shown to be worse than the random encoder"),
    ],
)
def test_an_encoder_that_is_better_only_with_the_frame_uncovered_is_refused(case, decision, words):
    verdict = figures(covered=case).verdict
    assert verdict.decision is decision, verdict
    assert any(words in reason for reason in verdict.reasons), verdict.reasons


def test_the_shortcut_rule_can_be_left_out_and_a_go_without_evidence_says_so():
    refused = figures(covered=covered(random=(-0.1, -0.2, -0.01)))
    assert gate(refused, GateRule(shortcut=False)).decision is GO
    assert any("is not known" in reason for reason in figures().verdict.reasons)
    assert not any("is not known" in reason for reason in figures(covered=covered()).verdict.reasons)


def test_a_covered_frame_never_turns_a_no_into_a_go():
    assert figures(pixels=(-0.2, -0.3, -0.1), covered=covered()).verdict.decision is NO_GO
    assert figures(random=(0.02, -0.01, 0.05), covered=covered()).verdict.decision is UNDECIDED


def test_warnings_of_audits_are_said_and_decide_nothing_unless_the_rule_says_so():
    warned = figures(covered=covered(), warnings={"frame alone": "The data set has a shortcut."})
    assert warned.verdict.decision is GO
    assert warned.verdict.reasons[-1] == "Warning (frame alone): The data set has a shortcut."
    refusing = gate(warned, GateRule(refuse_on=("frame alone",)))
    assert refusing.decision is NO_GO
    assert "'frame alone'" in refusing.reasons[0]
    assert gate(figures(), GateRule(refuse_on=("frame alone",))).decision is GO
    unlabelled = figures(classes=(), systems={}, differences={}, warnings={"views": "Too weak."})
    assert unlabelled.verdict.decision is UNDECIDED
    assert unlabelled.verdict.reasons[-1] == "Warning (views): Too weak."


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


# --- from features to verdict -------------------------------------------------------------------------------------


def cohort(seed=0, num_patients=360, signal=1.5, labels="all"):
    """Two images a patient; the class shifts two of ten latent factors. Returns latent factors and the columns."""
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{i:04}" for i in range(num_patients)], 2)
    sick = np.repeat(rng.integers(2, size=num_patients), 2)
    roles = np.repeat(np.array(["dev", "val", "test"])[np.searchsorted([0.5, 0.7], rng.random(num_patients))], 2)
    latent = rng.normal(size=(2 * num_patients, 10))
    latent[:, :2] += signal * sick[:, None]
    truth = [None if labels == "none" else ("sick" if s else "well") for s in sick]
    return rng, latent, truth, roles, patients


def views_of(rng, latent, noise):
    """Forty features that mix the latent factors, with noise that buries them or not."""
    return latent @ rng.normal(size=(10, 40)) + noise * rng.normal(size=(len(latent), 40))


def judged(encoder_noise=0.3, random_noise=8.0, pixel_noise=3.0, resnet_noise=3.0, **cohort_changes):
    rng, latent, truth, roles, patients = cohort(**cohort_changes)
    noises = {"encoder": encoder_noise, "random": random_noise, "pixels": pixel_noise, "small_resnet": resnet_noise}
    systems = {name: views_of(rng, latent, noise) for name, noise in noises.items()}
    return Simulated(systems, truth, roles, patients)


@dataclass(frozen=True)
class Simulated:
    """Features of each system; of pixels PCA is taken, of others kNN and a linear probe; the ResNet learns from few."""

    systems: dict
    truth: list
    roles: np.ndarray
    patients: np.ndarray

    def measured(self, **arguments):
        problem = Problem.of("t", list(self.truth), list(self.roles), list(self.patients))
        probes = {
            name: {"pca": fits.pca_fit(problem, x)}
            if name == "pixels"
            else {"knn": fits.knn_fit(problem, x, name), "linear": fits.linear_fit(problem, x, name)}
            for name, x in self.systems.items()
            if name != "small_resnet"
        }
        few = {name: fits.linear_fit(problem, self.systems[name]) for name in ("encoder", "small_resnet")}
        return evaluate(problem, Systems(probes, next(iter(self.systems.values())), few), **arguments)


def test_a_good_encoder_goes():
    verdict = judged().measured().verdict
    assert verdict.decision is GO, verdict
    assert len(verdict.reasons) == 4  # three baselines, and that nothing was covered


def test_an_untrained_encoder_does_not_go_in_any_of_twelve_cohorts():
    decisions = [judged(8.0, 8.0, 8.0, seed=s).measured(num_resamples=300).verdict.decision for s in range(12)]
    assert GO not in decisions
    assert NO_GO in decisions


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
        *("covered", "warnings", "feature_std", "rankme", "verdict"),
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
