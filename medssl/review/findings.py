"""What the run folders say about each step of a study, as far as they say it; a missing file leaves its part out."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medssl.core.files import read_json
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.tracking.records import RunRecord, decode

T = TypeVar("T")
COUNTED = ("patients", "studies", "volumes")


@dataclass(frozen=True)
class Measured:
    """One performance figure: whose (a system or a comparison), by which probe or under which name, from which run."""

    system: str
    name: str
    score: Score
    run: str


@dataclass(frozen=True)
class Outcome:
    """How many input files ended alike."""

    outcome: str
    reason: str
    count: int


@dataclass(frozen=True)
class PoolFound:
    """A pool after its latest ingest: ``counts`` maps patients, studies and volumes to numbers by role."""

    run: RunRecord
    counts: Mapping[str, Mapping[str, int]]
    modalities: Mapping[str, int]
    outcomes: tuple[Outcome, ...]
    fingerprint: str

    @property
    def num_files(self) -> int:
        """How many input files the pool accounts for."""
        return sum(outcome.count for outcome in self.outcomes)


@dataclass(frozen=True)
class Trained:
    """A pretraining or pretext run with its method and the latest picture of each kind."""

    run: RunRecord
    method: str
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class Verdict:
    """What the gate decided (go, no_go or undecided), and why."""

    decision: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Evaluated:
    """An encoder against its baselines on one task."""

    run: RunRecord
    task: str
    method: str
    classes: tuple[str, ...]
    num_train: int | None
    measured: tuple[Measured, ...]
    differences: tuple[Measured, ...]
    feature_std: float | None
    rankme: float | None
    verdict: Verdict | None

    @property
    def headline(self) -> tuple[Measured, ...]:
        """The figures that decide: the encoder's last probe, then its differences to the baselines."""
        return tuple(m for m in self.measured if m.system == "encoder")[-1:] + self.differences


@dataclass(frozen=True)
class Ranked:
    """A worklist: its rows as they were written, and its contact sheet."""

    run: RunRecord
    rows: tuple[Mapping[str, str], ...]
    sheet: Path | None


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model's scores on one task, and those of its baseline."""

    run: RunRecord
    task: str
    measured: tuple[Measured, ...]
    differences: tuple[Measured, ...]


def pools(records: Sequence[RunRecord]) -> list[PoolFound]:
    """Return the pool of the latest ingest that described it (none or one)."""
    found = []
    for run, data in _described(records, "ingest", "pool_info.json"):
        counts = {name: _counts(data.get(name)) for name in COUNTED if data.get(name)}
        outcomes = [
            Outcome(str(o.get("outcome", "")), str(o.get("reason") or ""), int(o.get("count", 0)))
            for o in data.get("outcomes", [])
        ]
        outcomes.sort(key=lambda o: (o.outcome != "stored", -o.count))
        modalities = _counts(data.get("modalities"))
        found.append(PoolFound(run, counts, modalities, tuple(outcomes), str(data.get("fingerprint", ""))))
    return found[-1:]


def trainings(records: Sequence[RunRecord]) -> list[Trained]:
    """Return the latest pretraining and pretext run of each method."""
    found = [
        Trained(run, method(run), _latest_pictures(run.folder / "pictures"))
        for run in records
        if run.kind in ("pretrain", "pretext") and run.metrics
    ]
    return _latest(found, lambda trained: (trained.run.kind, trained.method))


def _latest_pictures(folder: Path) -> tuple[Path, ...]:
    """Return the last of ``<kind>-<step>.png`` for each kind, those that the run began with first."""
    last = {path.stem.partition("-")[0]: path for path in sorted(folder.glob("*.png"))}
    return tuple(sorted(last.values(), key=lambda path: ("-" in path.stem, path.name)))


def evaluations(records: Sequence[RunRecord]) -> list[Evaluated]:
    """Return the latest evaluation of each task and method."""
    by_id = {run.id: run for run in records}
    found = []
    for run, data in _described(records, "evaluate", "evaluation.json"):
        encoders = [by_id[p] for p in run.parents.values() if p in by_id and by_id[p].kind == "pretrain"]
        verdict = data.get("verdict")
        evaluated = Evaluated(
            run=run,
            task=str(data.get("task") or ""),
            method=method(encoders[0]) if encoders else method(run),
            classes=tuple(map(str, data.get("classes") or [])),
            num_train=data.get("num_train"),
            measured=tuple(_measured(data.get("systems"), run)),
            differences=tuple(_measured({"difference": data.get("differences")}, run)),
            feature_std=data.get("feature_std"),
            rankme=data.get("rankme"),
            verdict=Verdict(verdict["decision"], tuple(verdict.get("reasons", ()))) if verdict else None,
        )
        found.append(evaluated)
    return _latest(found, lambda evaluated: (evaluated.task, evaluated.method))


def worklists(records: Sequence[RunRecord]) -> list[Ranked]:
    """Return the latest worklist (none or one)."""
    found = []
    for run in records:
        path, sheet = run.folder / "worklist.csv", run.folder / "contact_sheet.png"
        if run.kind == "select" and path.is_file():
            with path.open(newline="", encoding="utf-8") as handle:
                found.append(Ranked(run, tuple(csv.DictReader(handle)), sheet if sheet.is_file() else None))
    return found[-1:]


def finetunings(records: Sequence[RunRecord]) -> list[Finetuned]:
    """Return the latest fine-tuned model of each task."""
    found = []
    for run, data in _described(records, "finetune", "finetune.json"):
        systems = {"model": data.get("scores"), "baseline": data.get("baseline")}
        names = list(data.get("scores") or {})
        measured = sorted(_measured(systems, run), key=lambda m: names.index(m.name) if m.name in names else len(names))
        differences = tuple(_measured({"difference": data.get("differences")}, run))
        found.append(Finetuned(run, str(data.get("task") or ""), tuple(measured), differences))
    return _latest(found, lambda tuned: tuned.task)


def method(run: RunRecord) -> str:
    """Return the name of the method in a run's resolved study, or nothing."""
    named = run.params.get("method")
    return str(named.get("name", "") if isinstance(named, Mapping) else named or "")


def _described(records: Sequence[RunRecord], kind: str, name: str) -> list[tuple[RunRecord, dict[str, Any]]]:
    """Return the runs of ``kind`` that left a readable file ``name``, with what it holds."""
    found = []
    for run in records:
        if run.kind == kind:
            with suppress(FileNotFoundError, ValueError):
                found.append((run, read_json(run.folder / name)))
    return found


def _measured(systems: Any, run: RunRecord) -> list[Measured]:
    """Flatten system → name → score, or system → score, as it stands in a run's JSON."""
    found = []
    for system, named in (systems or {}).items():
        if _is_score(named):
            named = {named["metric"]: named}
        for name, data in (named or {}).items():
            if _is_score(data):
                score = decode(data)
                found.extend([Measured(system, name, score, run.id)] if isinstance(score, Score) else [])
    return found


def _is_score(data: Any) -> bool:
    return isinstance(data, Mapping) and {"metric", "value", "low", "high", "n"} <= set(data)


def _counts(data: Any) -> dict[str, int]:
    """Return name → number, with the roles in their order and other names by number."""
    if not isinstance(data, Mapping):
        return {} if data is None else {"all": int(data)}
    roles = [str(role) for role in Role]
    order = sorted(data, key=lambda name: (roles.index(name) if name in roles else len(roles), -data[name], name))
    return {str(name): int(data[name]) for name in order}


def _latest(found: Sequence[T], key: Callable[[T], Any]) -> list[T]:
    """Keep the last of ``found`` for each key, the newest first."""
    newest: dict[Any, T] = {}
    for item in reversed(found):
        newest.setdefault(key(item), item)
    return list(newest.values())
