"""MLflow as the journal's sink: it may lag or be absent, and catches up from the journal later."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.core.errors import RunError
from medssl.core.files import atomic, read_json, write_json
from medssl.core.progress import stderr
from medssl.tracking import mlflow_entities as entities
from medssl.tracking.journal import Journal
from medssl.tracking.records import RunRecord, read_lines, read_run, read_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

SYNC_STATE = "mlflow.json"
UNREACHABLE = "cannot be reached"
METRICS_A_BATCH, PARAMS_A_BATCH = 1000, 100  # limits of MLflow's REST interface


class MlflowSink:
    """One MLflow experiment that runs of a workspace are pushed to.

    ``uri`` None means the environment's ``MLFLOW_TRACKING_URI``, else a SQLite store in the workspace. A relative
    ``sqlite:///`` path is anchored to the workspace. ``failure`` says in a few words why the last push did not work.
    """

    def __init__(self, workspace: Path, uri: str | None, experiment: str) -> None:
        self.workspace, self.experiment = workspace.resolve(), experiment
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        self._store = None  # the file of a SQLite store
        if uri.startswith("sqlite:///"):
            self._store = self.workspace / uri.removeprefix("sqlite:///")
            uri = f"sqlite:///{self._store}"
        self.uri = uri
        self.failure: str | None = None
        self._opened: tuple[MlflowClient, str] | None = None

    @property
    def where(self) -> str:
        """The store's address without a password."""
        return re.sub(r"//[^/@\s]*@", "//", self.uri)

    def sync(self, run_folder: Path) -> bool:
        """Push what the journal holds beyond the last successful push; return whether MLflow has everything now."""
        try:
            self._push(run_folder)
        except Exception as error:  # tracking must never stop a run, whatever a store or a network throws
            self.failure = _reason(error)
            _remember_failure(run_folder, self.where, self.failure)
            return False
        self.failure = None
        return True

    def sync_all(self) -> bool:
        """Push every run of the workspace, oldest first; return whether MLflow has everything now."""
        complete = True
        for record in read_runs(self.workspace):
            complete &= self.sync(record.folder)
            if self.failure and self.failure.startswith(UNREACHABLE):
                break
        return complete

    @contextmanager
    def following(self, journal: Journal, *, every_s: float = 10.0, patience_s: float = 60.0) -> Iterator[None]:
        """Push ``journal`` from a background thread while the block runs, and once more after it.

        Enter it before the journal, ``with sink.following(journal), journal:``, so that the last push knows how the
        run ended. A store that cannot be reached costs one line on stderr and nothing else.
        """
        ended = threading.Event()
        later = f"the journal in runs/{journal.id} goes on and `medssl review` will sync it later"

        def follow() -> None:
            told = last = False
            while True:
                if not self.sync(journal.folder) and not told:
                    _say(f"tracking: {self.where} {self.failure}; {later}")
                    told = True
                if last:
                    return
                last = ended.wait(every_s)

        thread = threading.Thread(target=follow, name="mlflow-sink", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(patience_s)
            if thread.is_alive():
                _say(f"tracking: {self.where} did not answer within {patience_s:.0f} s; {later}")

    def _push(self, folder: Path) -> None:
        state = _state(folder)
        pushed = state["stores"].get(self.where, {"run_id": None, "offset": 0})
        lines, offset, _ = read_lines(folder, pushed["offset"])
        if not lines:
            return
        client, experiment_id = self._open()
        run_id = pushed["run_id"] or self._run(client, experiment_id, read_run(folder))
        metrics = [metric for line in lines if line["type"] == "metrics" for metric in entities.metrics(line)]
        for start in range(0, len(metrics), METRICS_A_BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_BATCH])
        if any(line["type"] != "metrics" for line in lines):
            entities.describe(client, run_id, read_run(folder))
        state["stores"][self.where] = {"run_id": run_id, "offset": offset}
        write_json(folder / SYNC_STATE, state | {"failure": None})

    def _open(self) -> tuple[MlflowClient, str]:
        """Return a client and the experiment's id, making store and experiment where they are missing."""
        if self._opened is None:
            _load_mlflow()
            from mlflow import MlflowClient

            location = (self.workspace / "mlflow-artifacts").as_uri() if self._store else None
            if self._store and location and not self._store.exists():
                _make_store(self._store, location)
            client = MlflowClient(self.uri)
            found = client.get_experiment_by_name(self.experiment)
            experiment_id = found.experiment_id if found else client.create_experiment(self.experiment, location)
            self._opened = client, experiment_id
        return self._opened

    def _run(self, client: MlflowClient, experiment_id: str, record: RunRecord) -> str:
        """Return the MLflow run of ``record``, made with its parameters where it is missing."""
        same = client.search_runs([experiment_id], f"tags.`{entities.RUN_TAG}` = '{record.id}'")
        if same:  # made by a push that was cut off before it could write its state
            run_id = same[0].info.run_id
        else:
            tags = entities.tags(record) | self._parents(record)
            started_ms = entities.milliseconds(record.started)
            run_id = client.create_run(experiment_id, started_ms, tags, record.id).info.run_id
        params = entities.params(record)
        for start in range(0, len(params), PARAMS_A_BATCH):
            client.log_batch(run_id, params=params[start : start + PARAMS_A_BATCH])
        return str(run_id)

    def _parents(self, record: RunRecord) -> dict[str, str]:
        """Return the tags that link to the parents, which are pushed first; one that is gone keeps its medssl id."""
        tags = {}
        for name, parent in record.parents.items():
            folder = record.folder.parent / parent
            with suppress(RunError):
                self._push(folder)
            pushed = _state(folder)["stores"].get(self.where)
            tags[f"parent.{name}"] = pushed["run_id"] if pushed else parent
            if pushed:
                tags.setdefault("mlflow.parentRunId", pushed["run_id"])
        return tags


def _make_store(path: Path, artifacts: str) -> None:
    """Make a SQLite store whole or not at all: MLflow cannot repair one that a kill left half migrated."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with atomic(path) as partial:
        store = SqlAlchemyStore(f"sqlite:///{partial}", artifacts)  # type: ignore[no-untyped-call]
        store.engine.dispose()


def _load_mlflow() -> None:
    """Import MLflow: quiet, without telemetry, and quick to give up on a server that is down."""
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "5"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),  # stdout is for results
    ):
        os.environ.setdefault(name, value)
    import mlflow.tracking  # noqa: F401

    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)


def _state(folder: Path) -> dict[str, Any]:
    """Return what was pushed where; a lost file costs a second push of the same, which MLflow takes as one."""
    state: dict[str, Any] = {"stores": {}, "failure": None}
    with suppress(FileNotFoundError, ValueError):
        state |= read_json(folder / SYNC_STATE)
    return state


def _remember_failure(folder: Path, where: str, reason: str) -> None:
    time = datetime.now(UTC).isoformat(timespec="seconds")
    if folder.is_dir():
        write_json(folder / SYNC_STATE, _state(folder) | {"failure": {"time": time, "store": where, "reason": reason}})


def _reason(error: BaseException) -> str:
    """Return why a push failed, without a password that an address may hold."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError | PermissionError):
            return f"{UNREACHABLE} ({type(cause).__name__})"
        cause = cause.__cause__ or cause.__context__
    text = re.sub(r"//[^/@\s]*@", "//", str(error)).partition("\n")[0]
    return f"did not take the run ({type(error).__name__}: {text[:300]})"


def _say(text: str) -> None:
    stderr.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
