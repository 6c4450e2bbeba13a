"""MLflow holds what the journal says, sooner or later, and nothing about who ran it or from where."""

from __future__ import annotations

import getpass
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medssl.core.files import read_json
from medssl.core.score import Score
from medssl.tracking.journal import Journal
from medssl.tracking.mlflow_entities import flatten
from medssl.tracking.mlflow_sink import SYNC_STATE, MlflowSink

AUROC = Score("auroc", 0.8, 0.7, 0.9, 40)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store without runs, made once because that takes seconds."""
    workspace = tmp_path_factory.mktemp("template")
    journal = Journal.start(workspace, "demo", "template", {})
    assert MlflowSink(workspace, None, "template").sync(journal.folder)
    with sqlite3.connect(workspace / "mlflow.db") as store:
        for table in ("params", "tags", "latest_metrics", "metrics", "runs"):
            store.execute(f"DELETE FROM {table}")
    store.close()
    return workspace / "mlflow.db"


@pytest.fixture
def workspace(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def dead_server() -> str:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        number = port.getsockname()[1]
    return f"http://alice:secret@127.0.0.1:{number}"


def stored(workspace: Path, experiment: str = "chest") -> dict[str, Any]:
    """Return medssl run id → MLflow run."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    by_id = {run.data.tags["medssl.run"]: run for run in runs}
    assert len(by_id) == len(runs), "a run is in the store twice"
    return by_id


def history(workspace: Path, run_id: str, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    found = MlflowClient(f"sqlite:///{workspace}/mlflow.db").get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in found)


def test_everything_of_a_run_arrives_in_the_workspace_store(workspace: Path) -> None:
    params = {"method": {"name": "mae", "mask_ratio": 0.75}, "scales": [1, 2], "text": "x" * 7000, "none": None}
    with Journal.start(workspace, "pretrain", "chest", params, fingerprints={"pool": "abc123"}) as journal:
        for step in range(1, 1301):  # more than a batch
            journal.metrics(step, {"loss": 1 / step})
        journal.metrics(1300, {"knn auroc (val)": AUROC, "gap": float("nan")})
        journal.note("rankme is low")
        (journal.folder / "sheet.png").write_bytes(b"sheet")
        journal.artifact(journal.folder / "sheet.png", "pictures")
        journal.finish(summary={"decision": "go", "linear": AUROC, "best": 0.5})
    assert MlflowSink(workspace, None, "chest").sync(journal.folder)
    run = stored(workspace)[journal.id]
    assert run.info.run_name == journal.id
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "method.name": "mae",
        "method.mask_ratio": "0.75",
        "scales": "[1, 2]",
        "text": "x" * 6000,
        "none": "null",
    }
    assert history(workspace, run.info.run_id, "loss") == [(step, 1 / step) for step in range(1, 1301)]
    figures = run.data.metrics
    assert (figures["linear"], figures["linear.low"]) == (0.8, 0.7)
    assert (figures["knn auroc _val_"], figures["knn auroc _val_.high"], figures["knn auroc _val_.n"]) == (0.8, 0.9, 40)
    assert figures["gap"] != figures["gap"]
    assert figures["best"] == 0.5
    tags = run.data.tags
    assert (tags["kind"], tags["study"], tags["fingerprint.pool"]) == ("pretrain", "chest", "abc123")
    assert (tags["summary.decision"], tags["mlflow.note.content"]) == ("go", "rankme is low")
    artifact = workspace / "mlflow-artifacts" / run.info.run_id / "artifacts" / "pictures" / "sheet.png"
    assert artifact.read_bytes() == b"sheet"


def test_neither_user_nor_source_path_is_in_the_store(workspace: Path) -> None:
    with Journal.start(workspace, "ingest", "chest", {"seed": 1}) as journal:
        journal.metrics(0, {"num_files": 3})
    MlflowSink(workspace, None, "chest").sync(journal.folder)
    run = stored(workspace)[journal.id]
    assert not {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} & set(run.data.tags)
    assert run.info.user_id in ("", None, "unknown")
    with sqlite3.connect(workspace / "mlflow.db") as store:
        cells = store.execute("SELECT user_id, source_name, entry_point_name FROM runs").fetchall()
        cells += store.execute("SELECT key, value, '' FROM tags").fetchall()
    store.close()
    words = {str(cell) for row in cells for cell in row}
    assert not words & {getpass.getuser(), sys.argv[0]}


def test_a_parent_is_pushed_first_and_linked(workspace: Path) -> None:
    with Journal.start(workspace, "ingest", "chest", {}) as pool:
        pass
    parents = {"pool": pool.id, "encoder": "pretrain-gone"}
    with Journal.start(workspace, "evaluate", "chest", {}, parents=parents) as child:
        pass
    assert MlflowSink(workspace, None, "chest").sync(child.folder)
    runs = stored(workspace)
    tags, parent_id = runs[child.id].data.tags, runs[pool.id].info.run_id
    assert tags["parent.pool"] == tags["mlflow.parentRunId"] == parent_id
    assert tags["parent.encoder"] == "pretrain-gone"


def test_each_push_sends_only_what_is_new_and_a_lost_state_doubles_nothing(workspace: Path) -> None:
    journal = Journal.start(workspace, "pretrain", "chest", {"seed": 0})
    sink = MlflowSink(workspace, None, "chest")
    journal.metrics(1, {"loss": 0.5})
    assert sink.sync(journal.folder)
    assert stored(workspace)[journal.id].info.status == "RUNNING"
    offsets = [store["offset"] for store in read_json(journal.folder / SYNC_STATE)["stores"].values()]
    assert offsets == [(journal.folder / "journal.jsonl").stat().st_size]
    journal.metrics(2, {"loss": 0.4})
    assert sink.sync(journal.folder)
    (journal.folder / SYNC_STATE).unlink()
    assert MlflowSink(workspace, None, "chest").sync(journal.folder)
    runs = stored(workspace)
    assert list(runs) == [journal.id]
    assert history(workspace, runs[journal.id].info.run_id, "loss") == [(1, 0.5), (2, 0.4)]


def test_a_preempted_run_is_killed_in_mlflow_until_it_is_resumed(workspace: Path) -> None:
    journal = Journal.start(workspace, "pretrain", "chest", {})
    sink = MlflowSink(workspace, None, "chest")
    statuses = []
    for act in (lambda: journal.finish("preempted"), lambda: Journal.resume(journal.folder), journal.finish):
        act()
        assert sink.sync(journal.folder)
        statuses.append(stored(workspace)[journal.id].info.status)
    assert statuses == ["KILLED", "RUNNING", "FINISHED"]


def test_a_dead_server_costs_one_line_and_a_later_push_has_everything(
    workspace: Path, dead_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal.start(workspace, "pretrain", "chest", {"seed": 3})
    sink = MlflowSink(workspace, dead_server, "chest")
    with sink.following(journal, every_s=0.01), journal:
        for step in range(50):
            journal.metrics(step, {"loss": float(step)})
        wait_for(lambda: (journal.folder / SYNC_STATE).exists())
        journal.metrics(50, {"loss": 50.0})
    told = capsys.readouterr().err
    assert told.count("cannot be reached") == 1
    assert "medssl review" in told
    assert "secret" not in told + (journal.folder / SYNC_STATE).read_text()
    assert read_json(journal.folder / SYNC_STATE)["failure"]["reason"].startswith("cannot be reached")

    assert MlflowSink(workspace, None, "chest").sync_all()
    run = stored(workspace)[journal.id]
    assert history(workspace, run.info.run_id, "loss") == [(step, float(step)) for step in range(51)]
    assert (run.info.status, run.data.params) == ("FINISHED", {"seed": "3"})


def test_following_a_run_pushes_while_it_goes_on_and_how_it_ended(workspace: Path) -> None:
    journal = Journal.start(workspace, "finetune", "chest", {})
    with MlflowSink(workspace, None, "chest").following(journal, every_s=0.01), journal:
        journal.metrics(1, {"loss": 0.5})
        wait_for(lambda: (journal.folder / SYNC_STATE).exists())
        assert stored(workspace)[journal.id].info.status == "RUNNING"
    assert stored(workspace)[journal.id].info.status == "FINISHED"


def test_a_store_that_mlflow_cannot_use_is_reported_and_not_fatal(workspace: Path) -> None:
    (workspace / "mlflow.db").write_bytes(b"this is no database, and never was one" * 100)
    journal = Journal.start(workspace, "demo", "chest", {})
    sink = MlflowSink(workspace, None, "chest")
    assert not sink.sync(journal.folder)
    assert not sink.sync_all()
    assert sink.failure
    assert "did not take the run" in sink.failure


def test_the_address_comes_from_the_argument_then_the_environment_then_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert MlflowSink(tmp_path, None, "x").uri == "http://tracking.example:5000"
    assert MlflowSink(tmp_path, "sqlite:///here.db", "x").uri == f"sqlite:///{tmp_path}/here.db"
    assert MlflowSink(tmp_path, f"sqlite:///{tmp_path}/there.db", "x").uri == f"sqlite:///{tmp_path}/there.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert MlflowSink(tmp_path, None, "x").uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert MlflowSink(tmp_path, "http://a:b@host:5000", "x").where == "http://host:5000"


def test_flattening_keeps_every_leaf() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": True}) == {"a.b.c": "1", "a.d": "{}", "e": "true"}


def test_importing_the_sink_does_not_import_mlflow() -> None:
    code = "import sys, medssl.tracking.mlflow_sink; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def wait_for(condition: Callable[[], bool]) -> None:
    import time

    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "waited 30 s"
        time.sleep(0.01)
