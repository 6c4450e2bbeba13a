"""Networks as ``Fit``s: the fine-tuned encoder, the same one from scratch, a small ResNet from scratch.

All are tuned alike: the same peaks of the rate to try, the same steps, views and class weights, the same moments to
stop at. What starts from random weights learns at the full rate; the same network from scratch may learn the way the
encoder does, too (its share of the rate, its head), so that no recipe is its handicap (decision 027).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medssl.core.config import Config, fingerprint
from medssl.core.errors import Diverged, EvaluationError
from medssl.core.keys import hash_words
from medssl.core.types import Geometry
from medssl.data.loader import TrainingFeed
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.engine.distributed import device_for
from medssl.engine.loop import Session, train
from medssl.engine.parts import weights_mark
from medssl.engine.scoring import embed
from medssl.evaluation.choosing import Holdout, Tuning, chosen_by, holdouts, standing
from medssl.evaluation.problem import Floats, Problem, Rows
from medssl.finetune.classify import Classifier, ClassifyConfig, class_weights
from medssl.models.build import build_encoder, seeded
from medssl.models.encoders.base import ENCODERS, Encoder
from medssl.study import Study
from medssl.tracking.journal import Journal
from medssl.verbs.context import FoundEncoder
from medssl.verbs.trail import WORST, Trail

ENCODER, SCRATCH, SMALL_RESNET = "encoder", "scratch", "small_resnet"
SMALL = {"depth": 18, "width": 16}
CLIP_NORM = 1.0
NEVER = 2**31
HINT = "start again, what is finished is kept"


def learners(
    study: Study,
    found: FoundEncoder,
    data: Prepared,
    task: str,
    problem: Problem,
    *,
    metric: str = "auroc",
    tuning: Tuning | None = None,
) -> dict[str, Learner]:
    """Return what learns from the images of a problem: ``encoder``, ``scratch`` and ``small_resnet``.

    ``encoder`` goes on from where pretraining ended, ``scratch`` is the same network from random weights, which tries
    what the encoder tries and more, ``small_resnet`` a ResNet-18 of width 16 from random weights. Views, batch size,
    class weights and epochs are those of the study's ``task``.

    Args:
        study: names the task.
        found: the encoder.
        data: one prepared volume a row of ``problem``, in its order; covered ones are learnt and judged covered.
        task: a name of ``study.tasks``.
        problem: classes.
        metric: what rate and moment are chosen by.
        tuning: what is tried; the study's ``evaluation.curve.tuning`` without.

    Raises:
        EvaluationError: the task is no classification, or ``data`` and ``problem`` differ in length.
    """
    if not problem.kind.exclusive:
        raise EvaluationError(f"fine-tuning learns classes; task {task} is a {problem.kind} task")
    if len(data) != len(problem):
        raise EvaluationError(f"{len(data)} volumes for {len(problem)} rows of task {task}: they must be equal")
    name, seed = found.about["name"], study.seed
    own = ENCODERS.load(name).config_class.parse(found.about["config"])
    small = ENCODERS.load("resnet").config_class.parse({**SMALL, "stem": stem(data.geometry)})
    task_config, tried = study.tasks[task].model_copy(update={"frozen": False}), tuning or study.evaluation.curve.tuning
    images = data.catalog.fingerprint()

    fresh, gentle = Recipe(1.0, is_taught=False), Recipe(task_config.encoder_lr_scale, is_taught=True)

    def learner(make: Callable[[int], Encoder], recipes: tuple[Recipe, ...], *about: Any) -> Learner:
        config = task_config.model_copy(update={"encoder_lr_scale": recipes[0].encoder_scale})
        more = (data.cover.mark if data.cover else ()) + tuple(map(repr, recipes[1:]))
        mark = fingerprint(*about, images, repr(data.geometry), config.shaping(), tried.data(), metric, *more)
        return Learner(problem, data, config, tried, metric, make, recipes, mark)

    def from_scratch(name: str, config: Config, *recipes: Recipe) -> Learner:
        def make(i: int) -> Encoder:
            return build_encoder(name, config, data.geometry, seed=hash_words("scratch", seed, i))

        return learner(make, recipes, "scratch", name, config.data(), seed)

    resnet = from_scratch("resnet", small, fresh)
    kept = resnet.config.loop.model_copy(update={"recompute": False})  # its batch norm would count twice
    return {
        ENCODER: learner(lambda i: deepcopy(found.encoder), (gentle,), weights_mark(found.encoder), name, own.data()),
        SCRATCH: from_scratch(name, own, fresh, gentle),
        SMALL_RESNET: replace(resnet, config=resnet.config.model_copy(update={"loop": kept})),
    }


def stem(geometry: Geometry) -> int:
    """Return the stride that a ResNet's first layers can afford on images of this size: 1, 2 or 4."""
    largest = max(geometry.shape)
    return 1 if largest <= 16 else 2 if largest <= 128 else 4


class Untaught(Classifier):
    """A classifier around an encoder that knows nothing yet: its batch norm learns its statistics from the labels."""

    def train(self, mode: bool = True) -> Untaught:
        """Every module trains."""
        nn.Module.train(self, mode)
        return self


@dataclass(frozen=True)
class Recipe:
    """How a network learns: its encoder at which share of the rate.

    ``is_taught``: its encoder is taken to know something. Then the head sees its features standardised, and its batch
    norm stays.
    """

    encoder_scale: float
    is_taught: bool


class Way(NamedTuple):
    """A recipe, and the peak of its rate."""

    rate: float
    recipe: Recipe


@dataclass
class Learner:
    """A ``Fit``: trains a classifier once in each way, and keeps the way and moment that held-out labels like best.

    Val chooses where it is large enough. Where it is not, patient-grouped folds of train do, and what they chose is
    trained once more on all of train; where nothing can be held out, the first way is trained to its end.

    Attributes:
        problem: classes of the rows of ``data``.
        data: prepared volumes.
        config: views, batch size, epochs, class weights.
        tuning: what is tried.
        metric: what chooses.
        make: the encoder to start from, by seed.
        recipes: those to try, each with every rate.
        mark: changes with all of the above.
        told: what the last call chose.
    """

    problem: Problem
    data: Prepared
    config: ClassifyConfig
    tuning: Tuning
    metric: str
    make: Callable[[int], Encoder]
    recipes: tuple[Recipe, ...]
    mark: str
    told: Mapping[str, Any] = field(default_factory=dict, init=False)

    @property
    def ways(self) -> list[Way]:
        """What is tried, in this order."""
        return [Way(rate, recipe) for recipe in self.recipes for rate in self.tuning.rates]

    def __call__(self, train: Rows, val: Rows, test: Rows, seed: int) -> Floats:
        """Return the probabilities of the classes, ``M K``.

        Raises:
            EvaluationError: ``train`` holds one class only.
            Diverged: no way led to finite losses.
        """
        if len(np.unique(self.problem.truth[train])) < 2:
            raise EvaluationError(f"a classifier needs two classes to train on, found one among {len(train)} rows")
        held = holdouts(self.problem, train, val, self.tuning.folds)
        if held and held[0].is_val:
            trails = {way: self.trained(train, val, way, seed) for way in self.ways}
            way = max(self.ways, key=lambda tried: trails[tried].best)
            trail = trails[way]
        else:
            way, moment = self._crossed(held, seed)
            trail = self.trained(train, train[:0], way, seed, keep=moment)
        if trail.model is None:
            tried = ", ".join(str(rate) for rate in self.tuning.rates)
            raise Diverged(f"no rate of {tried} gave finite losses; lower them")
        epochs = trail.kept_step / trail.steps_per_epoch
        told = {"rate": way.rate, "encoder_scale": way.recipe.encoder_scale}
        told |= {"step": trail.kept_step, "steps": trail.steps, "epochs": round(epochs, 1)}
        self.told = {**told, "by": chosen_by(held) or "nothing held out"}
        return trail.model.probabilities(self.part(test), device_for())

    def _crossed(self, folds: Sequence[Holdout], seed: int) -> tuple[Way, int]:
        """Return the way and the moment whose predictions for all folds together stand highest."""
        best, chosen = WORST, (self.ways[0], self.tuning.moments)
        for way in self.ways if folds else ():
            trails = [self.trained(fold.fit, fold.held, way, seed, keep=0) for fold in folds]
            for moment in sorted(set.intersection(*(set(trail.seen) for trail in trails))):
                seen = np.concatenate([trail.seen[moment] for trail in trails])
                now = standing(self.problem, np.concatenate([fold.held for fold in folds]), seen, self.metric)
                if now > best:
                    best, chosen = now, (way, moment)
        return chosen

    def trained(self, rows: Rows, held: Rows, way: Way, seed: int, *, keep: int | None = None) -> Trail:
        """Train on ``rows`` in one way, looking at ``held``; keep the best moment, or the one called ``keep``."""
        part, loop = self.part(rows), self.config.loop
        targets = self.problem.truth[rows].astype(np.int64)
        sampler = Sampler.of(part, loop.batch_size, loop.accumulate, seed, loop.crops, loop.balance)
        feed = TrainingFeed(part, self.config.views, sampler, targets=targets)
        epochs = self.tuning.epochs(loop.epochs, feed.steps_per_epoch)
        tried = {
            "epochs": epochs,
            "lr": way.rate,
            "lr_batch": loop.images_a_step,
            "clip_norm": loop.clip_norm or CLIP_NORM,
        }
        tried |= {"weight_decay": self.tuning.weight_decay, "log_steps": NEVER}
        trail = Trail(self.problem, held, self.part(held), self.metric, self.tuning.moments, keep, feed.steps_per_epoch)
        model = self._model(part, targets, way, seed)
        with TemporaryDirectory() as folder:
            quiet = Journal.listening(Path(folder))
            session = Session(
                quiet.folder, quiet, monitors=[trail], recoverable=False, seed=seed, hint=HINT, description="learn"
            )
            try:
                train(model, feed, loop.model_copy(update=tried), session, device_for())
            except Diverged:  # too high a rate stands below all others
                return replace(trail, seen={}, best=WORST, weights=None)
        if trail.weights is not None:
            model.load_state_dict(trail.weights)
            trail.model = model
        return trail

    def _model(self, part: Prepared, targets: NDArray[np.int64], way: Way, seed: int) -> Classifier:
        encoder, names = self.make(seed), list(self.problem.names)
        config = self.config.model_copy(update={"encoder_lr_scale": way.recipe.encoder_scale})
        weights = class_weights(targets, len(names), balance=self.config.balance)
        if way.recipe.is_taught:
            features, kind = torch.from_numpy(embed(encoder, part, device_for())), Classifier
        else:  # mean 0 and deviation 1: features that will change are taken as they are
            features, kind = torch.tensor([[-1.0], [1.0]]).expand(2, encoder.width), Untaught
        made: Classifier = seeded(lambda: kind(encoder, names, config, features, weights), "head", seed)
        return made

    def part(self, rows: Rows) -> Prepared:
        """Return the volumes of ``rows``, in their order."""
        return self.data.of(replace(self.data.catalog, volumes=self.data.catalog.volumes[rows]))
