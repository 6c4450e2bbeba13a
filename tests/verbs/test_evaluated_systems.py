"""What an evaluation may be asked beyond one encoder on one pool: other pools, other encoders, a probe on tokens."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from small_pool import STUDY, make_pool

from medssl.core.errors import EncoderError, EvaluationError
from medssl.core.files import read_json
from medssl.data.prepare import prepare
from medssl.engine.distributed import device_for
from medssl.engine.scoring import embed
from medssl.evaluation import fits
from medssl.evaluation.curve import Curve
from medssl.evaluation.metrics import DEFAULT_METRIC, metric_named, metrics_of
from medssl.evaluation.problem import Kind
from medssl.models.build import build_encoder, load_encoder, save_encoder
from medssl.pool.pool import Pool
from medssl.review import grids
from medssl.study import Study, load_study
from medssl.tracking.records import read_runs
from medssl.verbs.context import find_encoder
from medssl.verbs.evaluate import evaluate
from medssl.verbs.pretrain import pretrain
from medssl.verbs.subject import Subject, outside, problem_of

FAST = [
    "evaluation.bootstrap=100",
    "watch.pictures_epochs=0",
    "evaluation.audit.images=0",
    "evaluation.pictures.images=0",
]
FLAT = ["method={name: rotation}", "encoder={name: resnet, depth: 10, width: 8}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("systems")
    make_pool(made / "pool", 40)
    make_pool(made / "elsewhere", 70)  # the first 40 patients are those of the pool
    (made / "small.yaml").write_text(STUDY.format(pool=made / "pool", workspace=made / "workspace"))
    return made


def study_of(folder: Path, *more: str) -> Study:
    return load_study(folder / "small.yaml", [*FAST, *more])


@pytest.fixture(scope="module")
def runs(folder: Path) -> tuple[str, str]:
    one, two = (str(pretrain(study_of(folder, f"loop.epochs={n}")).data["run"]) for n in (1, 2))
    return one, two


@pytest.fixture(scope="module")
def data(folder: Path, runs: tuple[str, str]) -> dict[str, Any]:
    elsewhere = folder / "elsewhere"
    asked = f"evaluation.external={{elsewhere: {elsewhere}}}", f"evaluation.audit.source={elsewhere}"
    return evaluate(
        study_of(folder, *asked, "evaluation.attentive=true", "evaluation.audit.images=100"), encoder=runs
    ).data


def test_another_pool_is_judged_on_its_own_patients_by_probes_that_learnt_on_this_one(
    folder: Path, runs: tuple[str, str], data: dict[str, Any]
) -> None:
    there = data["external"]["elsewhere"]
    assert {"encoder", "random", "pixels", "frame", "thumbnail"} <= there["systems"].keys()
    assert there["differences"].keys() == there["systems"].keys() - {"encoder"}
    assert {score["n"] for score in there["systems"].values()} == {30}  # patients that this pool does not know
    assert there["knn"].keys() == {"encoder", "random"}
    assert there["metrics"].keys() == there["systems"].keys()
    assert all(list(found) == list(metrics_of(Kind.CLASSES)) for found in there["metrics"].values())
    assert there["metrics"]["encoder"]["auroc"]["value"] == pytest.approx(there["systems"]["encoder"]["value"])
    study = study_of(folder)
    encoder, _ = load_encoder(study.workspace / "runs" / runs[0])
    features, columns, truth = [], [], {}
    for name in ("pool", "elsewhere"):
        prepared = prepare(Pool.open(folder / name), study.prepare)
        features.append(embed(encoder, prepared, device_for()))
        columns.append(prepared.catalog.volumes)
        truth |= dict(prepared.catalog.targets("shape").iter_rows())
    known = set(columns[0]["patient"])
    new = np.flatnonzero([patient not in known for patient in columns[1]["patient"]])
    here = problem_of(study, "shape", columns[0], truth)
    theirs = problem_of(study, "shape", columns[1], truth)
    x = np.concatenate([features[0], features[1][new]])
    both = problem_of(study, "shape", columns[0].vstack(columns[1][new]), truth)
    dev, val = (np.flatnonzero(here.roles == role) for role in ("dev", "val"))
    predicted = fits.linear_fit(both, x)(dev, val, len(here) + np.arange(len(new)), study.seed)
    auroc = metric_named(DEFAULT_METRIC[Kind.CLASSES])(theirs.truth[new], predicted, np.ones((1, len(new))))[0]
    assert there["systems"]["encoder"]["value"] == pytest.approx(auroc, abs=1e-6)


def test_patients_of_this_pool_are_judged_in_no_other_one_labelled_or_not(folder: Path, runs: tuple[str, str]) -> None:
    study = study_of(folder)
    pool = Pool.open(study.pool)
    subject = Subject.of(study, pool, find_encoder(study, pool, runs[0]), "shape")
    rows = np.flatnonzero(subject.problem.roles != "test")[:30]  # the others have no labels, say
    volumes = subject.data.catalog.volumes["volume"].gather(rows).to_list()
    part = replace(
        subject, data=subject.data.of(subject.data.catalog.only(volumes)), problem=subject.problem.only(rows)
    )
    problem, _ = outside(part, "elsewhere", folder / "elsewhere")
    judged = {*problem.patients[problem.roles == "test"].tolist()}
    assert len(judged) == 30
    assert not judged & {*pool.catalog.volumes["patient"].to_list()}


def test_how_far_pools_are_from_each_other_is_told_of_every_pair_with_a_source_among_them(data: dict[str, Any]) -> None:
    names = {"this pool", "elsewhere", "source"}
    pairs = {(one["source"], one["target"]) for one in data["domains"]}
    assert pairs == {(a, b) for a in names for b in names if a != b}
    assert not any(one["is_far"] for one in data["domains"])  # discs everywhere
    assert all(0 <= one["separable"]["low"] <= one["separable"]["value"] <= 1 for one in data["domains"])
    assert len(grids.domains(data["domains"]).rows) == len(pairs)


def test_where_other_pools_lie_is_in_no_run(folder: Path, data: dict[str, Any]) -> None:
    run = folder / "workspace" / "runs" / data["run"]
    assert not [
        file.name
        for file in run.iterdir()
        if file.is_file() and str(folder / "elsewhere").encode() in file.read_bytes()
    ]
    assert "elsewhere" in (run / "journal.jsonl").read_text()


def test_a_pool_of_the_same_patients_or_without_labels_is_no_other_pool(
    folder: Path, runs: tuple[str, str], tmp_path: Path
) -> None:
    make_pool(tmp_path / "unlabelled", 60, labelled=False)
    for path in (folder / "pool", tmp_path / "unlabelled"):
        study = study_of(folder, f"evaluation.external={{elsewhere: {path}}}")
        with pytest.raises(EvaluationError, match=r"evaluation.external.elsewhere: no labels of task 'shape'"):
            evaluate(study, encoder=runs[0])


def test_of_several_encoders_the_first_is_judged_and_the_others_compared_on_the_same_patients(
    folder: Path, runs: tuple[str, str], data: dict[str, Any]
) -> None:
    (other,) = data["others"]
    assert other == runs[1]
    turned = evaluate(study_of(folder), encoder=[runs[1], runs[0]]).data
    ours, theirs = data["systems"]["encoder"]["linear"], data["others"][runs[1]]["linear"]
    assert turned["systems"]["encoder"]["linear"] == theirs
    assert turned["others"][runs[0]]["linear"] == ours
    assert turned["systems"]["encoder"]["knn"] == data["others"][runs[1]]["knn"]
    assert turned["metrics"]["encoder"] == data["others"][runs[1]]["metrics"]
    difference, reverse = data["others"][runs[1]]["difference"], turned["others"][runs[0]]["difference"]
    assert difference["value"] == pytest.approx(ours["value"] - theirs["value"])
    assert [difference[name] for name in ("value", "low", "high")] == pytest.approx(
        [-reverse[name] for name in ("value", "high", "low")]
    )


def test_the_probe_on_tokens_stands_beside_the_others_and_needs_tokens(
    folder: Path, runs: tuple[str, str], data: dict[str, Any], tmp_path: Path
) -> None:
    probes = data["systems"]["encoder"]
    assert {"knn", "linear", "attentive"} <= probes.keys()
    assert 0 <= probes["attentive"]["low"] <= probes["attentive"]["value"] <= probes["attentive"]["high"] <= 1
    beside, ahead = data["systems"]["random"]["attentive"], data["probe_differences"]["random"]
    assert ahead.keys() == {"knn", "attentive"}  # the linear probe, which decides, is among the differences
    assert ahead["attentive"]["value"] == pytest.approx(probes["attentive"]["value"] - beside["value"])
    study = study_of(folder, *FLAT, "evaluation.attentive=true")
    encoder = build_encoder("resnet", study.encoder.config, study.prepare.geometry, seed=0)
    about = {"name": "resnet", "config": study.encoder.config.data(), "prepare": study.prepare.data()}
    save_encoder(encoder, tmp_path, {**about, "fingerprint": "untrained"})
    with pytest.raises(EvaluationError, match=r"evaluation.attentive: the encoder resnet has no tokens"):
        evaluate(study, encoder=str(tmp_path))
    compared = evaluate(study_of(folder, "evaluation.attentive=true"), encoder=[runs[0], str(tmp_path)]).data
    assert compared["others"].keys() == {"untrained"}  # of the others the linear probe is asked


CURVE = ["evaluation.curve.fractions=[0.5,1.0]", "evaluation.curve.seeds=2"]
CURVE += [f"evaluation.curve.tuning.{key}={value}" for key, value in {"least": 2, "most": 2, "moments": 1}.items()]


def test_a_curve_is_in_the_result_the_run_and_its_summary(folder: Path, runs: tuple[str, str]) -> None:
    result = evaluate(study_of(folder, *CURVE), encoder=runs[0], curve=True)
    found = Curve.from_json(result.data["curve"])
    assert {"encoder.probe", "encoder.tuned", "random.probe", "scratch", "small_resnet", "pixels"} <= {
        line.system for line in found.lines
    }
    run = folder / "workspace" / "runs" / result.data["run"]
    assert Curve.from_json(read_json(run / "curve.json")) == found
    assert (run / "pictures" / "curve.png").is_file()
    summary = next(r for r in read_runs(folder / "workspace") if r.id == result.data["run"]).summary
    assert summary["curve.encoder.probe.1"] == found.line("encoder.probe").points[-1].score
    console = Console(width=200, file=io.StringIO())
    for part in result.shown:
        console.print(part)
    assert "by labelled patients" in console.file.getvalue()


def test_without_labels_no_curve_is_drawn_and_the_run_says_so(
    folder: Path, runs: tuple[str, str], tmp_path: Path
) -> None:
    make_pool(tmp_path / "unlabelled", 40, labelled=False)
    study = study_of(folder, *CURVE, f"pool={tmp_path / 'unlabelled'}")
    result = evaluate(study, encoder=str(folder / "workspace" / "runs" / runs[0]), curve=True)
    assert result.data["verdict"]["decision"] == "undecided"
    assert "curve" not in result.data
    journal = folder / "workspace" / "runs" / result.data["run"] / "journal.jsonl"
    assert "no label-efficiency curve" in journal.read_text()


def test_an_encoder_that_is_not_there_is_refused(folder: Path, runs: tuple[str, str]) -> None:
    with pytest.raises(EncoderError, match="neither a finished run nor a folder"):
        evaluate(study_of(folder), encoder=[runs[0], "nowhere"])
