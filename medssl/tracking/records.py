"""What a run's journal says when it is read back: parameters, metrics over steps, scores, notes, outcome."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from medssl.core.errors import RunError
from medssl.core.progress import stderr
from medssl.core.score import Score

JOURNAL = "journal.jsonl"
UNFINISHED = "unfinished"  # still running, or killed before it could say more


@dataclass(frozen=True)
class Artifact:
    """A file of a run: ``path`` inside the run folder, ``folder`` in the tracking store."""

    path: str
    folder: str = ""


@dataclass(frozen=True)
class RunRecord:
    """One run. ``status`` is finished, failed, preempted or unfinished.

    ``ended`` is when the journal was last written; ``seconds`` leaves out the pauses before a resume.
    ``metrics`` maps a name to its ``(step, value)`` pairs by step; ``scores`` holds the latest `Score` of each name.
    """

    id: str
    kind: str
    study: str
    status: str
    params: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    parents: Mapping[str, str]
    started: datetime
    ended: datetime
    seconds: float
    metrics: Mapping[str, tuple[tuple[int, float], ...]]
    scores: Mapping[str, Score]
    notes: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    summary: Mapping[str, float | str | Score]
    folder: Path


def read_run(folder: Path) -> RunRecord:
    """Read one run folder.

    Raises:
        RunError: no journal, or its first line does not say which run this is.
    """
    lines, _, num_damaged = read_lines(folder)
    if not lines or lines[0]["type"] != "start":
        raise RunError(f"run {folder.name}: {JOURNAL} is missing or has lost its first line")
    start = lines[0]
    values = _values(lines)
    end = [line for line in lines if line["type"] in ("start", "resume", "finish")][-1]
    summary = {k: decode(v) for k, v in end.get("summary", {}).items()}
    latest_values = {name: steps[max(steps)] for name, steps in values.items()} | summary
    notes = [line["text"] for line in lines if line["type"] == "note"]
    artifacts = {line["path"]: Artifact(line["path"], line["folder"]) for line in lines if line["type"] == "artifact"}
    return RunRecord(
        **{k: start[k] for k in ("id", "kind", "study", "params", "fingerprints", "parents")},
        status=end.get("status", UNFINISHED),
        started=datetime.fromisoformat(start["time"]),
        ended=datetime.fromisoformat(lines[-1]["time"]),
        seconds=_seconds(lines),
        metrics={name: tuple((s, _number(steps[s])) for s in sorted(steps)) for name, steps in values.items()},
        scores={name: value for name, value in latest_values.items() if isinstance(value, Score)},
        notes=(*notes, *([f"damaged journal lines skipped: {num_damaged}"] if num_damaged else [])),
        artifacts=tuple(artifacts.values()),
        summary=summary,
        folder=folder,
    )


def read_runs(workspace: Path) -> list[RunRecord]:
    """Read every run of ``workspace``, oldest first; a damaged one is skipped and named on stderr."""
    records = []
    for folder in sorted(p for p in (workspace / "runs").glob("*") if p.is_dir()):
        try:
            records.append(read_run(folder))
        except (RunError, KeyError, TypeError, ValueError):
            stderr.print(f"run {folder.name}: its {JOURNAL} cannot be read, skipped", style="yellow", soft_wrap=True)
    return sorted(records, key=lambda record: (record.started, record.id))


def latest(workspace: Path, kind: str, *fingerprints: tuple[str, str]) -> RunRecord | None:
    """Return the latest finished run of ``kind`` that carries all these ``(name, value)`` fingerprints, if any."""
    fit = (r for r in reversed(read_runs(workspace)) if r.kind == kind and r.status == "finished")
    return next((r for r in fit if all(r.fingerprints.get(name) == value for name, value in fingerprints)), None)


def read_lines(folder: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int, int]:
    """Return the whole journal lines from byte ``offset``, the byte after them, and how many were damaged.

    A last line without its newline is still being written, or torn by a crash: it is left for later.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return [], offset, 0
    with path.open("rb") as handle:
        handle.seek(offset)
        data = handle.read()
    whole = data[: data.rfind(b"\n") + 1]
    lines, num_damaged = [], 0
    for raw in whole.split(b"\n")[:-1]:
        try:
            line = json.loads(raw)
            line["type"]
            lines.append(line)
        except (ValueError, KeyError, TypeError):
            num_damaged += bool(raw)
    return lines, offset + len(whole), num_damaged


def encode(value: Any) -> Any:
    """Return strict JSON for ``value``: a score becomes a mapping, NaN and infinity become text."""
    match value:
        case Score():
            return encode(asdict(value))
        case Mapping():
            return {str(k): encode(v) for k, v in value.items()}
        case list() | tuple():
            return [encode(v) for v in value]
        case float() if not math.isfinite(value):
            return str(float(value))
    return value


def decode(value: Any) -> float | str | Score:
    """Restore a metric or a summary value that `encode` wrote."""
    if isinstance(value, dict):
        return Score(**value | {name: float(value[name]) for name in ("value", "low", "high")})
    return float(value) if value in ("nan", "inf", "-inf") or not isinstance(value, str) else value


def _values(lines: list[dict[str, Any]]) -> dict[str, dict[int, Any]]:
    """Collect name → step → value; the first metrics after a resume supersede everything from their step on."""
    values: dict[str, dict[int, Any]] = {}
    resumed = False
    for line in lines:
        if line["type"] == "resume":
            resumed = True
        elif line["type"] == "metrics":
            if resumed:
                values = {name: {s: v for s, v in old.items() if s < line["step"]} for name, old in values.items()}
                resumed = False
            for name, value in line["values"].items():
                values.setdefault(name, {})[line["step"]] = decode(value)
    return {name: steps for name, steps in values.items() if steps}


def _number(value: float | Score) -> float:
    return value.value if isinstance(value, Score) else value


def _seconds(lines: list[dict[str, Any]]) -> float:
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    gaps = zip(times, times[1:], lines[1:], strict=False)
    return sum(
        (after - before for before, after, line in gaps if line["type"] != "resume"), timedelta()
    ).total_seconds()
