"""The curve of a study: every system on the same draws, written into the run, and gone on with after a stop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_pool import STUDY, make_pool

from medssl.core.files import read_json
from medssl.core.types import Role
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.evaluation.curve import Curve, Use
from medssl.evaluation.problem import Kind, Problem
from medssl.models.build import build_encoder, save_encoder
from medssl.study import Study, load_study
from medssl.verbs import curve as drawing
from medssl.verbs.context import FoundEncoder
from medssl.verbs.learners import Learner

GRID = [
    "evaluation.curve.fractions=[0.3, 1.0]",
    "evaluation.curve.seeds=2",
    "evaluation.bootstrap=100",
    "evaluation.curve.tuning={least: 3, most: 3, moments: 1, rates: [0.001]}",
]


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Study, Prepared, Problem]:
    file = tmp_path / "small.yaml"
    file.write_text(STUDY.format(pool=tmp_path / "pool", workspace=tmp_path / "workspace"))
    study = load_study(file, GRID)
    data = prepare(make_pool(tmp_path / "pool", 60, 1), study.prepare)
    truth, rows = dict(data.catalog.targets("shape").iter_rows()), data.catalog.volumes
    values = [truth.get(volume) for volume in rows["volume"]]
    return study, data, Problem.of("shape", values, rows["role"].to_list(), rows["patient"].to_list())


def found(study: Study, data: Prepared, seed: int) -> FoundEncoder:
    encoder = build_encoder(study.encoder.name, study.encoder.config, data.geometry, seed=seed)
    about = {"name": study.encoder.name, "config": study.encoder.config.data()}
    return FoundEncoder(encoder, about, f"print{seed}", None)


def test_two_encoders_and_all_baselines_are_compared_on_the_same_draws_and_a_second_run_computes_nothing(
    parts: tuple[Study, Prepared, Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, data, problem = parts
    encoders = {"first": found(study, data, 1), "second": found(study, data, 2)}
    made = drawing.curve(study, encoders, data, "shape", problem, tmp_path / "run")
    assert {line.system for line in made.lines} == {
        "first.probe", "first.tuned", "second.probe", "second.tuned", "random.probe", "scratch", "small_resnet",
        "pixels", "frame", "thumbnail",
    }  # fmt: skip
    assert {line.system for line in made.lines if not line.baseline} == {
        "first.probe", "first.tuned", "second.probe", "second.tuned",
    }  # fmt: skip
    assert made.disagreements[0].encoders == ("first", "second")
    assert {point.patients for line in made.lines for point in line.points[-1:]} == {
        len(np.unique(problem.patients[problem.rows(Role.DEV)]))
    }
    assert all(point.told for point in made.line("scratch").points)  # rate, steps and epochs are on record
    assert {"rate", "encoder_scale", "step", "steps", "epochs", "by"} == set(made.line("scratch").points[0].told[0])
    assert Curve.from_json(read_json(tmp_path / "run" / "curve.json")) == made
    assert (tmp_path / "run" / "pictures" / "curve.png").read_bytes().startswith(b"\x89PNG")

    def refuse(*args: object) -> None:
        raise AssertionError("a finished cell was computed again")

    monkeypatch.setattr(Learner, "__call__", refuse)
    assert drawing.curve(study, encoders, data, "shape", problem, tmp_path / "later") == made


def test_a_task_without_classes_has_probes_alone(parts: tuple[Study, Prepared, Problem]) -> None:
    study, data, problem = parts
    number = replace(problem, kind=Kind.REGRESSION, names=())
    made = drawing.systems(study, {"encoder": found(study, data, 1)}, data, "shape", number, "mae")
    assert set(made) == {"encoder.probe", "random.probe", "pixels", "frame", "thumbnail"}


def test_the_public_weights_that_a_study_continued_from_are_a_baseline(
    parts: tuple[Study, Prepared, Problem], tmp_path: Path
) -> None:
    study, data, problem = parts
    public = found(study, data, 9)
    save_encoder(public.encoder, tmp_path / "public", public.about)
    continued = study.model_copy(update={"init": tmp_path / "public"})
    made = drawing.systems(continued, {"encoder": found(study, data, 1)}, data, "shape", problem, "auroc")
    plain = drawing.systems(study, {"encoder": public}, data, "shape", problem, "auroc")
    assert made["public.probe"].mark == plain["encoder.probe"].mark
    assert made["public.tuned"].mark == plain["encoder.tuned"].mark
    assert made["public.probe"].baseline and made["public.tuned"].baseline
    assert (made["public.tuned"].use, made["public.tuned"].encoder) == (Use.TUNED, "public")


def test_encoders_of_two_architectures_each_have_their_own_untaught_one(
    parts: tuple[Study, Prepared, Problem],
) -> None:
    study, data, problem = parts
    config = study.encoder.config.model_copy(update={"depth": 1})
    about = {"name": "vit", "config": config.data()}
    other = FoundEncoder(build_encoder("vit", config, data.geometry, seed=3), about, "other", None)
    encoders = {"encoder": found(study, data, 1), "small": other}
    made = drawing.systems(study, encoders, data, "shape", problem, "auroc")
    assert {"random.probe", "scratch", "random.small.probe", "scratch.small"} <= set(made)
    assert made["scratch"].mark != made["scratch.small"].mark
    assert made["scratch.small"].encoder == made["random.small.probe"].encoder == "random.small"
