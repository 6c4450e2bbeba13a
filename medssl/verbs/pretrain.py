"""``medssl pretrain``: train an encoder on every unlabelled scan of dev patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import PoolError, TrainingError
from medssl.core.types import Role
from medssl.data.loader import TrainingFeed
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.engine import checkpoint
from medssl.engine.loop import Session, device_for, train
from medssl.engine.monitors.representation import RepresentationMonitor, pooled
from medssl.evaluation.representation import feature_std, rankme
from medssl.methods.base import METHODS, Method
from medssl.models.build import build_encoder, save_encoder, seeded
from medssl.pool.pool import Pool
from medssl.study import Recipe, Study
from medssl.tracking.records import RunRecord, read_runs
from medssl.verbs.context import flat, marks, running
from medssl.verbs.result import Result

MONITORED = 256  # images that the collapse monitor looks at


@dataclass(frozen=True)
class Pretrained:
    """A trained method and its run."""

    method: Method[Any]
    run: str
    fingerprint: str
    figures: Mapping[str, float]


def pretrain(study: Study, *, resume: bool = False) -> Result:
    """Pretrain the study's encoder and keep it in its run."""
    pool = Pool.open(study.pool)
    data = prepare(pool, study.prepare)
    made = fit(study, study, pool, data, kind="pretrain", resume=resume)
    folder = study.workspace / "runs" / made.run
    facts = {"run": made.run, "fingerprint": made.fingerprint, "encoder": str(folder), **made.figures}
    figures = ", ".join(f"{name} {value:.3g}" for name, value in made.figures.items())
    return Result(
        facts,
        (
            f"{study.encoder.name} pretrained by {study.method.name} on {len(data.role(Role.DEV))} volumes: {figures}",
            f"encoder in {folder}",
            "next: medssl evaluate (the pretext score says nothing about transfer)",
        ),
    )


def fit(study: Study, recipe: Recipe, pool: Pool, data: Prepared, *, kind: str, resume: bool = False) -> Pretrained:
    """Train ``recipe`` on the dev volumes of ``data`` as a run of ``kind`` and save its encoder.

    Raises:
        PoolError: no dev volume.
        TrainingError: nothing to resume, or what is there belongs to a changed study.
    """
    dev = data.role(Role.DEV)
    if not len(dev):
        raise PoolError(f"{pool.path}: no volume of a dev patient to train on; ingest more patients")
    fingerprint = study.pretraining(pool.fingerprints.images, recipe)
    stopped = _unfinished(study, kind, fingerprint) if resume else None
    prints = marks(pool, pretraining=fingerprint)
    with running(study, kind, prints, recipe=recipe, resumed=stopped.folder if stopped else None) as journal:
        method = make_method(recipe, dev, study.seed)
        feed = _feed(recipe, dev, study.seed)
        monitor = RepresentationMonitor(
            method.encoder,
            dev.images(np.arange(min(MONITORED, len(dev)))),
            _measure,
            _floors(study),
            feed.steps_per_epoch,
        )
        session = Session(
            folder=journal.folder,
            journal=journal,
            identity=_identity(study, recipe, pool),
            monitors=[monitor],
            resume=stopped is not None,
            seed=study.seed,
            volumes=dev.catalog.volumes["volume"].to_list(),
            hint="go on with --resume" if kind == "pretrain" else "run the verb again",
            description=f"{kind} {recipe.method.name}",
        )
        train(method, feed, recipe.loop, session, device_for())
        figures = _measure(pooled(method.encoder, monitor.images))
        about = {
            "name": recipe.encoder.name,
            "config": recipe.encoder.config.data(),
            "method": recipe.method.data(),
            "prepare": study.prepare.data(),
            "fingerprint": fingerprint,
            "run": journal.id,
        }
        journal.artifact(save_encoder(method.export(), journal.folder, about))
        journal.artifact(journal.folder / "encoder.json")
        journal.finish(summary=figures)
    return Pretrained(method, journal.id, fingerprint, figures)


def make_method(recipe: Recipe, data: Prepared, seed: int) -> Method[Any]:
    """Return the recipe's method around a fresh encoder."""
    encoder = build_encoder(recipe.encoder.name, recipe.encoder.config, data.geometry, seed=seed)
    plugin = METHODS.load(recipe.method.name)
    made: Method[Any] = seeded(lambda: plugin(recipe.method.config, encoder), "method", seed)
    return made


def load_method(recipe: Recipe, data: Prepared, seed: int, folder: Path) -> Method[Any]:
    """Return the method as the finished run in ``folder`` left it."""
    method = make_method(recipe, data, seed)
    checkpoint.load_model(folder, method)
    return method


def _feed(recipe: Recipe, dev: Prepared, seed: int) -> TrainingFeed:
    views = METHODS.load(recipe.method.name).views(recipe.method.config, dev.geometry)
    sampler = Sampler(len(dev), recipe.loop.batch_size, recipe.loop.accumulate, seed)
    return TrainingFeed(dev, views, sampler, recipe.loop.workers)


def _measure(features: NDArray[np.float32]) -> dict[str, float]:
    return {"feature_std": feature_std(features), "rankme": rankme(features)}


def _floors(study: Study) -> dict[str, float]:
    rule = study.evaluation.gate
    return {"feature_std": rule.min_feature_std, "rankme": rule.min_rankme}


def _identity(study: Study, recipe: Recipe, pool: Pool) -> dict[str, Any]:
    parts = {name: getattr(recipe, name).data() for name in ("encoder", "method")}
    parts["loop"] = recipe.loop.shaping()
    whole = {**parts, "prepare": study.prepare.data(), "seed": study.seed, "pool.images": pool.fingerprints.images}
    return flat(whole)


def _unfinished(study: Study, kind: str, fingerprint: str) -> RunRecord:
    """Return the latest stopped run with a checkpoint, of this very pretraining if there is one."""
    runs = [r for r in read_runs(study.workspace) if (r.kind, r.study) == (kind, study.name) and r.status != "finished"]
    runs = [r for r in runs if (r.folder / checkpoint.NAME).is_file()]
    own = [r for r in runs if r.fingerprints.get("pretraining") == fingerprint]
    if not runs:
        raise TrainingError(
            f"--resume: no unfinished {kind} run of {study.name} with a checkpoint in {study.workspace}; leave it out"
        )
    return (own or runs)[-1]
