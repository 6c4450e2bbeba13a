"""The table of embeddings: every volume, in catalog order, of the encoder that was asked for; scores are reused."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from memory_feed import CPU
from small_pool import make_pool

from medssl.core.errors import TrainingError
from medssl.data.prepare import prepare
from medssl.engine import scoring
from medssl.models.build import load_encoder
from medssl.pool.pool import Pool
from medssl.study import Study, load_study
from medssl.tracking.records import read_runs
from medssl.verbs.embed import embed
from medssl.verbs.evaluate import evaluate
from medssl.verbs.learners import Learner
from medssl.verbs.pretrain import fit, load_method, pretrain


@pytest.fixture
def study(study_file: Path, tmp_path: Path) -> Study:
    make_pool(tmp_path / "pool", 40)
    return load_study(study_file, ["loop.epochs=1", "evaluation.bootstrap=100", "evaluation.pictures.images=0"])


def test_every_volume_has_its_embedding_and_a_second_verb_reads_what_the_first_computed(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pretrain(study).data["run"]
    made = embed(study, encoder=run, out=tmp_path / "table.parquet")
    table, pool = pl.read_parquet(tmp_path / "table.parquet"), Pool.open(study.pool)
    columns = ["volume", "study", "patient", "role"]
    assert table.select(columns).equals(pool.catalog.volumes.select(columns))
    encoder, _ = load_encoder(study.workspace / "runs" / run)
    expected = scoring.embed(encoder, prepare(pool, study.prepare), CPU)
    assert table.schema["embedding"] == pl.List(pl.Float32)
    assert np.array_equal(np.stack(table["embedding"].to_numpy()), expected)
    assert made.data["volumes"] == 80
    journalled = read_runs(study.workspace)[-1]
    assert (journalled.kind, journalled.status, journalled.parents["pretrain"]) == ("embed", "finished", run)
    first = evaluate(study).data
    monkeypatch.setattr(scoring, "_chunk", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(Learner, "trained", lambda *_, **__: pytest.fail("learnt again"))
    second = embed(study)
    assert pl.read_parquet(second.data["out"]).equals(table)
    assert evaluate(study).data["systems"] == first["systems"]


def test_losses_are_those_of_the_trained_pretext_else_of_the_study_s_own_pretraining(study: Study) -> None:
    pool = Pool.open(study.pool)
    data = prepare(pool, study.prepare)
    own = pretrain(study)
    pretext = study.selection.pretext
    assert pretext is not None
    for recipe in (study, pretext):
        run = own.data["run"] if recipe is study else fit(study, pretext, pool, data, kind="pretext").run
        made = embed(study, losses=True)
        assert made.data["pretext"] == read_runs(study.workspace)[-1].parents["pretext"] == run
        method = load_method(recipe, data, study.seed, study.workspace / "runs" / run)
        table = pl.read_parquet(made.data["out"])
        assert table.schema["pretext_loss"] == pl.Float64
        assert np.array_equal(table["pretext_loss"], scoring.pretext_losses(method, data, CPU, study.seed))
    assert "pretext_loss" not in pl.read_parquet(embed(study).data["out"]).columns


def test_losses_without_a_trained_pretext_name_what_to_run(study: Study, study_file: Path) -> None:
    run = pretrain(study).data["run"]
    other = load_study(study_file, ["method.mask_ratio=0.5"])
    with pytest.raises(TrainingError, match=r"run `medssl pretrain`, or `medssl select-for-labeling`, which trains"):
        embed(other, encoder=run, losses=True)
    assert read_runs(study.workspace)[-1].kind == "pretrain"
