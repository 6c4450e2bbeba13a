"""Pictures of an evaluated encoder are made from prepared volumes, 2D and 3D, with labels and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_pool import make_pool

from medssl.core.types import Role
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.prepared import Prepared
from medssl.engine.scoring import embed
from medssl.evaluation.config import PicturesConfig
from medssl.evaluation.fits import knn_fit
from medssl.evaluation.judge import Judge
from medssl.evaluation.problem import Kind, Problem
from medssl.models.build import build_encoder
from medssl.models.encoders.base import ENCODERS, Encoder
from medssl.verbs.pictures import chosen, draw_pictures

CPU = torch.device("cpu")
CONFIG = PicturesConfig(images=3, neighbours=2, points=40)
ENCODERS_TRIED: dict[str, dict[str, Any]] = {
    "vit": {"width": 24, "depth": 1, "heads": 2, "patch": 8},
    "resnet": {"depth": 10, "width": 8, "stem": 2},
}


def prepared(folder: Path, ndim: int, *, labelled: bool = True) -> Prepared:
    pool = make_pool(folder / "pool", 24, ndim=ndim, labelled=labelled)
    return prepare(pool, PrepareConfig.parse({"shape": [8, 32, 32][-ndim:]}))


def problem_of(data: Prepared) -> Problem:
    volumes, labels = data.catalog.volumes, dict(data.catalog.targets("shape").iter_rows())
    values = [labels.get(volume) for volume in volumes["volume"]]
    groups = {"scanner": volumes["scanner"].to_list(), "site": [None] * len(volumes)}
    return Problem.of("shape", values, volumes["role"].to_list(), volumes["patient"].to_list(), groups=groups)


def encoder_for(name: str, data: Prepared) -> Encoder:
    return build_encoder(name, ENCODERS.load(name).config_class.parse(ENCODERS_TRIED[name]), data.geometry, seed=0)


@pytest.mark.parametrize(
    ("name", "ndim", "kinds"),
    [("vit", 2, {"tokens", "attention"}), ("vit", 3, {"tokens", "attention"}), ("resnet", 2, {"features"})],
)
def test_every_kind_of_picture_is_drawn(tmp_path: Path, name: str, ndim: int, kinds: set[str]) -> None:
    data = prepared(tmp_path, ndim)
    problem, encoder = problem_of(data), encoder_for(name, data)
    features = embed(encoder, data, CPU)
    rows = [problem.rows(role) for role in Role]
    predictions = knn_fit(problem, features)(*rows, 0)
    judge = Judge(problem, "auroc", num_resamples=50)
    made = draw_pictures(tmp_path / "pictures", encoder, data, features, judge, CONFIG, CPU, predictions)
    assert {path.stem for path in made} == kinds | {"neighbours", "map-label", "map-scanner", "reliability"}
    assert {*made} == {*(tmp_path / "pictures").iterdir()}
    for path in made:
        with Image.open(path) as image:
            assert min(image.size) > 150
            assert len(np.unique(np.asarray(image))) > 10
            assert not image.info.get("Software")


def test_without_labels_there_are_pictures_that_need_none(tmp_path: Path) -> None:
    data = prepared(tmp_path, 2, labelled=False)
    problem, encoder = problem_of(data), encoder_for("vit", data)
    judge = Judge(problem, "auroc")
    made = draw_pictures(tmp_path / "p", encoder, data, embed(encoder, data, CPU), judge, CONFIG, CPU)
    assert {path.stem for path in made} == {"tokens", "attention", "neighbours", "map-scanner"}
    nothing = CONFIG.model_copy(update={"images": 0})
    assert draw_pictures(tmp_path / "none", encoder, data, np.zeros((len(data), 2)), judge, nothing, CPU) == ()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", [Kind.CLASSES, Kind.MULTILABEL, Kind.REGRESSION])
def test_images_to_look_at_are_of_different_test_patients_with_classes_in_turn(kind: Kind) -> None:
    values = {Kind.CLASSES: "aaab", Kind.MULTILABEL: "aaab", Kind.REGRESSION: "1234"}[kind] * 10
    people = [f"p{i // 2}" for i in range(40)]
    roles = ["test" if i < 24 else "dev" for i in range(40)]
    problem = Problem.of("t", list(values), roles, people, kind=kind)
    rows = chosen(problem, 4, seed=0)
    assert len({*problem.patients[rows]}) == len(rows) == 4
    assert {*problem.roles[rows]} == {"test"}
    assert np.array_equal(rows, chosen(problem, 4, seed=0))
    if kind is not Kind.REGRESSION:
        assert [values[row] for row in rows[:2]] in (["a", "b"], ["b", "a"])
