"""What the run folders say about each step of a study, as far as they say it; a missing file leaves its part out."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from medssl.core.files import read_json
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.tracking.records import RunRecord, decode

T = TypeVar("T")
COUNTED = ("patients", "studies", "volumes")
SCORE_FIELDS = {field.name for field in fields(Score)}


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
class Ranked:
    """A worklist: its rows as they were written, and its contact sheet."""

    run: RunRecord
    rows: tuple[Mapping[str, str], ...]
    sheet: Path | None


def pools(records: Sequence[RunRecord]) -> list[PoolFound]:
    """Return the pool of the latest ingest that described it (none or one)."""
    found = []
    for run, data in described(records, "ingest", "pool_info.json"):
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
        Trained(run, method(run), latest_pictures(run.folder / "pictures"))
        for run in records
        if run.kind in ("pretrain", "pretext") and run.metrics
    ]
    return latest_of(found, lambda trained: (trained.run.kind, trained.method))


def latest_pictures(folder: Path) -> tuple[Path, ...]:
    """Return the last of ``<kind>-<step>.png`` for each kind, those that the run began with first."""
    last = {path.stem.partition("-")[0]: path for path in sorted(folder.glob("*.png"))}
    return tuple(sorted(last.values(), key=lambda path: ("-" in path.stem, path.name)))


def worklists(records: Sequence[RunRecord]) -> list[Ranked]:
    """Return the latest worklist (none or one)."""
    found = []
    for run in records:
        path, sheet = run.folder / "worklist.csv", run.folder / "contact_sheet.png"
        if run.kind == "select" and path.is_file():
            with path.open(newline="", encoding="utf-8") as handle:
                found.append(Ranked(run, tuple(csv.DictReader(handle)), sheet if sheet.is_file() else None))
    return found[-1:]


def method(run: RunRecord) -> str:
    """Return the name of the method in a run's resolved study, or nothing."""
    named = run.params.get("method")
    return str(named.get("name", "") if isinstance(named, Mapping) else named or "")


def described(records: Sequence[RunRecord], kind: str, name: str) -> list[tuple[RunRecord, dict[str, Any]]]:
    """Return the runs of ``kind`` that left a readable file ``name``, with what it holds."""
    found = []
    for run in records:
        if run.kind == kind:
            with suppress(FileNotFoundError, ValueError):
                found.append((run, read_json(run.folder / name)))
    return found


def measured_of(systems: Any, run: RunRecord) -> list[Measured]:
    """Flatten system → name → score, or system → score, as it stands in a run's JSON."""
    found = []
    for system, named in (systems or {}).items():
        if score_of(named):
            named = {named["metric"]: named}
        scores = {name: score_of(data) for name, data in (named or {}).items()}
        found += [Measured(system, name, score, run.id) for name, score in scores.items() if score]
    return found


def score_of(data: Any) -> Score | None:
    """Return the score that JSON holds, if it is one."""
    if not isinstance(data, Mapping) or not {"metric", "value", "low", "high", "n"} <= set(data):
        return None
    score = decode({name: data[name] for name in data if name in SCORE_FIELDS})
    return score if isinstance(score, Score) else None


def _counts(data: Any) -> dict[str, int]:
    """Return name → number, with the roles in their order and other names by number."""
    if not isinstance(data, Mapping):
        return {} if data is None else {"all": int(data)}
    roles = [str(role) for role in Role]
    order = sorted(data, key=lambda name: (roles.index(name) if name in roles else len(roles), -data[name], name))
    return {str(name): int(data[name]) for name in order}


def latest_of(found: Sequence[T], key: Callable[[T], Any]) -> list[T]:
    """Keep the last of ``found`` for each key, the newest first."""
    newest: dict[Any, T] = {}
    for item in reversed(found):
        newest.setdefault(key(item), item)
    return list(newest.values())
