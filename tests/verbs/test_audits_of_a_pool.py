"""Audits of a real pool and run: every question is asked, twice the same, and a planted corner marker is named."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_pool
from hypothesis import given
from hypothesis import strategies as st
from small_pool import STUDY, make_pool

from medssl.core.types import Role
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.evaluation.audits import Audit, Audits
from medssl.evaluation.problem import Problem
from medssl.pool.pool import Pool
from medssl.study import Study, load_study
from medssl.verbs import audits as auditing
from medssl.verbs.audits import audit
from medssl.verbs.context import find_encoder
from medssl.verbs.looks import looked_at
from medssl.verbs.pretrain import pretrain
from medssl.verbs.subject import Subject

ROTATION = ["method={name: rotation}", "encoder={name: resnet, depth: 10, width: 8, stem: 2}"]
FAST = [
    "loop.epochs=1",
    "loop.batch_size=32",
    "loop.lr=0.05",
    "evaluation.bootstrap=200",
    "evaluation.audit.images=200",
    "watch.pictures_epochs=0",
    *ROTATION,
]


def problem_of(data: Prepared, *, labelled: bool = True) -> Problem:
    volumes = data.catalog.volumes
    truth = dict(data.catalog.targets("shape").iter_rows()) if labelled else {}
    columns = {name: volumes[name].to_list() for name in ("role", "patient", "study", "scanner", "site")}
    groups = {name: columns[name] for name in ("scanner", "site")}
    values = [truth.get(name) for name in volumes["volume"]]
    return Problem.of("shape", values, columns["role"], columns["patient"], studies=columns["study"], groups=groups)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("audited")
    make_pool(folder / "pool", 120, 1)
    file = folder / "small.yaml"
    file.write_text(STUDY.format(pool=folder / "pool", workspace=folder / "workspace"))
    made = load_study(file, FAST)
    pretrain(made)
    return made


def made(study: Study, *, labelled: bool = True) -> Audits:
    pool = Pool.open(study.pool)
    data = prepare(pool, study.prepare)
    found = find_encoder(study, pool)
    return audit(Subject(study, pool, found, data, data, problem_of(data, labelled=labelled), {}))


@pytest.fixture(scope="module")
def audits(study: Study) -> Audits:
    return made(study)


def test_every_question_is_asked_and_answered_the_same_twice(study: Study, audits: Audits) -> None:
    assert [found.name for found in audits.found] == [
        "frame alone", "border covered", "corners alone", "corners covered", "texture", "scanner", "pretext", "views",
        "duplicates", "domain",
    ]  # fmt: skip
    assert set(audits.covered) == {"random", "pixels"}
    data = json.loads(json.dumps(audits.to_json(), allow_nan=False))
    assert data == json.loads(json.dumps(made(study).to_json()))
    for found in audits.found:
        assert found.finding.endswith(".")
        assert all(score.low <= score.value <= score.high and score.n > 1 for score in found.scores.values())
    said = json.dumps(data)
    assert not any(name in said for name in Pool.open(study.pool).catalog.volumes["patient"])


def test_without_labels_only_what_needs_none_is_asked(study: Study) -> None:
    audits = made(study, labelled=False)
    assert [found.name for found in audits.found] == ["pretext", "views", "duplicates"]
    assert audits.covered == {}


def test_no_images_no_audits(study: Study) -> None:
    config = study.evaluation.audit.model_copy(update={"images": 0})
    without = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"audit": config})})
    assert made(without) == Audits()


def test_a_marker_burnt_into_a_corner_of_one_class_is_named(
    study: Study, audits: Audits, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool.open(study.pool)
    data = prepare(pool, study.prepare)
    truth = dict(data.catalog.targets("shape").iter_rows())
    plain = auditing.small_images

    def marked(part: Prepared) -> np.ndarray:
        images = plain(part)
        images[[truth[name] == "bitten" for name in part.catalog.volumes["volume"]], :, :3, :3] = 1
        return images

    monkeypatch.setattr("medssl.verbs.looks.small_images", marked)
    assert {"frame alone", "corners alone"} <= made(study).warnings.keys()
    assert not {"frame alone", "corners alone"} & audits.warnings.keys()


def test_a_copy_of_a_dev_image_among_the_test_patients_is_found(study: Study) -> None:
    pool = Pool.open(study.pool)
    data = prepare(pool, study.prepare)
    volumes = data.catalog.volumes
    dev, test = ((volumes["role"] == str(role)).arg_max() for role in (Role.DEV, Role.TEST))
    digests = volumes["sha256"].to_list()
    digests[test] = digests[dev]
    copied = replace(data.catalog, volumes=volumes.with_columns(sha256=np.array(digests)))
    found = find_encoder(study, pool)
    audits = audit(Subject(study, pool, found, data.of(copied), data, problem_of(data), {}))
    assert "exact: 1" in audits.warnings["duplicates"]


def test_an_encoder_from_elsewhere_is_compared_with_the_pool_that_the_study_names(
    study: Study, audits: Audits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def domain(source: Path | None) -> Audit:
        config = study.evaluation.audit.model_copy(update={"source": source})
        named = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"audit": config})})
        pool = Pool.open(study.pool)
        data, found = prepare(pool, named.prepare), replace(find_encoder(study, pool), images="")
        return audit(Subject(named, pool, found, data, data, problem_of(data), {})).found[-1]

    unknown = domain(None)
    assert "name their pool in evaluation.audit.source" in unknown.finding
    assert not unknown.scores
    assert not unknown.warning
    assert not unknown.facts  # the page shows a question mark
    own = domain(study.pool)
    assert own.facts == audits.found[-1].facts
    assert not own.warning

    def stripes(patient: int, study: int) -> tuple[np.ndarray, str]:
        wave = np.sin(np.arange(40) * (1 + patient % 5) / 2) * 400 + 500
        return np.repeat(wave[None], 40, axis=0).astype(np.uint16), "bitten"

    monkeypatch.setattr(small_pool, "disc", stripes)
    make_pool(tmp_path / "stripes", 120, 1)
    far = domain(tmp_path / "stripes")
    assert far.scores["random tells apart"].value == 1 > own.scores["random tells apart"].high
    assert far.facts["random frechet"] > 2 * own.facts["random frechet"]


@given(st.integers(0, 50), st.integers(1, 120), st.integers(0, 3))
def test_the_images_looked_at_are_whole_patients_of_every_role_within_the_limit(seed: int, most: int, gap: int) -> None:
    rng = np.random.default_rng(seed)
    people = np.sort(rng.integers(40, size=110))
    role_of = rng.choice(["dev", "val", "test"], 40)
    values = [None if gap and i % (gap + 1) else "ab"[i % 2] for i in range(110)]
    problem = Problem.of("t", values, role_of[people].tolist(), [f"p{p}" for p in people])
    rows = looked_at(problem, most, seed)
    assert len(rows) <= most
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(rows, looked_at(problem, most, seed))
    for role in Role:
        known = problem.rows(role)
        here = rows[np.isin(rows, known)]
        assert set(known[np.isin(problem.patients[known], problem.patients[here])]) == set(here)
    if most >= 110:
        assert set(np.flatnonzero(problem.known)) <= set(rows.tolist())
