"""What an evaluation's run folder says, as far as it says it; a part of another shape costs that part only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from medssl.core.files import read_json
from medssl.evaluation.curve import Curve
from medssl.evaluation.gate import REQUIRED, By
from medssl.evaluation.problem import Kind
from medssl.evaluation.results import ENCODER, FEW
from medssl.review import grids
from medssl.review.findings import Measured, described, latest_of, measured_of, method
from medssl.review.grids import FIGURES, SYSTEMS, Grid, place
from medssl.tracking.records import RunRecord

T = TypeVar("T")
PICTURES = ("attention", "tokens", "features", "neighbours", "map-label", "map-scanner", "map-site", "reliability")


@dataclass(frozen=True)
class Verdict:
    """What the gate decided (go, no_go or undecided), why, and what the audits warn of."""

    decision: str
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audited:
    """One question that was asked of the encoder or the data, and its answer."""

    name: str
    finding: str
    warning: bool
    figures: Grid
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> tuple[str, str]:
        """A sign and words for it; an audit without a figure had nothing to go by."""
        if self.warning:
            return "!", "warning"
        return ("✓", "no warning") if self.figures.rows or self.facts else ("?", "not known")


@dataclass(frozen=True)
class Evaluated:
    """An encoder against its baselines on one task; what was not measured is empty."""

    run: RunRecord
    task: str
    kind: Kind
    method: str
    measured: tuple[Measured, ...]
    differences: tuple[Measured, ...]
    systems: Grid
    metrics: Grid
    by_class: Grid
    more_metrics: tuple[Grid, ...]
    others: Grid
    external: Grid
    domains: Grid
    covered: Grid
    few_shot: Grid
    structure: Grid
    subgroups: Grid
    audits: tuple[Audited, ...]
    curve: Curve | None
    pictures: tuple[Path, ...]
    feature_std: float | None
    rankme: float | None
    verdict: Verdict | None
    rule: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by(self) -> By:
        """What the gate judged."""
        return By(self.rule.get("by", By.PROBE))

    @property
    def judged(self) -> str:
        """The rule in a few words; empty where nobody wrote it down."""
        if not self.rule:
            return ""
        judge, rule = {By.PROBE: "the linear probe", By.FINE_TUNED: "fine-tuning"}[self.by], self.rule
        few = f"few labels: {rule['budget']} patients in {rule['draws']} draws"
        return f"by {judge}, margin {rule['margin']:g}, {few}"

    @property
    def headline(self) -> tuple[Measured, ...]:
        """The figures that decide: the encoder's by the probe that decides, its differences to the main baselines."""
        own = [m for m in self.measured if m.system == ENCODER]
        decides = FEW if self.by is By.FINE_TUNED else "linear"
        main = tuple(m for m in self.differences if m.name in REQUIRED[self.by])
        return tuple([m for m in own if m.name == decides] or own[-1:]) + (main or self.differences)


def evaluations(records: Sequence[RunRecord]) -> list[Evaluated]:
    """Return the latest evaluation of each task and method."""
    by_id = {run.id: run for run in records}
    found = []
    for run, data in described(records, "evaluate", "evaluation.json"):
        encoders = [by_id[p] for p in run.parents.values() if p in by_id and by_id[p].kind == "pretrain"]
        found.append(evaluated(run, data, method(encoders[0]) if encoders else method(run)))
    return latest_of(found, lambda one: (one.task, one.method))


def evaluated(run: RunRecord, data: Mapping[str, Any], of_method: str = "") -> Evaluated:
    """Return what ``data`` (``evaluation.json``) and the files beside it say."""
    audits, curve = _json(run.folder / "audits.json"), _json(run.folder / "curve.json")
    measured: tuple[Measured, ...] = _part(partial(_measured, run), data.get("systems"), ())
    differences: tuple[Measured, ...] = _part(partial(_measured, run), {"difference": data.get("differences")}, ())
    return Evaluated(
        run=run,
        task=str(data.get("task") or ""),
        kind=_part(Kind, data.get("kind"), Kind.CLASSES),
        method=of_method,
        measured=measured,
        differences=differences,
        systems=_part(lambda found: grids.systems(measured, differences, found), data, Grid()),
        metrics=_part(grids.metrics, data if data.get("metrics") else None, Grid()),
        by_class=_part(grids.by_class, data.get("by_class"), Grid()),
        more_metrics=_part(grids.more_metrics, data if data.get("metrics") else None, ()),
        others=_part(grids.others, data.get("others"), Grid()),
        external=_part(grids.external, data.get("external"), Grid()),
        domains=_part(grids.domains, data.get("domains"), Grid()),
        covered=_part(grids.covered, data.get("covered") or audits.get("covered"), Grid()),
        few_shot=_part(grids.few_shot, data.get("few_shot"), Grid()),
        structure=_part(grids.structure, data.get("structure"), Grid()),
        subgroups=_part(grids.subgroups, data.get("subgroups"), Grid()),
        audits=_part(_audits, audits.get("audits"), ()),
        curve=_part(Curve.from_json, curve, None),
        pictures=_pictures(run.folder / "pictures"),
        feature_std=data.get("feature_std"),
        rankme=data.get("rankme"),
        verdict=_part(_verdict, data.get("verdict"), None),
        rule=_part(_rule, data.get("rule"), {}),
    )


def _part(read: Callable[[Any], T], data: Any, otherwise: T) -> T:
    """Return what ``read`` makes of ``data``, or ``otherwise`` where there is none or it has another shape."""
    try:
        return read(data) if data else otherwise
    except (AttributeError, KeyError, TypeError, ValueError):
        return otherwise


def _measured(run: RunRecord, systems: Mapping[str, Any]) -> tuple[Measured, ...]:
    """Return scores in the order in which systems, and of a system its probes, are shown."""

    def order(found: Measured) -> tuple[int, int]:
        is_difference = found.system == "difference"
        return (
            (place(found.name, SYSTEMS), 0)
            if is_difference
            else (place(found.system, SYSTEMS), place(found.name, FIGURES))
        )

    return tuple(sorted(measured_of(systems, run), key=order))


def _rule(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the rule, if it says what `Evaluated.judged` reads."""
    return {**said, "by": By(said["by"]), **{name: said[name] + 0 for name in ("margin", "budget", "draws")}}


def _verdict(said: Mapping[str, Any]) -> Verdict:
    reasons = [str(reason) for reason in said.get("reasons") or ()]
    warned = [reason for reason in reasons if reason.startswith("Warning (")]
    return Verdict(str(said["decision"]), tuple(r for r in reasons if r not in warned), tuple(warned))


def _audits(data: Sequence[Mapping[str, Any]]) -> tuple[Audited, ...]:
    """Return the audits, those that warn first."""
    found = [
        Audited(
            str(audit["name"]),
            str(audit["finding"]),
            bool(audit.get("warning")),
            grids.scores(audit.get("scores") or {}),
            dict(audit.get("facts") or {}),
        )
        for audit in data
    ]
    return tuple(sorted(found, key=lambda audit: not audit.warning))


def _pictures(folder: Path) -> tuple[Path, ...]:
    known = [folder / f"{stem}.png" for stem in PICTURES]
    others = sorted(set(folder.glob("*.png")) - {*known, folder / "curve.png"})  # the curve is drawn with its figures
    return tuple(path for path in (*known, *others) if path.is_file())


def _json(path: Path) -> Mapping[str, Any]:
    with suppress(FileNotFoundError, ValueError):
        data = read_json(path)
        return data if isinstance(data, Mapping) else {}
    return {}
