"""What is watched while a study trains: collapse, transfer, the method's own figures, pictures, machine, loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.core.batch import Views
from medssl.core.keys import hash_words, view_keys
from medssl.core.score import Score
from medssl.data.prepared import Prepared
from medssl.data.views import ViewRecipe, make_views
from medssl.engine.loop import Feed
from medssl.engine.monitors.base import Monitor
from medssl.engine.monitors.loader import LoaderMonitor, advice, usable_cores
from medssl.engine.monitors.method import MethodMonitor
from medssl.engine.monitors.pictures import PicturesMonitor
from medssl.engine.monitors.representation import RepresentationMonitor, pooled
from medssl.engine.monitors.system import SystemMonitor
from medssl.engine.optim import LoopConfig
from medssl.engine.scoring import SCORING_EPOCH
from medssl.evaluation.bootstrap import patient_bootstrap
from medssl.evaluation.probes import Labelled, knn_probe, linear_probe
from medssl.evaluation.representation import feature_std, rankme
from medssl.methods.base import Method
from medssl.models.encoders.base import Encoder
from medssl.review.contact_sheet import contact_sheet
from medssl.study import Recipe, Study

MOST_VOXELS = 2**27  # of the images that stay in memory: 256 MiB in float16
MIN_PATIENTS = 5  # of each class, on both sides
RESAMPLES = 200
LOOK = 7  # images trained on for each one looked at keep looking at a few percent of the time
TILE = 224  # pixels

Features = NDArray[np.float32]
Measure = Callable[[Features], Mapping[str, float | Score]]


@dataclass(frozen=True)
class Watch:
    """The monitors of a run, the images that features are measured on, and what they showed before training."""

    monitors: list[Monitor]
    images: Tensor
    start: Mapping[str, float | Score]


def watch(
    study: Study,
    recipe: Recipe,
    data: Prepared,
    method: Method[Any],
    folder: Path,
    feed: Feed,
    device: torch.device,
    note: Callable[[str], None],
) -> Watch:
    """Return what watches the pretraining of ``method`` on ``data`` (dev patients), before its first step.

    No monitor changes training: of labels, those of dev patients are looked at, those of val and test never; ``note``
    says where they are too few for that.
    """
    method.to(device)
    an_epoch, loop, codec = feed.steps_per_epoch, recipe.loop, study.prepare.codec
    tips = advice(loop, compressed=codec != "none", cropped=data.cropped, cores=usable_cores())
    most = max(1, MOST_VOXELS // (prod(data.geometry.shape) * data.geometry.channels))
    num = min(study.watch.images, len(data), most)
    epochs = study.watch.every_epochs or look_epochs(num, an_epoch * loop.images_a_step, loop.epochs)
    every = an_epoch * epochs
    if study.watch.every_epochs is None:
        every = within_epoch(num, an_epoch, loop) or every
    features, images = _features(study, data, method, num, every, note)
    monitors: list[Monitor] = [*features, MethodMonitor(method), SystemMonitor(folder), LoaderMonitor(tips)]
    if study.watch.pictures_epochs:
        batch, examples = _pictured(study, data, method)
        draw, every = partial(contact_sheet, tile=TILE), an_epoch * study.watch.pictures_epochs
        monitors.append(PicturesMonitor(method, batch.to(device), examples, draw, folder / "pictures", every))
    return Watch(monitors, images, {name: value for one in features for name, value in one.start.items()})


def _features(
    study: Study, data: Prepared, method: Method[Any], num: int, every: int, note: Callable[[str], None]
) -> tuple[list[RepresentationMonitor], Tensor]:
    """Return what looks for collapse of the encoder that learns, and for transfer of the one that is kept."""
    rows, labels, lacking = labelled_first(data, study.watched_task, num)
    if lacking:
        note(lacking)
    images = torch.cat([data.images(part).half() for part in np.array_split(rows, -(-len(rows) // 32))])
    rule = study.evaluation.gate
    floors = {"feature_std": rule.min_feature_std, "rankme": rule.min_rankme}

    def monitor(encoder: Encoder, floors: Mapping[str, float], *measures: Measure) -> RepresentationMonitor:
        def measure(features: Features) -> dict[str, float | Score]:
            return {name: value for part in measures for name, value in part(features).items()}

        return RepresentationMonitor(encoder, images, measure, floors, every, measure(pooled(encoder, images)))

    learns, kept = method.encoder, method.export()
    worth = [partial(transfer, labels=labels, seed=study.seed)] if labels else []
    if learns is kept:
        return [monitor(kept, floors, spread, *worth)], images
    return [monitor(learns, floors, spread), *(monitor(kept, {}, each) for each in worth)], images


def look_epochs(num_looked: int, images_an_epoch: int, epochs: int) -> int:
    """Return every how many epochs to look at ``num_looked`` images: at the cost of a few percent, or ten times a run.

    To encode an image costs a third of training on it, or less.
    """
    return max(1, min(-(-LOOK * num_looked // images_an_epoch), epochs // 10))


def within_epoch(num_looked: int, an_epoch: int, loop: LoopConfig) -> int | None:
    """Return every how many steps to look, ten times an epoch, where epochs are so long that this costs as little."""
    tenth = an_epoch // (10 * loop.log_steps) * loop.log_steps  # where figures are reported, the model is whole
    return tenth if tenth * loop.images_a_step >= LOOK * num_looked and tenth else None


@dataclass(frozen=True)
class Halves:
    """The labels of the first ``N`` images; the classes of one half of the patients are told by the other, ``bank``."""

    y: NDArray[np.int64]
    patients: NDArray[Any]
    bank: NDArray[np.bool_]

    def side(self, features: Features, *, bank: bool) -> Labelled:
        """Return one half with its features."""
        chosen = np.flatnonzero(self.bank == bank)
        return Labelled(features[chosen], self.y[chosen], self.patients[chosen])


def labelled_first(data: Prepared, task: str | None, num: int) -> tuple[NDArray[np.int64], Halves | None, str | None]:
    """Return up to ``num`` rows to look at, the labels of the first of them, and why there are none, if so.

    Patients fall into halves by hash; classes and halves take turns, so that few rows serve for all.
    """
    every = np.arange(len(data))
    if task is None:
        return every[:num], None, None
    given = data.catalog.volumes.with_row_index("row").join(data.catalog.targets(task), on="volume")
    bank = [bool(hash_words("watch", patient) & 1) for patient in given["patient"]]
    given = given.with_columns(bank=pl.Series(bank, dtype=pl.Boolean))
    turns = pl.int_range(pl.len()).over("bank", "value")
    given = given.with_columns(turn=turns).sort("turn", maintain_order=True).head(num)
    classes = given["value"].unique().sort().to_list()
    patients = given.group_by("bank", "value").agg(pl.col("patient").n_unique())["patient"]
    if len(classes) < 2 or len(patients) < 2 * len(classes) or patients.min() < MIN_PATIENTS:  # type: ignore[operator]
        return (
            every[:num],
            None,
            (
                f"no kNN and probe while training: of task {task} they need {2 * MIN_PATIENTS} labelled dev patients a "
                f"class, {MIN_PATIENTS} on each side of a split; there are {given['patient'].n_unique()} of "
                f"{len(classes)} classes"
            ),
        )
    rows = given["row"].to_numpy().astype(np.int64)
    y = np.array([classes.index(value) for value in given["value"]], np.int64)
    halves = Halves(y, given["patient"].to_numpy(), given["bank"].to_numpy())
    return np.concatenate([rows, np.setdiff1d(every, rows)])[:num], halves, None


def spread(features: Features) -> Mapping[str, float]:
    """Return the figures that tell a collapse."""
    return {"feature_std": feature_std(features), "rankme": rankme(features)}


def transfer(features: Features, labels: Halves, seed: int) -> Mapping[str, Score]:
    """Return the AUROC of kNN and linear probe from one half of the patients on the other."""
    bank, judged = labels.side(features, bank=True), labels.side(features, bank=False)
    num = int(labels.y.max()) + 1
    given = {
        "knn": knn_probe(bank, judged.x, num_classes=num),
        "probe": linear_probe(
            bank, Labelled(judged.x[:0], judged.y[:0], judged.patients[:0]), judged.x, num_classes=num
        ),
    }
    scores = {
        name: patient_bootstrap("auroc", judged.y, p, judged.patients, seed=seed, num=RESAMPLES)
        for name, p in given.items()
    }
    return {name: replace(score, metric="AUROC on dev") for name, score in scores.items()}


def _pictured(study: Study, data: Prepared, method: Method[Any]) -> tuple[Views, Mapping[str, Tensor]]:
    """Return the images that pictures are made of, as scoring sees them, and examples of how training sees them."""
    num = study.watch.pictures if data.geometry.ndim == 2 else max(1, study.watch.pictures // data.geometry.ndim)
    rows = np.arange(min(num, len(data)))
    images, volume, plugin = data.images(rows), torch.from_numpy(rows), type(method)

    def drawn(recipe: ViewRecipe, epoch: int) -> Views:
        keys = torch.from_numpy(view_keys(study.seed, epoch, data.keys[rows], len(recipe.views)))
        return make_views(images, keys, volume, recipe)

    views = drawn(plugin.views(method.config, data.geometry), 0).images
    columns = {"image": images, **{f"view {i + 1}": view for i, view in enumerate(views)}}
    return drawn(plugin.scoring_views(method.config, data.geometry), SCORING_EPOCH), columns
