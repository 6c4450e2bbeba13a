"""A gate that can say no: the rule by which an evaluation lets an encoder pass."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from medssl.core.config import Config
from medssl.core.score import Score
from medssl.core.types import Role

if TYPE_CHECKING:
    from medssl.evaluation.results import Evaluation

NAMES = {"random": "the random encoder", "pixels": "raw pixels"}
REQUIRED = ("random", "pixels")


class GateRule(Config):
    """What an encoder must show; ``margin`` is the smallest difference of the metric that matters.

    Learning from scratch is compared with at the labels of ``budget`` dev patients, drawn ``draws`` times.
    """

    margin: Annotated[float, Field(ge=0, lt=1)] = 0.01
    ceiling: Annotated[float, Field(gt=0, le=1)] = 0.995
    min_test_patients: Annotated[int, Field(ge=1)] = 20
    min_test_patients_per_class: Annotated[int, Field(ge=1)] = 5
    budget: Annotated[int, Field(ge=2)] = 100
    draws: Annotated[int, Field(ge=1)] = 3
    min_feature_std: Annotated[float, Field(ge=0)] = 0.01
    min_rankme: Annotated[float, Field(ge=1)] = 2.0


class Decision(StrEnum):
    """What the gate says."""

    GO = "go"
    NO_GO = "no_go"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdict:
    """A decision and the sentences that led to it."""

    decision: Decision
    reasons: tuple[str, ...]


def gate(evaluation: Evaluation, rule: GateRule) -> Verdict:
    """Judge an encoder; the first of these that applies decides.

    1. **Collapsed** (feature std or RankMe below its minimum): ``no_go``, labels or not.
    2. **Labels or a baseline missing**: ``undecided``, saying what is missing and how many.
    3. Each baseline is compared by the paired patient bootstrap of linear probe minus baseline.
       ``no_go`` as soon as one comparison says no, ``go`` when all say yes, else ``undecided``:

       - *no*: the whole interval is below 0 (a proven loss is a loss, even one inside the margin), or the point
         estimate is below minus the margin (a likely loss that matters is not for the user to discover later);
       - *random encoder, yes*: the whole interval is above 0 (superior: pretraining did something), or both probes
         are at the ceiling and the interval is above minus the margin (nothing was left to win);
       - *random encoder, no*: otherwise, below the ceiling, the whole interval is below the margin (shown to be as
         good as no pretraining);
       - *pixels and any other baseline, yes*: the whole interval is above minus the margin (non-inferior).
    """
    collapsed = _collapse(evaluation, rule)
    if collapsed:
        return Verdict(Decision.NO_GO, collapsed)
    missing = _missing(evaluation, rule)
    if missing:
        return Verdict(Decision.UNDECIDED, missing)
    findings = [_compare(evaluation, name, rule) for name in evaluation.differences]
    said = {f.decision for f in findings}
    decision = next(d for d in (Decision.NO_GO, Decision.UNDECIDED, Decision.GO) if d in said)
    return Verdict(decision, tuple(reason for f in findings if f.decision is decision for reason in f.reasons))


def _collapse(evaluation: Evaluation, rule: GateRule) -> tuple[str, ...]:
    reasons = []
    if evaluation.feature_std < rule.min_feature_std:
        reasons.append(
            f"The representation is collapsed: its feature std is {evaluation.feature_std:.4f} (1 is spread out), "
            f"below {rule.min_feature_std:g}; all images map to almost one point."
        )
    if evaluation.rankme < rule.min_rankme:
        reasons.append(
            f"The representation is collapsed: its effective rank (RankMe) is {evaluation.rankme:.2f}, "
            f"below {rule.min_rankme:g}."
        )
    return tuple(reasons)


def _missing(evaluation: Evaluation, rule: GateRule) -> tuple[str, ...]:
    counts, reasons = evaluation.class_patients, []
    if len(evaluation.classes) < 2:
        found = f"only the class {evaluation.classes[0]!r}" if evaluation.classes else "none"
        return (f"Labels of at least two classes are needed for {evaluation.task!r}, found {found}.",)
    for name in evaluation.classes:
        if not counts[Role.DEV][name]:
            reasons.append(f"Class {name!r} has no labelled dev patient to train a probe on: 1 is missing.")
        given, needed = counts[Role.TEST][name], rule.min_test_patients_per_class
        if given < needed:
            reasons.append(f"Class {name!r} has {given} labelled test patients of {needed}: {needed - given} missing.")
    given, needed = evaluation.num_test_patients, rule.min_test_patients
    if given < needed:
        reasons.append(f"There are {given} labelled test patients of the {needed} needed: {needed - given} missing.")
    absent = [NAMES[name] for name in REQUIRED if name not in evaluation.differences]
    if absent and not reasons:
        reasons.append(f"The encoder was not compared with {' and '.join(absent)}.")
    return tuple(reasons)


def _compare(evaluation: Evaluation, name: str, rule: GateRule) -> Verdict:
    difference, baseline = evaluation.differences[name], evaluation.deciding(name)
    encoder = evaluation.deciding("encoder")
    top = min(encoder.value, baseline.value) >= rule.ceiling
    needed = 0.0 if name == "random" and not top else -rule.margin
    proven = difference.low > needed
    if difference.high < 0 or difference.value < -rule.margin:
        decision, finding = Decision.NO_GO, "is worse than"
    elif proven and needed == 0:
        decision, finding = Decision.GO, "is better than"
    elif proven:
        decision, finding = (
            Decision.GO,
            "is at the ceiling, as is" if top else f"is not worse (by {rule.margin:g}) than",
        )
    elif name == "random" and not top and difference.high < rule.margin:
        decision, finding = Decision.NO_GO, f"is no better (by {rule.margin:g}) than"
    else:
        decision, finding = Decision.UNDECIDED, "is not yet told apart from"
    advice = _advice(difference, needed) if decision is Decision.UNDECIDED else ""
    other = NAMES.get(name, f"the baseline {name!r}")
    return Verdict(decision, (f"The encoder {finding} {other}: {_figures(encoder, baseline, difference)}.{advice}",))


def _figures(encoder: Score, baseline: Score, difference: Score) -> str:
    return (
        f"{encoder.metric} {encoder.value:.3f} against {baseline.value:.3f}, difference {difference.value:+.3f} "
        f"[{difference.low:+.3f}, {difference.high:+.3f}] at {difference.level:.0%} over {difference.n} test patients"
    )


def _advice(difference: Score, needed: float) -> str:
    """Say how many test patients would settle a difference of this size; an interval narrows with their root."""
    slack = difference.value - needed
    if slack <= 0:
        return ""
    patients = difference.n * ((difference.value - difference.low) / slack) ** 2
    if patients > 100 * difference.n:
        return ""
    return f" About {ceil(patients / 10) * 10} labelled test patients would settle a difference of this size."
