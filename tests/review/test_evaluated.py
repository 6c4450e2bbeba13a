"""An evaluation is read as far as its files go, and shown on the page and in the terminal alike."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from synthetic_study import audits, curve, few_shot, metrics, score, structure, subgroups

from medssl.core.files import write_json
from medssl.evaluation.gate import By, GateRule
from medssl.evaluation.problem import Kind
from medssl.review.evaluated import Evaluated, evaluations
from medssl.review.grids import Cell, Grid, Row
from medssl.review.page import report
from medssl.review.terminal import evaluation_shown, grid_table
from medssl.tracking.journal import Journal
from medssl.tracking.records import read_runs

VALUE = vars(score(0.8, 0.1))


def evaluate(workspace: Path, evaluation: dict[str, Any], **beside: Any) -> Evaluated:
    with Journal.start(workspace, "evaluate", "chest", {}) as journal:
        write_json(journal.folder / "evaluation.json", evaluation)
        for name, data in beside.items():
            write_json(journal.folder / f"{name}.json", data)
    (found,) = evaluations(read_runs(workspace))
    return found


def whole(workspace: Path) -> Evaluated:
    systems = {"zebra": {"linear": VALUE}, "pixels": {"pca": VALUE}, "encoder": {"knn": VALUE, "linear": VALUE}}
    reasons = ["It is better.", "Warning (frame alone): There is a shortcut."]
    evaluation = {
        "task": "pneumonia", "metric": "auroc", "classes": ["a", "b"], "systems": systems,
        "differences": {"pixels": VALUE, "zebra": VALUE},
        "metrics": {name: metrics(0.8) for name in ("zebra", "encoder_few", "pixels", "encoder")},
        "by_class": {name: {"effusion": VALUE, "nodule": VALUE} for name in ("pixels", "encoder")},
        "covered": audits().to_json()["covered"],
        "few_shot": few_shot().to_json(), "structure": structure().to_json(), "subgroups": subgroups().to_json(),
        "rule": GateRule().data(), "verdict": {"decision": "go", "reasons": reasons},
    }  # fmt: skip
    return evaluate(workspace, evaluation, audits=audits().to_json(), curve=curve().to_json())


def text_of(found: Evaluated, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    for part in evaluation_shown(found):
        console.print(part)
    return console.export_text()


def test_the_encoder_comes_first_by_the_probe_that_decides_and_unknown_systems_last(tmp_path: Path) -> None:
    found = whole(tmp_path)
    assert [row.label.split(",")[0] for row in found.systems.rows] == [
        "Pretrained encoder", "Pretrained encoder", "Raw pixels", "Zebra"
    ]  # fmt: skip
    assert found.systems.rows[0].label.endswith("linear probe")
    assert [bool(row.cells[1].score) for row in found.systems.rows] == [False, False, True, True]
    assert [(m.system, m.name) for m in found.headline] == [("encoder", "linear"), ("difference", "pixels")]


def test_a_difference_without_its_system_is_shown_all_the_same(tmp_path: Path) -> None:
    found = evaluate(tmp_path, {"systems": {"encoder": {"linear": VALUE}}, "differences": {"scratch": VALUE}})
    assert [row.label for row in found.systems.rows] == [
        "Pretrained encoder, linear probe",
        "Same network from scratch",
    ]


def test_the_difference_of_a_probe_that_does_not_decide_stands_beside_it(tmp_path: Path) -> None:
    ahead = vars(score(0.07, 0.02, metric="auroc difference"))
    probes = {"attentive": VALUE, "linear": VALUE}
    said = {"systems": {"encoder": probes, "random": probes}, "differences": {"random": VALUE}}
    found = evaluate(tmp_path, {**said, "probe_differences": {"random": {"attentive": ahead}}})
    shown = {row.label: row.cells[1].score for row in found.systems.rows}
    assert shown["Untrained encoder, attentive probe"] == score(0.07, 0.02, metric="auroc difference")
    assert shown["Untrained encoder, linear probe"] == score(0.8, 0.1)
    assert [m.name for m in found.differences] == ["random"]


def test_warnings_of_audits_stand_apart_from_reasons_and_come_first_among_audits(tmp_path: Path) -> None:
    found = whole(tmp_path)
    assert found.verdict is not None
    assert (found.verdict.reasons, len(found.verdict.warnings)) == (("It is better.",), 1)
    assert [(audit.name, audit.warning) for audit in found.audits] == [
        ("frame alone", True), ("duplicates", False), ("scanner", False)
    ]  # fmt: skip


def test_what_could_not_be_measured_says_why(tmp_path: Path) -> None:
    found = whole(tmp_path)
    assert "2 patients of class 'normal' of 5 needed" in found.subgroups.rows[-1].cells[0].text
    assert "Not with 10 a class: class 'normal' has 9 labelled dev patients of 10." in found.few_shot.caption


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_figure_with_interval_n_and_run_and_the_verdict_last(
    tmp_path: Path, width: int
) -> None:
    found = whole(tmp_path)
    text = text_of(found, width)
    assert max(map(len, text.splitlines())) <= width
    figure = r"[+-]?\d\.\d{3}"
    told = rf"{figure} \[{figure}, {figure}\]|± {figure}|{figure}…{figure}|sd {figure}"
    alone = re.findall(figure, re.sub(told, "", text))
    above = re.findall(rf"{figure}…{figure}", text)
    assert len(alone) == len(above) > 0  # in tables of many columns a figure stands above its interval
    assert text.count(found.run.id) == 9
    assert "n = 118 patients" in text
    assert "draws ± 0.040" in text
    assert "draws ± 0.052" in text  # of a difference
    assert "by the linear probe, margin 0.01, few labels: 100 patients in 5 draws" in " ".join(text.split())
    assert text.index("The data set has a shortcut") < text.index("gate: go") < text.index("It is better.")
    assert "! Audits that warn, see above: frame alone." in text


@pytest.mark.parametrize(
    ("decision", "drawn", "kind", "said"),
    [
        ("no_go", False, Kind.CLASSES, True),
        ("no_go", False, Kind.REGRESSION, False),
        ("no_go", True, Kind.CLASSES, False),
        ("go", False, Kind.CLASSES, False),
    ],
)
def test_what_a_probe_may_have_missed_is_pointed_to_until_the_curve_is_drawn(
    tmp_path: Path, decision: str, drawn: bool, kind: Kind, said: bool
) -> None:
    found = whole(tmp_path)
    assert found.verdict is not None
    found = replace(found, verdict=replace(found.verdict, decision=decision), kind=kind)
    found = found if drawn else replace(found, curve=None)
    assert ("medssl evaluate --curve" in text_of(found, 120)) is said


def test_every_metric_stands_beside_those_of_the_baselines_what_few_labels_taught_apart(tmp_path: Path) -> None:
    found = whole(tmp_path)
    assert found.metrics.head == ("Pretrained encoder", "Raw pixels", "Zebra")
    assert [row.label for row in found.metrics.rows] == ["AUROC", "Brier score (lower is better)"]
    assert "The gate goes by AUROC" in found.metrics.caption
    (few,) = found.more_metrics
    assert (few.head, "few labels" in few.caption) == (("Pretrained encoder",), True)
    assert [row.label for row in found.by_class.rows] == ["effusion", "nodule"]
    text = text_of(found, 80)
    assert text.index("All metrics") < text.index("Brier score") < text.index("Each class or finding")


def test_the_terminal_shows_the_first_systems_of_a_table_of_many(tmp_path: Path) -> None:
    systems = {name: metrics(0.8) for name in ("thumbnail", "frame", "corners", "pixels", "random", "encoder")}
    found = evaluate(tmp_path, {"systems": {"encoder": {"linear": VALUE}}, "metrics": systems})
    assert len(found.metrics.head) == 6
    text = " ".join(text_of(found, 80).split())
    assert "Raw" in text
    assert "thumbnail" not in text


def test_comparisons_with_the_frame_covered_say_that_they_are_of_the_audited_images(tmp_path: Path) -> None:
    assert "of the audited images alone (audit.images)" in whole(tmp_path).covered.caption


def test_differing_counts_stand_beside_their_figures() -> None:
    rows = tuple(Row(str(n), (Cell(score(0.9, 0.1, n)),)) for n in (5, 6))
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(grid_table(Grid("", ("AUROC",), rows), "t", "run-1"))
    text = console.export_text()
    assert "0.900 [0.800, 1.000] n = 5" in text
    assert "0.900 [0.800, 1.000] n = 6" in text


WITHIN = ("encoder", "measured", "table", "gaps", "figures", "scores", "score", "shots", "reasons", "decision", "name")


@pytest.mark.parametrize("columns", [1, 3, 5])
def test_a_table_of_many_columns_still_fits_80_characters(columns: int) -> None:
    rows = (
        Row(
            "the same network from scratch, fine-tuned", tuple(Cell(score(0.9, 0.1), "sd 0.1") for _ in range(columns))
        ),
    )
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(grid_table(Grid("", ("3,000 (100 %)",) * columns, rows), "t", "run-1"))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("0.900") == text.count("1.000") == columns
    assert "scratch" in text


KEYS = (
    "rule",
    "systems",
    "differences",
    "metrics",
    "by_class",
    "others",
    "external",
    "covered",
    "few_shot",
    "structure",
    "subgroups",
    "verdict",
    "classes",
    "audits",
)
DAMAGED = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.text(max_size=4) | st.just(VALUE),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*KEYS, *WITHIN]), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS), DAMAGED, max_size=4), DAMAGED)
def test_files_of_another_shape_cost_their_part_only(
    tmp_path_factory: pytest.TempPathFactory, evaluation: dict[str, Any], beside: Any
) -> None:
    found = evaluate(tmp_path_factory.mktemp("w"), json.loads(json.dumps(evaluation)), audits=beside, curve=beside)
    assert isinstance(text_of(found, 80), str)


@pytest.mark.parametrize("by", list(By))
def test_where_fine_tuning_was_judged_its_figures_lead_and_it_is_not_recommended(tmp_path: Path, by: By) -> None:
    told = {"scratch": VALUE, "pixels_few": VALUE, "small_resnet": VALUE, "random": VALUE, "pixels": VALUE}
    systems = {"encoder": {"linear": VALUE, "few": VALUE}, "scratch": {"few": VALUE}, "pixels": {"pca": VALUE}}
    verdict = {"decision": "no_go", "reasons": ["It lost."]}
    rule = GateRule(by=by).data()
    found = evaluate(tmp_path, {"task": "t", "systems": systems, "differences": told, "rule": rule, "verdict": verdict})
    main = {"probe": {"linear", "random", "pixels", "small_resnet"}}
    main["fine_tuned"] = {"few", "scratch", "pixels_few", "small_resnet"}
    assert {row.name for row in found.headline} == main[by]
    text = " ".join(text_of(found, 80).split())
    assert ("by fine-tuning, margin 0.01" in text) == (by is By.FINE_TUNED)
    assert ("A probe can miss" in text) == (by is By.PROBE)


def test_an_evaluation_without_labels_has_its_page(tmp_path: Path) -> None:
    found = evaluate(
        tmp_path, {"task": "t", "systems": {}, "verdict": {"decision": "undecided", "reasons": ["no label"]}}
    )
    assert text_of(found, 80).split() == ["gate:", "undecided", "•", "no", "label"]
    text = report(read_runs(tmp_path), tmp_path / "r.html", "t").read_text()
    assert "There were no labels to judge with." in text
    assert "Audits:" not in text
