"""A gate that can say no: the rule by which an evaluation lets an encoder pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from medssl.core.config import Config
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation.advice import Asked, advice_on
from medssl.evaluation.judge import surely_above
from medssl.evaluation.metrics import metric_named
from medssl.evaluation.problem import Kind

if TYPE_CHECKING:
    from medssl.evaluation.results import Comparison, Evaluation

NAMES = {
    "random": "the random encoder",
    "pixels": "raw pixels",
    "scratch": "the same network from scratch",
    "small_resnet": "a small ResNet from scratch",
    "pixels_few": "raw pixels, both with few labels",
    "frame": "the frame of the image alone",
    "corners": "the corners of the image alone",
    "thumbnail": "a 4 x 4 thumbnail",
}


class By(StrEnum):
    """What an encoder is judged by: a linear probe of its features, or itself, fine-tuned."""

    PROBE = "probe"
    FINE_TUNED = "fine_tuned"


FROM_SCRATCH = frozenset({"scratch", "small_resnet"})
UNTAUGHT = {By.PROBE: "random", By.FINE_TUNED: "scratch"}  # what pretraining must be shown to have improved
REQUIRED = {By.PROBE: ("random", "pixels", "small_resnet"), By.FINE_TUNED: ("scratch", "pixels_few", "small_resnet")}
UNCOVERED = (
    "Whether the encoder needs the border of the image is not known: nothing was compared with it covered "
    "(evaluation.audit.images says of how many images that is asked; gate.shortcut: false decides without)."
)


class GateRule(Config):
    """What an encoder must show; ``margin`` is the smallest difference of the metric that matters.

    Errors in the unit of the labels (MAE) are taken as a share of what a constant guess has; covered comparisons of
    numbers are of R², which has no unit.

    ``by`` says what is judged: the encoder's linear probe, which must improve on that of the untrained encoder; or the
    fine-tuned encoder, which must improve on the same network from scratch, and is compared with few labels alone.

    Learning from scratch is compared with at the labels of ``budget`` dev patients, drawn ``draws`` times. Without a
    comparison with each of ``required`` (those of ``REQUIRED`` without) there is no decision; networks learn classes
    alone, so for other labels none from scratch is asked for, and the verdict says so. With ``shortcut``, an encoder
    that is better than the untaught one only while it sees the border of the image is refused. Audits named in
    ``refuse_on`` refuse an encoder when they warn; the warnings of others are said, and decide nothing.
    """

    by: By = By.PROBE
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.01
    ceiling: Annotated[float, Field(gt=0, le=1)] = 0.995
    min_test_patients: Annotated[int, Field(ge=1)] = 20
    min_test_patients_per_class: Annotated[int, Field(ge=1)] = 5
    budget: Annotated[int, Field(ge=2)] = 100
    draws: Annotated[int, Field(ge=1)] = 5
    min_feature_std: Annotated[float, Field(ge=0)] = 0.01
    min_rankme: Annotated[float, Field(ge=1)] = 2.0
    required: tuple[str, ...] | None = None
    shortcut: bool = True
    refuse_on: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """The baselines without which there is no decision."""
        return REQUIRED[self.by] if self.required is None else self.required


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
    2. **Labels missing**: ``undecided``, saying what is missing and how many.
    3. Each baseline is compared by the paired patient bootstrap of encoder minus baseline (linear probes; fine-tuning
       with few labels where the baseline learns from scratch). ``no_go`` as soon as one comparison says no, ``go`` when
       all say yes, else ``undecided``:

       - *no*: the loss is proven (even one inside the margin); a loss that may be chance is *undecided*, which says
         how many patients (where few labels are drawn, also draws) would settle it;
       - *untaught encoder* (the random one; scratch where the fine-tuned encoder is judged), *yes*: the whole interval
         is above 0 (superior: pretraining did something), or both are at the ceiling and the interval is above minus
         the margin (nothing was left to win);
       - *untaught encoder, no*: otherwise, below the ceiling, the whole interval is below the margin (shown to be as
         good as no pretraining);
       - *any other baseline, yes*: the whole interval is above minus the margin (non-inferior).

       A required baseline that is missing says neither yes nor no.
    4. **Shortcut**: the same with the border of every image (frame and corners) covered, where an audit compared that.
       A covered image is strange to an encoder, which costs it a little, and nothing to a baseline that learns it anew.
       So a *no* is a loss proven to be more than the margin, shown to be as good as no pretraining, or a lead over the
       untaught encoder that is proven to have shrunk by half or more and is not above 0 any longer; *yes* is to be
       superior to the untaught encoder, and no *no* beside others. Where nothing was compared so, ``go`` is not said.
    5. An audit of ``refuse_on`` that warns turns ``go`` into ``no_go``.

    Several comparisons: ``go`` needs every one of them, so no number of baselines makes a false ``go`` likelier than
    the 2.5 % of a single one (an intersection-union test; Berger, Technometrics 1982). A single *no* is enough for
    ``no_go``, so the loss that counts as proven has an interval widened by Bonferroni for the number of comparisons.
    """
    collapsed = _collapse(evaluation, rule)
    if collapsed:
        return Verdict(Decision.NO_GO, collapsed)
    missing = _missing(evaluation, rule)
    warned = tuple(f"Warning ({name}): {sentence}" for name, sentence in evaluation.warnings.items())
    if missing:
        return Verdict(Decision.UNDECIDED, (*missing, *warned))
    covered = evaluation.covered if rule.shortcut else {}
    findings = _compared(evaluation, covered, rule)
    findings += [
        Verdict(Decision.NO_GO, (f"The rule refuses an encoder of which the audit {name!r} warns.",))
        for name in rule.refuse_on
        if name in evaluation.warnings
    ]
    learns = evaluation.kind in (Kind.CLASSES, Kind.ORDINAL)
    required = [name for name in rule.needed if learns or name not in FROM_SCRATCH]
    absent = [_named(name) for name in required if name not in evaluation.differences]
    if absent:
        findings.append(Verdict(Decision.UNDECIDED, (f"The encoder was not compared with {' and '.join(absent)}.",)))
    said = {f.decision for f in findings} or {Decision.UNDECIDED}
    decision = next(d for d in (Decision.NO_GO, Decision.UNDECIDED, Decision.GO) if d in said)
    if decision is Decision.GO and rule.shortcut and not covered:
        decision, findings = Decision.UNDECIDED, [Verdict(Decision.UNDECIDED, (UNCOVERED,))]
    reasons = tuple(reason for f in findings if f.decision is decision for reason in f.reasons)
    if decision is Decision.GO and not learns:
        reasons += (f"Networks learn classes alone: no one from scratch stands beside it on {evaluation.kind} labels.",)
    return Verdict(decision, (*reasons, *warned))


def _compared(evaluation: Evaluation, covered: Mapping[str, Comparison], rule: GateRule) -> list[Verdict]:
    """Judge every comparison, then those with the border covered."""
    names = [name for name in evaluation.differences if rule.by is By.PROBE or evaluation.is_of_few(name)]
    judged = {name: evaluation.comparison(name) for name in names}
    num = len(judged) + len(covered)

    def asked(name: str, found: Comparison) -> Asked:
        top = _at_ceiling(found, rule)
        leads = name == UNTAUGHT[rule.by] and not top
        return Asked(name, rule.margin * found.unit, num, top, leads, _who(evaluation, rule))

    plain = {name: _compare(asked(name, found), found) for name, found in judged.items()}
    leads = {name for name, verdict in plain.items() if verdict.decision is Decision.GO}
    return [
        *plain.values(),
        *(_compare_covered(asked(name, found), found, led=name in leads) for name, found in covered.items()),
    ]


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
    has_classes = evaluation.kind in (Kind.CLASSES, Kind.ORDINAL)
    if evaluation.kind is not Kind.REGRESSION and len(evaluation.classes) < (2 if has_classes else 1):
        found = f"only the class {evaluation.classes[0]!r}" if evaluation.classes else "none"
        wanted = "Labels of at least two classes are" if has_classes else "A finding is"
        return (f"{wanted} needed for {evaluation.task!r}, found {found}.",)
    for name in counts[Role.DEV]:
        what = f"Class {name!r}" if name else f"The task {evaluation.task!r}"
        if not counts[Role.DEV][name]:
            reasons.append(f"{what} has no labelled dev patient to train a probe on: 1 is missing.")
        given, needed = counts[Role.TEST][name], rule.min_test_patients_per_class
        if given < needed and name:
            reasons.append(f"{what} has {given} labelled test patients of {needed}: {needed - given} missing.")
    given, needed = evaluation.num_test_patients, rule.min_test_patients
    if given < needed:
        reasons.append(f"There are {given} labelled test patients of the {needed} needed: {needed - given} missing.")
    return tuple(reasons)


def _named(baseline: str) -> str:
    return NAMES.get(baseline, f"the baseline {baseline!r}")


def _compare(asked: Asked, found: Comparison) -> Verdict:
    difference, other = found.difference, _named(asked.name)
    needed = 0.0 if asked.leads else -asked.margin
    if _lost(difference, asked.num):
        decision, finding = Decision.NO_GO, "is worse than"
    elif difference.low > needed:
        at_least = "is at the ceiling, as is" if asked.top else f"is not worse (by {asked.margin:.3g}) than"
        decision, finding = Decision.GO, "is better than" if needed == 0 else at_least
    elif asked.leads and difference.high < asked.margin:
        decision, finding = Decision.NO_GO, f"is no better (by {asked.margin:.3g}) than"
    else:
        decision, finding = Decision.UNDECIDED, "is not yet told apart from"
    advice = advice_on(asked, found, needed) if decision is Decision.UNDECIDED else ""
    return Verdict(decision, (f"{asked.who} {finding} {other}: {_figures(found)}.{advice}",))


def _who(evaluation: Evaluation, rule: GateRule) -> str:
    """Return what the rule judges, and what it learnt from."""
    if rule.by is By.PROBE:
        return "The encoder"
    most = sum(evaluation.class_patients[Role.DEV].values())
    labels = f"the labels of {rule.budget} patients" if rule.budget < most else "all labels"
    return f"The encoder, fine-tuned with {labels} ({rule.draws} draws),"


def _compare_covered(asked: Asked, found: Comparison, *, led: bool) -> Verdict:
    """Judge a comparison made with the border covered; ``led``: whether the encoder passed with it in sight."""
    difference, other = found.difference, _named(asked.name)
    no_better = asked.leads and difference.high < asked.margin
    vanished = asked.leads and found.vanished
    if _lost(difference, asked.num, by=asked.margin) or no_better or vanished:
        decision = Decision.NO_GO
        finding = f"holds its own against {other} only while it sees the border of the image; with it covered"
        if not led:
            finding = f"is no better than {other} with the border of every image covered, either"
    elif difference.low > 0 or not asked.leads:
        how = "is better than" if difference.low > 0 else "is not shown to be worse than"
        decision, finding = Decision.GO, f"{how} {other} with the border of every image covered, too"
    else:
        decision, finding = Decision.UNDECIDED, f"is not yet told apart from {other} with the border covered"
    advice = advice_on(asked, found, 0.0, by=asked.margin) if decision is Decision.UNDECIDED else ""
    return Verdict(decision, (f"{asked.who} {finding}: {_figures(found)}.{advice}",))


def _at_ceiling(found: Comparison, rule: GateRule) -> bool:
    both = min(found.encoder.value, found.baseline.value)
    return metric_named(found.encoder.metric).higher_is_better and both >= rule.ceiling


def _lost(difference: Score, num: int, by: float = 0.0) -> bool:
    """Return whether a loss of more than ``by`` is proven, of ``num`` comparisons."""
    loss = replace(difference, value=-difference.value, low=-difference.high, high=-difference.low)
    return surely_above(loss, by, num)


def _figures(found: Comparison) -> str:
    difference = found.difference
    return (
        f"{found.encoder.metric} {found.encoder.value:.3f} against {found.baseline.value:.3f}, difference "
        f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] at {difference.level:.0%} over "
        f"{difference.n} test patients"
    )
