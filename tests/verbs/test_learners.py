"""Networks that learn from rows: tuned alike, chosen by held-out labels, the same again from the same seed."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pool import STUDY, make_pool

from medssl.core.errors import Diverged, EvaluationError, TrainingError
from medssl.core.types import Geometry, Role
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.engine import checkpoint
from medssl.evaluation.problem import Kind, Problem
from medssl.models.build import build_encoder
from medssl.study import Study, load_study
from medssl.tracking.records import read_runs
from medssl.verbs import learners as learning
from medssl.verbs.context import FoundEncoder
from medssl.verbs.learners import ENCODER, SCRATCH, SMALL_RESNET, Learner, Recipe, Way, learners, stem

TUNING = {"least": 4, "most": 4, "moments": 2, "rates": "[0.001, 0.003]"}
FAST = [f"evaluation.curve.tuning.{key}={value}" for key, value in TUNING.items()] + ["tasks.shape.loop.batch_size=8"]
THREE_D = ["prepare.shape=[16,16,16]", "encoder.patch=8", "selection.pretext=null"]


def made(tmp_path: Path, *overrides: str, ndim: int = 2, **pool: int) -> tuple[Study, FoundEncoder, Prepared, Problem]:
    file = tmp_path / "small.yaml"
    file.write_text(STUDY.format(pool=tmp_path / "pool", workspace=tmp_path / "workspace"))
    study = load_study(file, [*FAST, *(THREE_D if ndim == 3 else []), *overrides])
    data = prepare(make_pool(tmp_path / "pool", pool.get("num_patients", 40), 1, ndim=ndim), study.prepare)
    encoder = build_encoder(study.encoder.name, study.encoder.config, data.geometry, seed=7)
    about = {"name": study.encoder.name, "config": study.encoder.config.data()}
    return study, FoundEncoder(encoder, about, "print", None), data, problem_of(data)


def problem_of(data: Prepared) -> Problem:
    truth = dict(data.catalog.targets("shape").iter_rows())
    rows = data.catalog.volumes
    labels = [truth.get(volume) for volume in rows["volume"]]
    return Problem.of("shape", labels, rows["role"].to_list(), rows["patient"].to_list())


def rows(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return problem.rows(Role.DEV), problem.rows(Role.VAL), problem.rows(Role.TEST)


@pytest.mark.parametrize("ndim", [2, 3])
def test_all_three_learn_alike_and_give_probabilities_in_two_and_three_dimensions(ndim: int, tmp_path: Path) -> None:
    study, found, data, problem = made(tmp_path, "evaluation.curve.tuning.rates=[0.001]", ndim=ndim)
    made_learners = learners(study, found, data, "shape", problem)
    assert set(made_learners) == {ENCODER, SCRATCH, SMALL_RESNET}
    train, val, test = rows(problem)
    steps = set()
    for learner in made_learners.values():
        p = learner(train[:12], val[:0], test, 0)
        assert p.shape == (len(test), 2)
        assert np.allclose(p.sum(1), 1)
        assert learner.told["by"] == "2 folds"
        steps.add(learner.told["steps"])
        assert learner.told["rate"] in study.evaluation.curve.tuning.rates
        assert learner.told["step"] in (2, 4)
    assert steps == {4}  # the same budget for all
    assert not read_runs(study.workspace)  # no run is left in the journal


def test_from_scratch_a_network_tries_every_way_that_the_encoder_tries(tmp_path: Path) -> None:
    study, found, data, problem = made(tmp_path)
    by_name = learners(study, found, data, "shape", problem)
    tried = {name: set(learner.ways) for name, learner in by_name.items()}
    assert tried[ENCODER] < tried[SCRATCH] == tried[ENCODER] | tried[SMALL_RESNET]
    untaught = replace(by_name[ENCODER], make=by_name[SCRATCH].make)  # random weights, treated as the encoder's
    train, val, _ = rows(problem)
    for way in by_name[ENCODER].ways:
        one, other = (learner.trained(train, val, way, 5) for learner in (by_name[SCRATCH], untaught))
        assert one.best == other.best


def test_a_small_resnet_learns_what_can_be_learnt(tmp_path: Path) -> None:
    study, found, data, problem = made(tmp_path, num_patients=120)
    bright = np.array([data.images(np.array([row])).mean().item() for row in range(len(data))])
    easy = replace(problem, truth=(bright > np.median(bright)).astype(float))
    train, val, test = rows(easy)
    learner = replace(learners(study, found, data, "shape", easy)[SMALL_RESNET], tuning=_tuning(60, 60, rates=[3e-3]))
    p = learner(train, val, test, 0)
    assert (p.argmax(1) == easy.truth[test]).mean() > 0.85


def _tuning(least: int, most: int, **changes: object) -> learning.Tuning:
    return learning.Tuning.parse({"least": least, "most": most, "moments": 2, **changes})


def test_the_same_seed_gives_the_same_bits_and_another_seed_others_while_the_encoder_is_left_alone(
    tmp_path: Path,
) -> None:
    study, found, data, problem = made(tmp_path, "evaluation.curve.tuning.rates=[0.001]")
    before = copy.deepcopy(found.encoder.state_dict())
    train, val, test = rows(problem)
    for name in (ENCODER, SCRATCH, SMALL_RESNET):
        one, two = (learners(study, found, data, "shape", problem)[name](train, val, test, 3) for _ in range(2))
        assert np.array_equal(one, two)
        assert not np.array_equal(one, learners(study, found, data, "shape", problem)[name](train, val, test, 4))
    assert all(torch.equal(before[k], v) for k, v in found.encoder.state_dict().items())


def test_the_rate_and_the_moment_are_those_that_stand_highest_on_val(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, found, data, problem = made(tmp_path, num_patients=110)
    train, val, test = rows(problem)
    learner = learners(study, found, data, "shape", problem)[SMALL_RESNET]
    trails = {}
    trained = Learner.trained

    def watched(self, rows, held, way, seed, *, keep=None):
        trails[way.rate] = trained(self, rows, held, way, seed, keep=keep)
        return trails[way.rate]

    monkeypatch.setattr(Learner, "trained", watched)
    learner(train, val, test, 0)
    tried = {
        (rate, moment): learning.standing(problem, val, seen, "auroc")
        for rate, trail in trails.items()
        for moment, seen in trail.seen.items()
    }
    rate, moment = max(tried, key=lambda key: tried[key])
    assert len(tried) == 4
    assert learner.told["by"] == "val"
    assert (learner.told["rate"], learner.told["step"]) == (rate, round(learner.told["steps"] * moment / 2))
    assert np.allclose(
        trails[rate].model.probabilities(learner.part(val), torch.device("cpu")), trails[rate].seen[moment]
    )


def test_no_volume_of_val_or_test_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, found, data, problem = made(tmp_path)
    train, val, test = rows(problem)
    seen: list[list[str]] = []
    feed = learning.TrainingFeed
    monkeypatch.setattr(
        learning,
        "TrainingFeed",
        lambda part, *a, **k: seen.append(part.catalog.volumes["role"].to_list()) or feed(part, *a, **k),
    )
    for name in (ENCODER, SCRATCH):
        learners(study, found, data, "shape", problem)[name](train, val, test, 0)
    assert seen and {role for roles in seen for role in roles} == {"dev"}


def test_a_rate_that_diverges_loses_and_when_all_do_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, found, data, problem = made(tmp_path, num_patients=110)
    train, val, test = rows(problem)
    learner = learners(study, found, data, "shape", problem)[SMALL_RESNET]
    train_loop = learning.train

    def diverging(model, feed, config, session, device):
        if config.lr > 1e-3:
            raise Diverged("loss or gradient not finite")
        return train_loop(model, feed, config, session, device)

    monkeypatch.setattr(learning, "train", diverging)
    learner(train, val, test, 0)
    assert learner.told["rate"] == 1e-3
    hopeless = replace(learner, tuning=_tuning(4, 4, rates=[0.1, 0.3]))
    with pytest.raises(Diverged, match=r"no rate of 0\.1, 0\.3 gave finite losses"):
        hopeless(train, val, test, 0)


def test_what_else_goes_wrong_is_no_rate_that_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, found, data, problem = made(tmp_path)

    def broken(*given):
        raise TrainingError("a loader process was killed")

    monkeypatch.setattr(learning, "train", broken)
    with pytest.raises(TrainingError, match="was killed"):
        learners(study, found, data, "shape", problem)[SMALL_RESNET](*rows(problem), 0)


def test_no_checkpoint_is_written_and_recomputing_is_left_to_networks_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, found, data, problem = made(tmp_path, "tasks.shape.loop.recompute=true")

    def save(*given, **kept):
        raise AssertionError("a checkpoint of what is thrown away")

    monkeypatch.setattr(checkpoint, "save", save)
    for learner in learners(study, found, data, "shape", problem).values():
        learner(*rows(problem), 0)


def test_epochs_told_are_those_taken_where_a_batch_holds_more_than_there_is(tmp_path: Path) -> None:
    study, found, data, problem = made(tmp_path)
    train, val, test = rows(problem)
    few = np.concatenate([train[problem.truth[train] == c][:2] for c in (0, 1)])
    learner = learners(study, found, data, "shape", problem)[SMALL_RESNET]
    learner(few, val[:0], test, 0)
    assert learner.told["epochs"] == learner.told["step"]  # one step passes through all four


def test_an_untaught_network_learns_its_batch_statistics_and_a_taught_one_keeps_them(tmp_path: Path) -> None:
    study, found, data, problem = made(tmp_path)
    own = learners(study, found, data, "shape", problem)[SMALL_RESNET]
    train = rows(problem)[0]
    for taught in (True, False):
        way = Way(1e-3, Recipe(1.0, is_taught=taught))
        trail = own.trained(train, train[:0], way, 0, keep=2)
        running = [v for k, v in trail.model.state_dict().items() if k.endswith("running_mean")]
        assert running
        assert all(bool(v.any()) != taught for v in running)


def test_one_class_and_another_kind_of_task_are_refused_in_a_line(tmp_path: Path) -> None:
    study, found, data, problem = made(tmp_path)
    train, val, test = rows(problem)
    same = train[problem.truth[train] == 0]
    with pytest.raises(EvaluationError, match="two classes to train on"):
        learners(study, found, data, "shape", problem)[SCRATCH](same, val, test, 0)
    number = replace(problem, kind=Kind.REGRESSION, names=())
    with pytest.raises(EvaluationError, match="fine-tuning learns classes; task shape is a regression task"):
        learners(study, found, data, "shape", number)
    with pytest.raises(EvaluationError, match="must be equal"):
        learners(study, found, data.role(Role.DEV), "shape", problem)


def test_a_mark_changes_with_weights_images_settings_and_metric_and_with_nothing_else(tmp_path: Path) -> None:
    study, found, data, _ = made(tmp_path)

    def marks(study: Study = study, found: FoundEncoder = found, data: Prepared = data, metric: str = "auroc"):
        known = learners(study, found, data, "shape", problem_of(data), metric=metric)
        return [known[name].mark for name in (ENCODER, SCRATCH, SMALL_RESNET)]

    first = marks()
    assert len({*first}) == 3
    assert marks() == first
    other = build_encoder(study.encoder.name, study.encoder.config, data.geometry, seed=8)
    assert [a == b for a, b in zip(marks(found=replace(found, encoder=other)), first, strict=True)] == [0, 1, 1]
    pooled = found.about["config"] | {"pool": "cls"}  # the same weights, another network
    assert marks(found=replace(found, about=found.about | {"config": pooled}))[0] != first[0]
    for changed in (
        marks(data=data.role(Role.DEV)),
        marks(metric="auprc"),
        marks(load_study(tmp_path / "small.yaml", [*FAST, "tasks.shape.loop.batch_size=16"])),
        marks(load_study(tmp_path / "small.yaml", [*FAST, "evaluation.curve.tuning.rates=[0.01]"])),
    ):
        assert not {*changed} & {*first}


@pytest.mark.parametrize(("shape", "stride"), [((16, 16), 1), ((28, 28), 2), ((64, 64, 64), 2), ((224, 224), 4)])
def test_a_resnet_sees_small_images_finely(shape: tuple[int, ...], stride: int) -> None:
    assert stem(Geometry(shape)) == stride
