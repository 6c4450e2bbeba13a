"""What an evaluation is about: one encoder, the volumes and labels it is judged on, and the systems beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError
from medssl.core.types import Role
from medssl.data.covers import Cover
from medssl.data.pixels import BASELINES, small_images
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.engine.distributed import device_for
from medssl.engine.scoring import embed, embed_tokens
from medssl.evaluation import fits
from medssl.evaluation.attentive import attentive_fit
from medssl.evaluation.choosing import BestOf
from medssl.evaluation.evaluate import Systems
from medssl.evaluation.gate import By
from medssl.evaluation.judge import Judge
from medssl.evaluation.kept import Kept
from medssl.evaluation.metrics import DEFAULT_METRIC
from medssl.evaluation.problem import Fit, Floats, Problem
from medssl.models.encoders.base import Encoder, TokenEncoder
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.verbs.context import UNTRAINED, FoundEncoder, fits_folder, score_folder
from medssl.verbs.learners import ENCODER, SMALL_RESNET, learners

UNLABELLED = 1000  # dev volumes, enough to see a collapse by
GROUPS = ("site", "scanner", "sex", "age", "view")
SHOWN_PIXELS = ("pixels", "frame", "corners", "thumbnail")


@dataclass(frozen=True)
class Subject:
    """``data``: one prepared volume of ``everything`` a row of ``problem``, in order; ``truth``: labels by volume."""

    study: Study
    pool: Pool
    found: FoundEncoder
    everything: Prepared
    data: Prepared
    problem: Problem
    truth: Mapping[str, str]
    place: str = ""  # of its scores among those of the encoder

    @classmethod
    def of(cls, study: Study, pool: Pool, found: FoundEncoder, task: str) -> Subject:
        """Gather every labelled volume, and enough unlabelled dev ones to see a collapse by."""
        everything = prepare(pool, study.prepare)
        truth = dict(everything.catalog.targets(task).iter_rows())
        dev = everything.catalog.role(Role.DEV).volumes["volume"].to_list()
        data = everything.of(everything.catalog.only([*truth, *dev[:UNLABELLED]]))
        problem = problem_of(study, task, data.catalog.volumes, truth)
        return cls(study, pool, found, everything, data, problem, truth)

    @property
    def metric(self) -> str:
        """What the task is judged by."""
        return self.study.evaluation.metric or DEFAULT_METRIC[self.problem.kind]

    @property
    def kept(self) -> Path:
        """Where finished scores lie."""
        return score_folder(self.study, self.found.fingerprint, "evaluate", self.place)

    @cached_property
    def own(self) -> NDArray[Any]:
        """``N D`` of the encoder."""
        return embed(self.found.encoder, self.data, device_for(), self.kept)

    @cached_property
    def features(self) -> Mapping[str, Sequence[NDArray[Any]]]:
        """``N D`` of the encoder, and of several of the same architecture untrained."""
        device, geometry, kept = device_for(), self.data.geometry, self.kept / "random"
        untrained = [self.found.untrained(geometry, self.study.seed, which) for which in range(UNTRAINED)]
        return {
            "encoder": [self.own],
            "random": [embed(one, self.data, device, kept / str(which)) for which, one in enumerate(untrained)],
        }

    @cached_property
    def pixels(self) -> Mapping[str, NDArray[Any]]:
        """``N D`` of the baselines that see pixels alone."""
        images = small_images(self.data)
        return {name: BASELINES[name](images) for name in SHOWN_PIXELS}

    @cached_property
    def probes(self) -> Mapping[str, Mapping[str, Fit]]:
        """The probes of every system with cached features, by system and name."""
        found = probes_of(self.problem, self.features, self.pixels)
        if self.study.evaluation.attentive:
            found["encoder"]["attentive"] = self._attentive(self.found.encoder, self.kept)
            untrained = self.found.untrained(self.data.geometry, self.study.seed, 0)  # one, for each takes as long
            found["random"]["attentive"] = self._attentive(untrained, self.kept / "random" / "0")
        return found

    @cached_property
    def judge(self) -> Judge:
        """Who is judged, by what."""
        config = self.study.evaluation
        return Judge(self.problem, self.metric, config.level, self.study.seed, config.bootstrap)

    @cached_property
    def predicted(self) -> Floats:
        """What the linear probe of the encoder says of the labelled test rows, ``M K``."""
        return self.judge.predicted(fits.linear_fit(self.problem, self.own, "encoder"))

    def systems(self) -> Systems:
        """Return what is measured; networks from scratch learn classes alone."""
        few: dict[str, Fit] = {}
        if self.is_fine_tuned:
            few = {**self.learners(), "pixels": self.probes["pixels"]["pca"]}
        elif self.problem.kind.exclusive:
            kept = self.learners()
            ours: dict[str, Fit] = {"linear": self.probes["encoder"]["linear"]}
            if self.study.evaluation.tuned:
                ours["fine-tuned"] = kept[ENCODER]
            few = {ENCODER: BestOf(self.problem, ours, self.metric), SMALL_RESNET: kept[SMALL_RESNET]}
            few["pixels"] = self.probes["pixels"]["pca"]
        return Systems(self.probes, self.features["encoder"][0], few)

    @property
    def is_fine_tuned(self) -> bool:
        """Whether the gate judges the fine-tuned encoder."""
        return self.study.evaluation.gate.by is By.FINE_TUNED

    def learners(self, cover: Cover | None = None) -> dict[str, Kept]:
        """Return the networks that the gate compares, by system; under ``cover`` they learn and are judged covered.

        Where the fine-tuned encoder is judged they have the longer tuning of curves, for within the shorter one a
        vision transformer from scratch does not learn what it could.
        """
        config = self.study.evaluation
        tuning = config.curve.tuning if self.is_fine_tuned else config.tuning
        given = self.study, self.found, self.data.covered(cover), self.problem.task, self.problem
        made = learners(*given, metric=self.metric, tuning=tuning)
        return {name: Kept(fit, self.problem, fits_folder(self.study), fit.mark) for name, fit in made.items()}

    def _attentive(self, encoder: Encoder, kept: Path) -> Fit:
        if not isinstance(encoder, TokenEncoder):
            raise EvaluationError(f"evaluation.attentive: the encoder {self.found.about['name']} has no tokens")
        tokens = embed_tokens(encoder, self.data, device_for(), kept)
        return attentive_fit(self.problem, tokens)


def problem_of(study: Study, task: str, volumes: pl.DataFrame, truth: Mapping[str, str]) -> Problem:
    """Return the labels of ``task``, ``truth`` by volume, on ``volumes``."""
    settings = study.tasks[task]
    values = [truth.get(volume) for volume in volumes["volume"]]
    roles, patients, studies = (volumes[name].to_list() for name in ("role", "patient", "study"))
    groups = {name: [None if v is None else str(v) for v in volumes[name]] for name in GROUPS}
    return Problem.of(
        task, values, roles, patients, kind=settings.kind, order=settings.order, studies=studies, groups=groups
    )


def probes_of(
    problem: Problem, features: Mapping[str, Sequence[NDArray[Any]]], pixels: Mapping[str, NDArray[Any]]
) -> dict[str, dict[str, Fit]]:
    """Return the probes of every system with cached features, by system and name; of ``pixels`` on components."""
    found = {
        name: {
            "knn": fits.several([fits.knn_fit(problem, x, name) for x in several]),
            "linear": fits.several([fits.linear_fit(problem, x, name) for x in several]),
        }
        for name, several in features.items()
    }
    return {**found, **{name: {"pca": fits.pca_fit(problem, x, name)} for name, x in pixels.items()}}


def outside(subject: Subject, name: str, folder: Path) -> tuple[Problem, dict[str, dict[str, Fit]]]:
    """Return the task judged on every labelled patient of another pool, and probes that learn on this one's.

    Patients that both pools know (they have, under one key) are left out.

    Raises:
        EvaluationError: the other pool has no label of the task, or only patients of this one.
    """
    study, task, known = subject.study, subject.problem.task, {*subject.everything.catalog.volumes["patient"].to_list()}
    prepared = prepare(Pool.open(folder), study.prepare)
    truth = dict(prepared.catalog.targets(task).iter_rows())
    theirs = prepared.catalog.volumes.select("volume", "patient").iter_rows()
    wanted = [volume for volume, patient in theirs if volume in truth and patient not in known]
    if not wanted:
        raise EvaluationError(f"evaluation.external.{name}: no labels of task {task!r} of patients outside this pool")
    there = replace(subject, data=prepared.of(prepared.catalog.only(wanted)), place=f"external-{name}")
    here = np.flatnonzero(subject.problem.roles != str(Role.TEST))
    judged = there.data.catalog.volumes.with_columns(role=pl.lit(str(Role.TEST)))
    volumes = pl.concat([subject.data.catalog.volumes[here], judged.select(subject.data.catalog.volumes.columns)])
    problem = problem_of(study, task, volumes, {**subject.truth, **truth})
    pixels = {system: np.concatenate([x[here], there.pixels[system]]) for system, x in subject.pixels.items()}
    features = {
        system: [np.concatenate([x[here], y]) for x, y in zip(several, there.features[system], strict=True)]
        for system, several in subject.features.items()
    }
    return problem, probes_of(problem, features, pixels)
