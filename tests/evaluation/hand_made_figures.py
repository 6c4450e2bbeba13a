"""Figures of an evaluation made by hand, for the rule that decides on them."""

from dataclasses import replace

from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation.gate import GateRule
from medssl.evaluation.results import Comparison, Evaluation


def figures(
    random=(0.1, 0.05, 0.15),
    pixels=(0.05, 0.01, 0.09),
    small_resnet=(0.02, 0.0, 0.04),
    encoder=0.9,
    num=100,
    metric="auroc",
    **changes,
):
    """An evaluation whose differences are (value, low, high)."""

    def score(value, low=0.0, high=1.0, name=metric):
        return Score(name, value, low, high, num)

    base = Evaluation(
        task="pneumonia",
        metric=metric,
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
            name: score(*difference, f"{metric} difference")
            for name, difference in {"random": random, "pixels": pixels, "small_resnet": small_resnet}.items()
        },
        feature_std=0.5,
        rankme=40.0,
        rule=GateRule(shortcut="covered" in changes),  # without audits nothing is covered
    )
    return replace(base, **changes)


def covered(random=(0.08, 0.04, 0.12), pixels=(0.0, -0.02, 0.02), lost=(0.01, -0.02, 0.04), encoder=0.88):
    """Comparisons with the border covered."""

    def compared(difference, shrunk=None):
        value, low, high = difference
        score = Score("auroc difference", value, low, high, 100)
        baseline = Score("auroc", encoder - value, 0.0, 1.0, 100)
        return Comparison(Score("auroc", encoder, 0.0, 1.0, 100), baseline, score, shrunk)

    return {"random": compared(random, Score("auroc lead lost", *lost, 100)), "pixels": compared(pixels)}
