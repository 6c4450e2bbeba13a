"""The journey over a small pool: each verb leaves what the next one needs, and roles never mix."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from journeys import answer, changed, flip, roles_of, spoil

from medssl.core.errors import CorruptShard
from medssl.core.types import Role
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.tracking.records import read_run, read_runs
from medssl.verbs.evaluate import evaluate
from medssl.verbs.finetune import finetune
from medssl.verbs.import_labels import import_labels
from medssl.verbs.predict import predict
from medssl.verbs.pretrain import pretrain
from medssl.verbs.review import review
from medssl.verbs.select import select


def test_the_whole_journey_round_after_round(study: Study, key_file: Path, tmp_path: Path) -> None:
    study = changed(study, "watch.pictures_epochs=2", "watch.pictures=2")
    made = pretrain(study)
    encoder = Path(made.data["encoder"])
    assert (encoder / "encoder.safetensors").is_file()
    undecided = evaluate(study)
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
    without_pilot = changed(study, "selection.pilot_val=0", "selection.pilot_test=0")  # it has previews
    assert {roles_of(study)[s] for s in select(without_pilot).data["picked"]} == {"dev"}
    spoil(study, Role.DEV)
    with pytest.raises(CorruptShard):
        pretrain(study)


def test_workers_change_no_weight(study: Study) -> None:
    one, two = (pretrain(changed(study, f"loop.workers={n}")).data["encoder"] for n in (0, 2))
    assert (Path(one) / "encoder.safetensors").read_bytes() == (Path(two) / "encoder.safetensors").read_bytes()


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
    flip(shard, row)
    with pytest.raises(CorruptShard, match=row["volume"]):
        pretrain(study)
