"""How a run looks in MLflow: parameters as dotted text, scores as four metrics, notes as the description."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from medssl.core.score import Score
from medssl.tracking.records import UNFINISHED, RunRecord, decode

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

STATUS = {"finished": "FINISHED", "failed": "FAILED", "preempted": "KILLED", UNFINISHED: "RUNNING"}
RUN_TAG = "medssl.run"
KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000  # limits of MLflow's REST interface


def tags(record: RunRecord) -> dict[str, str]:
    """Return the tags that a run is made with; neither a user name nor a source path is among them."""
    fingerprints = {f"fingerprint.{name}": value for name, value in record.fingerprints.items()}
    return {RUN_TAG: record.id, "kind": record.kind, "study": record.study, **fingerprints}


def params(record: RunRecord) -> list[Param]:
    """Return the resolved study as MLflow parameters, cut to MLflow's limits."""
    from mlflow.entities import Param

    return [Param(_key(name), value[:PARAM_LENGTH]) for name, value in flatten(record.params).items()]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters as dotted names with text values; lists stay JSON.

    Example:
        >>> flatten({"method": {"name": "mae", "blocks": [1, 2]}})
        {'method.name': 'mae', 'method.blocks': '[1, 2]'}
    """
    flat: dict[str, str] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def describe(client: MlflowClient, run_id: str, record: RunRecord) -> None:
    """Push notes and status; at the end of the run its summary and artifacts too."""
    if record.notes:
        client.set_tag(run_id, "mlflow.note.content", "\n".join(record.notes)[:TAG_LENGTH])
    if record.status == UNFINISHED:
        client.update_run(run_id, status=STATUS[record.status])  # it may have been terminated before a resume
        return
    end_ms = milliseconds(record.ended)
    step = max((steps[-1][0] for steps in record.metrics.values()), default=0)
    figures = [m for name, value in record.summary.items() for m in _figures(name, value, end_ms, step)]
    client.log_batch(run_id, metrics=figures)
    for name, value in record.summary.items():
        if isinstance(value, str):
            client.set_tag(run_id, f"summary.{_key(name)}", value[:TAG_LENGTH])
    for artifact in record.artifacts:
        client.log_artifact(run_id, str(record.folder / artifact.path), artifact.folder or None)
    client.set_terminated(run_id, STATUS[record.status], end_ms)


def metrics(line: Mapping[str, Any]) -> list[Metric]:
    """Return the MLflow metrics of one journal line."""
    time_ms = milliseconds(datetime.fromisoformat(line["time"]))
    named = line["values"].items()
    return [m for name, value in named for m in _figures(name, decode(value), time_ms, line["step"])]


def _figures(name: str, value: float | str | Score, time_ms: int, step: int) -> list[Metric]:
    """Return the MLflow metrics of one figure: four for a score, one for a number, none for text."""
    from mlflow.entities import Metric

    if isinstance(value, str):
        return []
    if isinstance(value, Score):
        parts = {"": value.value, ".low": value.low, ".high": value.high, ".n": value.n}
    else:
        parts = {"": value}
    return [Metric(_key(name + suffix), part, time_ms, step) for suffix, part in parts.items()]


def milliseconds(time: datetime) -> int:
    """Return MLflow's form of a time."""
    return int(time.timestamp() * 1000)


def _key(name: str) -> str:
    return re.sub(r"[^\w.\-/ :]", "_", name)[:KEY_LENGTH]
