"""The journey over a small pool: each verb leaves what the next one needs, and roles never mix."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_pool import KEY, disc, make_pool

from medssl.core.errors import CorruptShard, EncoderError, GateRefused, Preempted, SelectionError, TrainingError
from medssl.core.types import Role, Signal
from medssl.data.prepare import prepare
from medssl.engine.loop import Session
from medssl.pool.pool import Pool
from medssl.study import Study, load_study
from medssl.tracking.records import read_run, read_runs
from medssl.verbs import evaluate as evaluating
from medssl.verbs.finetune import finetune
from medssl.verbs.import_labels import import_labels
from medssl.verbs.predict import predict
from medssl.verbs.pretrain import fit, pretrain
from medssl.verbs.review import review
from medssl.verbs.select import select
from medssl.verbs.signals import doubt_about, read_signals

FAST = ["loop.epochs=2", "tasks.shape.loop.epochs=2", "selection.pretext.loop.epochs=1", "evaluation.bootstrap=100"]


@pytest.fixture
def study(study_file: Path, tmp_path: Path) -> Study:
    make_pool(tmp_path / "pool", labelled=False)
    return load_study(study_file, FAST)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(KEY.secret)
    return tmp_path / "key"


def answer(worklist: Path, out: Path) -> Path:
    """Fill in a worklist as somebody who knows the discs would."""
    truth = {KEY.hmac("study", str(p), str(s)): disc(p, s)[1] for p in range(60) for s in range(2)}
    with worklist.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    with out.open("w", newline="") as handle:
        table = csv.DictWriter(handle, list(rows[0]))
        table.writeheader()
        table.writerows(row | {"shape": truth[row["study"]]} for row in rows)
    return out


def roles_of(study: Study) -> dict[str, str]:
    return dict(Pool.open(study.pool).catalog.volumes.select("study", "role").iter_rows())


def spoil(study: Study, *roles: Role) -> None:
    """Flip a byte in every prepared volume of these roles: whoever reads one of them fails."""
    data = prepare(Pool.open(study.pool), study.prepare)
    shard = data.shards / "00000.tar"
    content = bytearray(shard.read_bytes())
    for row in data.catalog.role(*roles).volumes.iter_rows(named=True):
        content[row["offset"] + row["length"] // 2] ^= 1
    shard.write_bytes(bytes(content))


def test_the_whole_journey_round_after_round(study: Study, key_file: Path, tmp_path: Path) -> None:
    made = pretrain(study)
    encoder = Path(made.data["encoder"])
    assert (encoder / "encoder.safetensors").is_file()
    undecided = evaluating.evaluate(study)
    assert undecided.data["systems"] == {}
    assert undecided.data["verdict"]["decision"] != "go"
    roles, seen = roles_of(study), set()
    for number in range(2):
        chosen = select(study)
        assert chosen.data["round"] == number
        assert len(chosen.data["picked"]) == study.selection.budget
        assert {roles[s] for s in chosen.data["picked"]} == {"dev"}
        assert {roles[p["study"]] for p in chosen.data["pilot"]} == ({"val", "test"} if number == 0 else set())
        assert not seen & set(chosen.data["picked"])
        seen |= set(chosen.data["picked"])
        filled = answer(Path(chosen.data["worklist"]), tmp_path / "answers.csv")
        told = import_labels(study, filled, annotator="reader", key_file=key_file)
        assert told.data["added"] == len(chosen.data["picked"]) + len(chosen.data["pilot"])
        tuned = finetune(study, allow_no_go=True)
        assert tuned.data["num_train"] == study.selection.budget * (number + 1)
    rounds = study.workspace / "rounds" / study.name / "shape"
    assert {p.name for p in (rounds / "0").iterdir()} >= {
        "worklist.csv",
        "frozen.parquet",
        "contact_sheet.png",
        "contact_sheet.html",
    }
    predicted = predict(study.workspace / "runs" / tuned.data["run"], [study.pool], out=tmp_path / "p.csv")
    assert predicted.data["rows"] == len(Pool.open(study.pool).catalog)
    table = pl.read_csv(tmp_path / "p.csv")
    assert np.allclose(table["bitten"] + table["round"], 1, atol=1e-5)
    reviewed = review(study, html=tmp_path / "report.html")
    kinds = [r["kind"] for r in reviewed.data["runs"]]
    assert [kinds.count(k) for k in ("pretrain", "evaluate", "pretext", "select", "import", "finetune")] == [
        1,
        1,
        1,
        2,
        2,
        2,
    ]
    assert reviewed.data["mlflow"]["synced"]
    parents = {r.kind: r.parents for r in read_runs(study.workspace)}
    assert parents["finetune"]["pretrain"] == made.data["run"]
    assert parents["select"]["finetune"]
    words = {"no_go": "No go", "undecided": "Undecided"}[undecided.data["verdict"]["decision"]]
    assert words in (tmp_path / "report.html").read_text()


def test_val_and_test_patients_are_in_no_pretraining_and_no_ranking(study: Study) -> None:
    spoil(study, Role.VAL, Role.TEST)
    pretrain(study)
    without_pilot = load_study_with(study, "selection.pilot_val=0", "selection.pilot_test=0")  # it has previews
    assert {roles_of(study)[s] for s in select(without_pilot).data["picked"]} == {"dev"}
    spoil(study, Role.DEV)
    with pytest.raises(CorruptShard):
        pretrain(study)


def load_study_with(study: Study, *overrides: str) -> Study:
    return load_study(study.pool.parent / "small.yaml", [*FAST, *overrides])


def test_workers_change_no_weight(study: Study) -> None:
    one, two = (pretrain(load_study_with(study, f"loop.workers={n}")).data["encoder"] for n in (0, 2))
    assert (Path(one) / "encoder.safetensors").read_bytes() == (Path(two) / "encoder.safetensors").read_bytes()


def test_killed_and_resumed_equals_never_killed(study: Study, tmp_path: Path) -> None:
    overrides = ["loop.epochs=30", "loop.checkpoint_epochs=1", "encoder.drop_path=0.2"]
    whole = pretrain(load_study_with(study, *overrides, f"workspace={tmp_path / 'whole'}"))
    command = [sys.executable, "-m", "medssl", "pretrain", str(study.pool.parent / "small.yaml"), *FAST, *overrides]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(study.workspace.glob("runs/pretrain-*/checkpoints/step-*.pt")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (folder,) = study.workspace.glob("runs/pretrain-*")
    assert read_run(folder).status == "unfinished"
    resumed = pretrain(load_study_with(study, *overrides), resume=True)
    assert resumed.data["run"] == folder.name
    assert (folder / "encoder.safetensors").read_bytes() == (
        Path(whole.data["encoder"]) / "encoder.safetensors"
    ).read_bytes()
    steps = [s for s, _ in read_run(folder).metrics["loss"]]
    assert steps == sorted(set(steps))


def test_fine_tuning_stopped_and_resumed_equals_never_stopped(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pool(tmp_path / "pool")
    study = load_study(study_file, [*FAST, "tasks.shape.loop.epochs=4"])
    pretrain(study)
    whole = finetune(study, allow_no_go=True)
    with monkeypatch.context() as patch:
        patch.setattr("medssl.verbs.finetune.Session", partial(Session, stop_after=7))
        with pytest.raises(Preempted, match="--resume"):
            finetune(study, allow_no_go=True)
    resumed = finetune(study, allow_no_go=True, resume=True)
    assert resumed.data["scores"] == whole.data["scores"]
    with pytest.raises(TrainingError, match="no unfinished finetune run"):
        finetune(study, allow_no_go=True, resume=True)


def test_a_pretext_stopped_while_selecting_goes_on_and_equals_one_never_stopped(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["selection.pretext.loop.epochs=3", "watch.pictures_epochs=0"]
    whole, stopped = (
        load_study_with(study, *overrides, f"workspace={place}") for place in (tmp_path / "whole", study.workspace)
    )
    pool, pretext = Pool.open(study.pool), whole.selection.pretext
    assert pretext is not None
    data = prepare(pool, whole.prepare)
    fit(whole, pretext, pool, data, kind="pretext")
    losses = partial(read_signals, stopped, pool, data, frozenset({Signal.PRETEXT_LOSSES}), "shape")
    for stop in (2, 4):  # the second stop is of a run that goes on
        with monkeypatch.context() as patch:
            patch.setattr("medssl.verbs.pretrain.Session", partial(Session, stop_after=stop))
            with pytest.raises(Preempted, match=f"step {stop} of .* run the verb again"):
                losses()
    assert losses().parents.keys() == {"pretext"}
    (run,) = [r for r in read_runs(study.workspace) if r.kind == "pretext"]
    (other,) = [r for r in read_runs(tmp_path / "whole") if r.kind == "pretext"]
    assert (run.folder / "encoder.safetensors").read_bytes() == (other.folder / "encoder.safetensors").read_bytes()


def test_a_pretext_that_may_still_be_training_is_left_alone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("medssl.verbs.pretrain.Session", partial(Session, stop_after=2))
        with pytest.raises(Preempted):
            select(study)
    (folder,) = study.workspace.glob("runs/pretext-*")
    journal = folder / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))  # it has not said how it ended
    select(study)
    assert sorted(r.status for r in read_runs(study.workspace) if r.kind == "pretext") == ["finished", "unfinished"]


def test_resuming_nothing_or_a_changed_study_is_one_line(study: Study) -> None:
    with pytest.raises(TrainingError, match="no unfinished pretrain run"):
        pretrain(study, resume=True)
    done = pretrain(study)
    journal = Path(done.data["encoder"]) / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:-1]) + "\n")  # as if killed before it could say how it ended
    with pytest.raises(TrainingError, match=r"method\.mask_ratio was 0\.75 and is now 0\.5"):
        pretrain(load_study_with(study, "method.mask_ratio=0.5"), resume=True)


def test_an_encoder_is_found_by_what_the_study_says_and_candidates_are_named(study: Study) -> None:
    with pytest.raises(EncoderError, match="run `medssl pretrain` first"):
        evaluating.evaluate(study)
    run = pretrain(study).data["run"]
    with pytest.raises(EncoderError, match=f"candidates for --encoder: {run}"):
        evaluating.evaluate(load_study_with(study, "method.mask_ratio=0.5"))
    assert evaluating.evaluate(load_study_with(study, "method.mask_ratio=0.5"), encoder=run).data["run"]
    with pytest.raises(EncoderError, match="another `prepare` section"):
        evaluating.evaluate(load_study_with(study, "prepare.shape=[16, 16]"), encoder=run)


def test_every_figure_of_an_encoder_stands_beside_its_baselines_with_interval_and_n(
    study_file: Path, tmp_path: Path
) -> None:
    make_pool(tmp_path / "pool", 120, 1)
    study = load_study(study_file, FAST)
    pretrain(study)
    result = evaluating.evaluate(study)
    found = json.loads((study.workspace / "runs" / result.data["run"] / "evaluation.json").read_text())
    baselines = {"random", "pixels", "frame", "corners", "thumbnail", "small_resnet"}
    assert set(found["systems"]) == {"encoder", *baselines}
    assert set(found["differences"]) == baselines
    assert {"few_shot", "structure", "subgroups", "covered"} <= set(found)
    for probes in found["systems"].values():
        for score in probes.values():
            assert score["low"] <= score["value"] <= score["high"]
            assert score["n"] >= study.evaluation.gate.min_test_patients
    assert found["verdict"]["decision"] == "no_go"  # pixels see a bitten disc; four steps of training do not
    assert result.exit_code == 4


def test_a_no_go_stops_fine_tuning_unless_overridden_and_the_override_is_noted(
    study_file: Path, tmp_path: Path
) -> None:
    make_pool(tmp_path / "pool")
    study = load_study(study_file, [*FAST, "evaluation.gate.min_rankme=1000"])
    pretrain(study)
    assert evaluating.evaluate(study).data["verdict"]["decision"] == "no_go"
    with pytest.raises(GateRefused, match="--allow-no-go") as refused:
        finetune(study)
    assert refused.value.exit_code == 4
    tuned = finetune(study, allow_no_go=True)
    assert any("no_go" in note for note in read_run(study.workspace / "runs" / tuned.data["run"]).notes)


def test_a_later_round_needs_a_task_model_and_a_budget_must_be_left(study: Study) -> None:
    with pytest.raises(SelectionError, match=r"selection.budget 900 is more than the \d+ unlabelled dev studies left"):
        select(load_study_with(study, "selection.budget=900"))
    select(study)
    with pytest.raises(SelectionError, match="`medssl finetune`"):
        select(study)


def test_training_goes_on_from_the_journal_when_the_tracking_server_is_down(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    made = pretrain(study)
    assert read_run(study.workspace / "runs" / made.data["run"]).status == "finished"
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("cannot be reached") == 1
    assert "medssl review" in said
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert review(study).data["mlflow"]["synced"]


def test_a_byte_that_flips_after_preparation_stops_training_too(study: Study) -> None:
    pretrain(study)
    pool = Pool.open(study.pool)
    shard, row = pool.shards / "00000.tar", pool.catalog.volumes.row(0, named=True)
    content = bytearray(shard.read_bytes())
    content[row["offset"] + row["length"] // 2] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(CorruptShard, match=row["volume"]):
        pretrain(study)


def test_a_linkage_of_another_pool_is_refused_before_the_round_is_taken(study: Study, tmp_path: Path) -> None:
    (tmp_path / "linkage.csv").write_text("study,study_uid\nabc,1.2.3\n")
    with pytest.raises(SelectionError, match="the linkage file lacks"):
        select(study, linkage=tmp_path / "linkage.csv")
    assert select(study).data["round"] == 0


def test_labels_that_came_after_the_task_model_ask_for_a_new_one(study: Study, key_file: Path, tmp_path: Path) -> None:
    pretrain(study)
    for _ in range(2):
        chosen = select(study)
        import_labels(study, answer(Path(chosen.data["worklist"]), tmp_path / "a.csv"), key_file=key_file)
        if chosen.data["round"] == 0:
            finetune(study, allow_no_go=True)
    with pytest.raises(SelectionError, match="trained on the labels that the pool holds now"):
        select(study)


def test_a_batch_too_small_for_the_budget_is_said_before_anything_is_trained(study: Study) -> None:
    with pytest.raises(SelectionError, match=r"more than the \d+ studies of a batch"):
        select(load_study_with(study, "selection.budget=30"))
    assert not list(study.workspace.glob("runs/pretext-*"))


def test_a_fine_tuned_encoder_does_not_pass_for_the_pretraining_it_came_from(study_file: Path, tmp_path: Path) -> None:
    make_pool(tmp_path / "pool")
    study = load_study(study_file, FAST)
    made = pretrain(study)
    tuned = finetune(study, allow_no_go=True)
    as_path = evaluating.evaluate(study, encoder=str(study.workspace / "runs" / tuned.data["run"]))
    by_run = evaluating.evaluate(study, encoder=made.data["encoder"])
    prints = [read_run(study.workspace / "runs" / r.data["run"]).fingerprints["pretraining"] for r in (as_path, by_run)]
    assert prints[0] != prints[1] == made.data["fingerprint"]
    assert read_run(study.workspace / "runs" / by_run.data["run"]).parents["pretrain"] == made.data["run"]


def test_a_ranking_by_an_unlearned_or_a_solved_pretext_task_is_doubted() -> None:
    chance = float(np.log(4))
    assert "at chance" in str(doubt_about(np.full(10, chance), chance))
    assert "solved" in str(doubt_about(np.full(10, 1e-6), chance))
    assert doubt_about(np.linspace(0.1, 1, 10), chance) is None
    assert doubt_about(np.full(10, 9.0), None) is None
