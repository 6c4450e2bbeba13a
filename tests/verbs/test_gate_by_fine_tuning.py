"""The gate that judges the fine-tuned encoder: who goes, who does not, and what it is compared with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cue_images import SIZE, Cohort, cohort
from image_pool import pool_of_images
from torch import Tensor, nn

from medssl.core.errors import EvaluationError
from medssl.core.types import Geometry, Role
from medssl.data.covers import Cover
from medssl.data.prepare import prepare
from medssl.evaluation.evaluate import few_labels
from medssl.evaluation.problem import Fit, Floats, Kind, Rows
from medssl.models.build import build_encoder, save_encoder
from medssl.models.encoders.base import ENCODERS, Encoder
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.verbs.context import find_encoder
from medssl.verbs.covered import covered_learning
from medssl.verbs.evaluate import evaluate
from medssl.verbs.learners import learners
from medssl.verbs.subject import Subject

ENCODER = {"name": "resnet", "depth": 10, "width": 8, "stem": 1}
QUICK = {"least": 4, "most": 4, "rates": [0.003], "moments": 1}
LONG = {"least": 40, "most": 40, "rates": [0.003], "moments": 2}


def study_of(folder: Path, cue: str | None = None, *, num: int, tuning: dict[str, Any], **gate: Any) -> Study:
    """Return a study that judges by fine-tuning, on a pool of ``num`` patients with a nodule or none."""
    return Study.parse({
        "name": "discs", "pool": pool_of(folder / "pool", cohort(0, num, cue)),
        "workspace": folder / "workspace", "encoder": ENCODER,
        "prepare": {"shape": [SIZE, SIZE]}, "method": {"name": "rotation"},
        "tasks": {"nodule": {"loop": {"batch_size": 16}, "crop_scale": [1.0, 1.0], "contrast": 0.0}},
        "evaluation": {
            "bootstrap": 200, "shot_draws": 1, "pictures": {"images": 0}, "curve": {"tuning": tuning},
            "audit": {"images": 0}, "gate": {"by": "fine_tuned", **gate},
        },
    })  # fmt: skip


def pool_of(path: Path, found: Cohort) -> Path:
    images = (found.images[:, 0] * 255).round().astype(np.uint8)
    rows = {role: np.flatnonzero(found.problem.roles == str(role)) for role in Role}
    truth, people = found.problem.truth, found.problem.patients
    parts = {role: (images[at], truth[at], people[at].tolist()) for role, at in rows.items()}
    pool_of_images(path, parts, "nodule", found.problem.names)
    return path


def kept(folder: Path, encoder: Encoder, study: Study) -> str:
    """Keep an encoder as a pretraining would have."""
    folder.mkdir(parents=True)
    about = {"name": "resnet", "config": config().data(), "prepare": study.prepare.data(), "fingerprint": folder.name}
    save_encoder(encoder, folder, about)
    return str(folder)


def config() -> Any:
    return ENCODERS.load("resnet").config_class.parse({k: v for k, v in ENCODER.items() if k != "name"})


def untaught(seed: int) -> Encoder:
    return build_encoder("resnet", config(), Geometry((SIZE, SIZE)), seed=seed)


def taught(images: Tensor, answers: np.ndarray) -> Encoder:
    """Return an encoder that answers for these images."""
    encoder, rng = untaught(1), np.random.default_rng(0)
    head = nn.Linear(encoder.width, 1)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(400):
        rows = torch.from_numpy(rng.choice(len(images), 32, replace=False))
        said = head(encoder(images[rows]).pooled)[:, 0]
        loss = F.binary_cross_entropy_with_logits(said, torch.from_numpy(answers)[rows].float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return encoder


def others(study: Study, cue: str | None = None) -> tuple[Tensor, np.ndarray]:
    """Return images of a thousand other patients, prepared as those of the study, and whether each has a nodule."""
    pool = Pool.open(pool_of(study.pool.parent / "others", cohort(1, 2000, cue)))
    data = prepare(pool, study.prepare).role(Role.DEV)
    truth = dict(data.catalog.targets("nodule").iter_rows())
    return data.images(np.arange(len(data))), np.array([truth[v] == "sick" for v in data.catalog.volumes["volume"]])


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("by_fine_tuning")
    study = study_of(folder, num=120, tuning=QUICK, budget=16, draws=1)
    pool = Pool.open(study.pool)
    return Subject.of(study, pool, find_encoder(study, pool, kept(folder / "fresh", untaught(9), study)), "nodule")


def test_what_decides_are_networks_of_one_tuning_and_pixels_with_the_same_few_labels(subject: Subject) -> None:
    data = evaluate(subject.study, encoder=str(subject.study.pool.parent / "fresh")).data
    assert {"scratch", "small_resnet", "pixels_few"} == data["draw_spreads"].keys()
    assert all("few" in data["systems"][name] for name in ("encoder", "scratch", "small_resnet", "pixels"))
    assert {"linear", "knn"} <= data["systems"]["encoder"].keys()  # probes are shown, and decide nothing
    assert "the random encoder" not in " ".join(data["verdict"]["reasons"])
    assert data["covered"].keys() == {"scratch", "pixels_few"}
    assert {found["lost"]["metric"] for found in data["covered"].values()} == {"auroc lead lost"}
    assert data["verdict"]["decision"] != "go"


def test_under_a_cover_a_network_learns_and_is_judged_on_covered_images(subject: Subject) -> None:
    given, dev = (subject.study, subject.found), subject.problem.rows(Role.DEV)
    shown = subject.data.covered(Cover.BORDER)
    tuning = subject.study.evaluation.curve.tuning
    plain, under = (
        learners(*given, data, "nodule", subject.problem, tuning=tuning)["encoder"] for data in (subject.data, shown)
    )
    assert plain.mark != under.mark
    judged = dev[:16], dev[:0], subject.judge.test, 3
    assert np.array_equal(under(*judged), subject.learners(Cover.BORDER)["encoder"](*judged))
    assert not np.allclose(under(*judged), plain(*judged), atol=1e-3)


def test_what_a_cover_takes_is_the_encoders_lead_before_less_its_lead_after(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learning(signal: float, name: int) -> Fit:
        def fit(train: Rows, val: Rows, test: Rows, seed: int) -> Floats:
            noise = np.random.default_rng((name, seed)).normal(size=len(test))  # of the draw, covered or not
            p = 1 / (1 + np.exp(-signal * subject.problem.truth[test] - noise))
            return np.stack([1 - p, p], axis=1)

        return fit

    def learners(self: Subject, cover: Cover | None = None) -> dict[str, Fit]:
        return {"encoder": learning(4.0 if cover is None else 1.0, 1), "scratch": learning(1.0, 2)}

    monkeypatch.setattr(Subject, "learners", learners)
    rule = subject.study.evaluation.gate.model_copy(update={"draws": 4})
    evaluation = subject.study.evaluation.model_copy(update={"gate": rule})
    found = covered_learning(replace(subject, study=subject.study.model_copy(update={"evaluation": evaluation})))
    one, judge, problem = found["scratch"], subject.judge, subject.problem
    few = {
        key: judge.score(few_labels(problem, learning(signal, name), rule, 0)).value
        for key, signal, name in (("before", 4.0, 1), ("after", 1.0, 1), ("scratch", 1.0, 2))
    }
    assert one.encoder.value == pytest.approx(few["after"])
    assert one.baseline.value == pytest.approx(few["scratch"])
    assert one.difference.value == pytest.approx(few["after"] - few["scratch"])
    assert one.lost is not None
    assert one.lost.value == pytest.approx(few["before"] - few["after"])  # scratch is as good as before
    assert one.lost.low > 0
    assert one.draws == 4
    assert one.draw_spread > 0
    assert one.difference.high - one.difference.low > 2 * one.draw_spread / 2  # of draws, beside that of patients


def test_a_task_without_classes_is_refused_in_one_line(subject: Subject) -> None:
    task = subject.study.tasks["nodule"].model_copy(update={"kind": Kind.MULTILABEL})
    study = subject.study.model_copy(update={"tasks": {"nodule": task}})
    with pytest.raises(EvaluationError, match="fine_tuned needs classes, task nodule is multilabel; take probe"):
        evaluate(study, encoder=str(study.pool.parent / "fresh"))


@pytest.mark.slow
def test_an_encoder_that_fine_tunes_better_than_its_network_from_scratch_goes(tmp_path: Path) -> None:
    study = study_of(tmp_path, num=500, tuning=LONG, budget=48, draws=5)
    verdict = evaluate(study, encoder=kept(tmp_path / "good", taught(*others(study)), study)).data["verdict"]
    assert verdict["decision"] == "go", verdict
    assert "better than the same network from scratch" in " ".join(verdict["reasons"])


@pytest.mark.slow
def test_a_solver_of_a_cue_at_the_border_does_not_go_however_well_it_fine_tunes(tmp_path: Path) -> None:
    study = study_of(tmp_path, "marker", num=500, tuning=LONG, budget=48, draws=5)
    images, sick = others(study, "marker")
    images[:, :, 7:-7, 7:-7] = 0.3  # nothing to learn but the border
    data = evaluate(study, encoder=kept(tmp_path / "solver", taught(images, sick), study)).data
    assert data["differences"]["scratch"]["low"] > 0  # it would have gone
    assert data["verdict"]["decision"] == "no_go", data["verdict"]
    assert "border of every image covered" in " ".join(data["verdict"]["reasons"])


@pytest.mark.slow
def test_a_random_encoder_is_no_better_than_its_network_from_scratch_and_never_goes(tmp_path: Path) -> None:
    study = study_of(tmp_path, num=500, tuning=LONG, budget=48, draws=5)
    led = []
    for seed in range(4):
        data = evaluate(study, encoder=kept(tmp_path / f"random {seed}", untaught(100 + seed), study)).data
        assert data["verdict"]["decision"] != "go", data["verdict"]
        led.append(data["differences"]["scratch"])
    assert not any(found["low"] > 0 for found in led)
    assert np.mean([found["value"] for found in led]) < 0.02
