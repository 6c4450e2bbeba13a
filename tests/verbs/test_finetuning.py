"""What a fine-tuned model reaches is measured as its task is, beside what needs no fine-tuning."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from journeys import FAST
from rich.console import Console
from small_pool import STUDY, make_pool

from medssl.core.errors import LabelError
from medssl.core.files import read_json
from medssl.evaluation.metrics import metrics_of
from medssl.evaluation.problem import Kind
from medssl.review.page import report
from medssl.study import Study, load_study
from medssl.tracking.records import read_runs
from medssl.verbs.evaluate import evaluate
from medssl.verbs.finetune import finetune
from medssl.verbs.pretrain import pretrain
from medssl.verbs.result import Result

ALONE = ["evaluation.audit.images=0", "evaluation.pictures.images=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("finetuning")
    make_pool(made / "pool", 60)
    (made / "small.yaml").write_text(STUDY.format(pool=made / "pool", workspace=made / "workspace"))
    pretrain(study_of(made))
    return made


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Result:
    return finetune(study_of(folder))


def study_of(folder: Path, *more: str) -> Study:
    return load_study(folder / "small.yaml", [*FAST, *ALONE, *more])


def figures(score: dict[str, Any]) -> list[float]:
    return pytest.approx([score[name] for name in ("value", "low", "high", "n")])  # type: ignore[return-value]


def test_the_model_stands_beside_the_frozen_encoder_and_raw_pixels_as_they_are_evaluated(
    folder: Path, tuned: Result
) -> None:
    data, judged = tuned.data, evaluate(study_of(folder)).data
    assert data["baselines"].keys() == data["differences"].keys() == {"encoder", "pixels"}
    for system, probe in (("encoder", "linear"), ("pixels", "pca")):
        score = data["baselines"][system][probe]
        assert list(score.values()) == list(judged["systems"][system][probe].values())
        ahead = data["scores"]["test"]["value"] - score["value"]
        assert data["differences"][system]["value"] == pytest.approx(ahead)
    assert data["metrics"].keys() == {"model", "encoder", "pixels"}
    assert all(list(found) == list(metrics_of(Kind.CLASSES)) for found in data["metrics"].values())
    model = data["metrics"]["model"]["auroc"]
    assert [data["scores"]["test"][name] for name in ("value", "low", "high", "n")] == figures(model)


def test_all_of_it_is_in_the_run_its_summary_the_terminal_and_the_page(
    folder: Path, tuned: Result, tmp_path: Path
) -> None:
    (run,) = [run for run in read_runs(folder / "workspace") if run.id == tuned.data["run"]]
    said = read_json(run.folder / "finetune.json")
    assert {name: said[name] for name in ("baselines", "differences", "metrics")} == {
        name: tuned.data[name] for name in ("baselines", "differences", "metrics")
    }
    assert {"val", "test", "model_minus_encoder", "model_minus_pixels", "metrics.model.brier"} <= run.scores.keys()
    console = Console(width=100, file=io.StringIO(), record=True)
    for part in tuned.shown:
        console.print(part)
    shown, page = console.export_text(), report([run], tmp_path / "r.html", "t").read_text()
    for text in (shown, page):
        assert all(words in text for words in ("Raw pixels", "Fine-tuned model better by", "Brier score"))


@pytest.mark.parametrize(
    ("changes", "metric"),
    [(["evaluation.metric=balanced_accuracy"], "balanced_accuracy"), (["tasks.shape.kind=ordinal"], "kappa")],
)
def test_it_is_judged_by_the_metric_of_its_task_whatever_the_order_of_the_classes(
    folder: Path, tuned: Result, changes: list[str], metric: str
) -> None:
    data = finetune(study_of(folder, *changes, "tasks.shape.order=[round, bitten]")).data
    assert {score["metric"] for score in data["scores"].values()} == {metric} == {data["metric"]}
    assert data["differences"]["pixels"]["metric"].startswith(metric)
    assert data["metrics"]["model"]["auroc"] == tuned.data["metrics"]["model"]["auroc"]  # the same training


def test_labels_that_are_no_classes_are_refused(folder: Path) -> None:
    with pytest.raises(LabelError, match="task shape: fine-tuning learns classes; this is a multilabel task"):
        finetune(study_of(folder, "tasks.shape.kind=multilabel"))
