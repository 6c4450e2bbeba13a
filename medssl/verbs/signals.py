"""What selection strategies read: pretext losses, the task model's probabilities, embeddings, one row a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import SelectionError, TrainingError
from medssl.core.types import Signal
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.engine.distributed import device_for
from medssl.engine.scoring import embed, pretext_losses
from medssl.finetune.classify import load_classifier
from medssl.pool.pool import Pool
from medssl.selection.aggregate import by_study
from medssl.study import Recipe, Study
from medssl.tracking.records import RunRecord, latest
from medssl.verbs.context import find_encoder, marks, score_folder, was_stopped
from medssl.verbs.pretrain import fit, load_method

SOLVED = 1e-4  # a pretext loss below this says nothing about the image


@dataclass(frozen=True)
class Signals:
    """What the strategy reads, a study; the run and fingerprint that it came from; why it may mean little, if so."""

    values: dict[Signal, NDArray[Any]]
    parents: dict[str, str]
    model: str
    doubt: str | None


@dataclass(frozen=True)
class Pretext:
    """A trained pretext task: its recipe, its fingerprint and its finished run."""

    recipe: Recipe
    fingerprint: str
    run: RunRecord


def read_signals(study: Study, pool: Pool, data: Prepared, needs: frozenset[Signal], task: str) -> Signals:
    """Score the candidate volumes in ``data`` by every signal in ``needs``, aggregated to studies in order of id."""
    values: dict[Signal, NDArray[Any]] = {}
    parents: dict[str, str] = {}
    model, doubt, scores = "", None, np.zeros(0)
    for signal in sorted(needs):
        if signal is Signal.PRETEXT_LOSSES:
            scores, parents["pretext"], model, doubt = _losses(study, pool, data)
        elif signal is Signal.PROBABILITIES:
            scores, parents["finetune"], model = _probabilities(study, pool, data, task)
        else:
            found = find_encoder(study, pool)
            kept, model = score_folder(study, found.fingerprint, "select"), found.fingerprint
            scores = embed(found.encoder, data, device_for(), kept).astype(np.float64)
            parents |= found.parents
        values[signal] = by_study(scores, data.catalog.volumes["study"].to_numpy())[1]
    return Signals(values, parents, model, doubt)


def _losses(study: Study, pool: Pool, data: Prepared) -> tuple[NDArray[np.float64], str, str, str | None]:
    """Return losses by ``selection.pretext`` (trained now unless a run of it exists), or by the study's own method."""
    recipe, kind, fingerprint, run = _pretext(study, pool, study.selection.pretext)
    if run is None:
        resume = was_stopped(study, kind, ("pretraining", fingerprint))
        made = fit(study, recipe, pool, prepare(pool, study.prepare), kind=kind, resume=resume)
        method, run_id = made.method, made.run
    else:
        method, run_id = load_method(recipe, data, study.seed, run.folder), run.id
    kept = score_folder(study, fingerprint, "select")
    losses = pretext_losses(method, data, device_for(), study.seed, kept)
    return losses, run_id, fingerprint, doubt_about(losses, method.chance_loss)


def trained_pretext(study: Study, pool: Pool) -> Pretext:
    """Return the trained ``selection.pretext``, else the study's own pretraining.

    Raises:
        TrainingError: neither was trained.
    """
    for asked in (study.selection.pretext, None):
        recipe, _, fingerprint, run = _pretext(study, pool, asked)
        if run is not None:
            return Pretext(recipe, fingerprint, run)
    also = ", or `medssl select-for-labeling`, which trains selection.pretext" if study.selection.pretext else ""
    raise TrainingError(f"no trained pretext of study {study.name} in {study.workspace}; run `medssl pretrain`{also}")


def _pretext(study: Study, pool: Pool, asked: Recipe | None) -> tuple[Recipe, str, str, RunRecord | None]:
    """Return the recipe asked for or the study's own, the kind of its runs, its fingerprint, its finished run."""
    recipe, kind = asked or study, "pretext" if asked else "pretrain"
    fingerprint = study.pretraining(pool.fingerprints.images, recipe)
    return recipe, kind, fingerprint, latest(study.workspace, kind, ("pretraining", fingerprint))


def doubt_about(losses: NDArray[np.float64], chance: float | None) -> str | None:
    """Say why a ranking by these losses means little, or None: the pretext task was not learned, or is solved."""
    mean, solved = float(losses.mean()), float((losses < SOLVED).mean())
    if chance is not None and mean > 0.95 * chance:
        return f"mean loss {mean:.3f} is at chance ({chance:.3f}); the ranking is noise, train the pretext model longer"
    if solved > 0.5:
        return f"{solved:.0%} of the losses are below {SOLVED}; the task is solved and most ranks are noise"
    return None


def _probabilities(study: Study, pool: Pool, data: Prepared, task: str) -> tuple[NDArray[np.float64], str, str]:
    wanted = {**marks(pool), "task": task, "study": study.name}
    run = latest(study.workspace, "finetune", *wanted.items())
    if run is None:
        raise SelectionError(
            f"later rounds need a model of task {task} trained on the labels that the pool holds now; "
            "import the answers, then run `medssl finetune`"
        )
    model, about = load_classifier(run.folder)
    if about["prepare"] != study.prepare.data():
        raise SelectionError(f"run {run.id} was prepared otherwise than this study asks; fine-tune again")
    return model.probabilities(data, device_for()), run.id, about["fingerprint"]
