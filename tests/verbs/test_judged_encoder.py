"""Which encoder a verb takes, what stands beside its figures, and a no_go that stops what comes next."""

import json
from pathlib import Path

import pytest
import torch
from journeys import FAST, UNMEASURED, changed
from small_pool import make_pool

from medssl.core.errors import EncoderError, GateRefused, TrainingError
from medssl.data.prepare import prepare
from medssl.engine import checkpoint
from medssl.engine.parts import weights_mark
from medssl.pool.pool import Pool
from medssl.study import Study, load_study
from medssl.tracking.records import read_run
from medssl.verbs.context import find_encoder
from medssl.verbs.evaluate import evaluate
from medssl.verbs.finetune import finetune
from medssl.verbs.pretrain import load_method, pretrain


def test_an_encoder_is_found_by_what_the_study_says_and_candidates_are_named(study: Study) -> None:
    other = changed(study, "method.mask_ratio=0.5", *UNMEASURED)
    with pytest.raises(EncoderError, match="run `medssl pretrain` first"):
        evaluate(study)
    run = pretrain(study).data["run"]
    with pytest.raises(EncoderError, match=f"candidates for --encoder: {run}"):
        evaluate(other)
    assert evaluate(other, encoder=run).data["run"]
    with pytest.raises(EncoderError, match="another `prepare` section"):
        evaluate(changed(study, "prepare.shape=[16, 16]"), encoder=run)


@pytest.mark.parametrize("method", [[], ["method={name: dino, prototypes: 32, hidden: 32, bottleneck: 16}"]])
def test_the_weights_of_the_best_knn_are_those_that_would_have_been_exported_then(
    labelled_study: Study, method: list[str]
) -> None:
    study = changed(labelled_study, "loop.epochs=1", *method)
    made, pool = pretrain(study), Pool.open(study.pool)
    folder, run = Path(made.data["encoder"]), made.data["run"]
    last, state = find_encoder(study, pool), checkpoint.best(folder)
    exported = load_method(study, prepare(pool, study.prepare), 0, folder)
    with torch.no_grad():
        for weight in exported.parameters():
            weight += 1
    checkpoint.save_best(folder, {**state, "model": exported.state_dict(), "step": 99})
    for asked in (f"{run}:best", f"{folder}:best"):
        best = find_encoder(study, pool, asked)
        assert weights_mark(best.encoder) == weights_mark(exported.export()) != weights_mark(last.encoder)
        assert (best.run, best.name) == (run, f"{run}:best")
        assert best.fingerprint != last.fingerprint == find_encoder(study, pool, run).fingerprint
    assert best.images == last.images


def test_the_best_and_the_last_weights_of_a_run_have_verdicts_of_their_own(labelled_study: Study) -> None:
    study = changed(labelled_study, *UNMEASURED, "evaluation.gate.min_rankme=1000")
    run = pretrain(study).data["run"]
    assert evaluate(study, encoder=f"{run}:best").data["verdict"]["decision"] == "no_go"
    with pytest.raises(GateRefused):
        finetune(study, encoder=f"{run}:best")
    assert finetune(study, encoder=run).data["verdict"] is None


def test_a_run_that_kept_no_best_weights_says_so(study: Study) -> None:
    run = pretrain(study).data["run"]
    with pytest.raises(TrainingError, match=f"{run}:best: it kept none"):
        evaluate(study, encoder=f"{run}:best")


def test_a_fine_tuned_encoder_does_not_pass_for_the_pretraining_it_came_from(labelled_study: Study) -> None:
    study = changed(labelled_study, *UNMEASURED)
    made = pretrain(study)
    tuned = finetune(study, allow_no_go=True)
    as_path = evaluate(study, encoder=str(study.workspace / "runs" / tuned.data["run"]))
    by_run = evaluate(study, encoder=made.data["encoder"])
    prints = [read_run(study.workspace / "runs" / r.data["run"]).fingerprints["pretraining"] for r in (as_path, by_run)]
    assert prints[0] != prints[1] == made.data["fingerprint"]
    assert read_run(study.workspace / "runs" / by_run.data["run"]).parents["pretrain"] == made.data["run"]


def test_every_figure_of_an_encoder_stands_beside_its_baselines_with_interval_and_n(
    study_file: Path, tmp_path: Path
) -> None:
    make_pool(tmp_path / "pool", 120, 1)
    study = load_study(study_file, FAST)
    run = pretrain(study).data["run"]
    result = evaluate(study, encoder=[run, f"{run}:best"])
    found = json.loads((study.workspace / "runs" / result.data["run"] / "evaluation.json").read_text())
    baselines = {"random", "pixels", "frame", "corners", "thumbnail", "small_resnet"}
    assert set(found["systems"]) == {"encoder", *baselines}
    assert set(found["differences"]) == {*baselines, "pixels_few"}
    assert set(found["others"]) == {f"{run}:best"}
    assert {"few_shot", "structure", "subgroups", "covered"} <= set(found)
    assert set(found["metrics"]) == {"encoder", *baselines - {"small_resnet"}} | {
        f"{name}_few" for name in ("encoder", "pixels", "small_resnet")
    }
    summary = read_run(study.workspace / "runs" / result.data["run"]).scores
    assert {"metrics.encoder.auprc", "metrics.pixels.ece", "metrics.small_resnet_few.brier"} <= set(summary)
    for probes in (*found["systems"].values(), *found["metrics"].values()):
        for score in probes.values():
            assert score["low"] <= score["value"] <= score["high"]
            assert score["n"] >= study.evaluation.gate.min_test_patients
    assert found["verdict"]["decision"] == "undecided"  # so few patients prove no loss
    assert "would settle a difference of this size" in " ".join(found["verdict"]["reasons"])
    assert result.exit_code == 0


def test_a_no_go_stops_fine_tuning_unless_overridden_and_the_override_is_noted(labelled_study: Study) -> None:
    study = changed(labelled_study, *UNMEASURED, "evaluation.gate.min_rankme=1000")
    pretrain(study)
    judged = evaluate(study)
    assert (judged.data["verdict"]["decision"], judged.exit_code) == ("no_go", 4)
    with pytest.raises(GateRefused, match="--allow-no-go") as refused:
        finetune(study)
    assert refused.value.exit_code == 4
    tuned = finetune(study, allow_no_go=True)
    assert any("no_go" in note for note in read_run(study.workspace / "runs" / tuned.data["run"]).notes)
