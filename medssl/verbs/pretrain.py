"""``medssl pretrain``: train an encoder on every unlabelled scan of dev patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.collectives import rank, world_size
from medssl.core.errors import PoolError, StudyError
from medssl.core.files import read_json
from medssl.core.types import Role
from medssl.data.loader import TrainingFeed
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.engine import checkpoint
from medssl.engine.distributed import alone, device_for, first, full, processes, whole
from medssl.engine.loop import Session, train
from medssl.engine.monitors.loader import usable_cores
from medssl.engine.monitors.representation import pooled
from medssl.methods.base import METHODS, Method
from medssl.models.adapt import load_weights
from medssl.models.build import build_encoder, save_encoder, seeded, verify_reload
from medssl.pool.pool import Pool
from medssl.study import Choice, Recipe, Study, digest_of
from medssl.verbs.context import cache_of, flat, is_unfinished, marks, method_of, running, unfinished
from medssl.verbs.result import Result
from medssl.verbs.watch import spread, watch


@dataclass(frozen=True)
class Pretrained:
    """A trained method and its run."""

    method: Method[Any]
    run: str
    fingerprint: str
    figures: Mapping[str, float]


def pretrain(study: Study, *, resume: bool = False, requeued: bool = False) -> Result:
    """Pretrain the study's encoder and keep it in its run; under `torchrun`, with all its processes.

    ``requeued``: resume, or begin where no run has a checkpoint yet; a scheduler's job may have ended before.
    """
    with processes():
        resume = resume or (requeued and first(lambda: is_unfinished(study, "pretrain")))
        pool = Pool.open(study.pool)
        data = first(lambda: prepare(pool, study.prepare, workers=usable_cores()))
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
    stopped = unfinished(study, kind, ("pretraining", fingerprint)) if resume else None
    identity, recipe = _identity(study, recipe, pool) | cache_of(dev), settled(recipe, len(dev))
    prints = marks(pool, pretraining=fingerprint)
    with running(study, kind, prints, recipe=recipe, resumed=stopped.folder if stopped else None) as journal:
        method = make_method(recipe, dev, study.seed, journal.note)
        feed = feed_of(study, recipe, dev, method)
        device, about = device_for(), _about(study, recipe, fingerprint, journal.id)
        few = dev.images(np.arange(min(2, len(dev))))
        alone(lambda: verify_reload(method.export(), about, few, journal.folder))
        watched = watch(study, recipe, dev, method, journal.folder, feed, device, journal.note)
        if stopped is None:
            journal.metrics(0, watched.start)
        session = Session(
            folder=journal.folder,
            journal=journal,
            identity=identity,
            monitors=watched.monitors,
            resume=stopped is not None,
            seed=study.seed,
            volumes=dev.catalog.volumes["volume"].to_list(),
            hint="go on with --resume" if kind == "pretrain" else "run the verb again",
            description=f"{kind} {recipe.method.name}",
        )
        train(method, feed, recipe.loop, session, device)
        with whole(method):
            figures = spread(pooled(method.export(), watched.images))
        weights = full(method.export().state_dict())
        made = alone(lambda: save_encoder(method.export(), journal.folder, about, weights))
        for path in (made, journal.folder / "encoder.json") if made is not None else ():
            journal.artifact(path)
        journal.finish(summary=figures)
    return Pretrained(method, journal.id, fingerprint, figures)


def settled(recipe: Recipe, num_images: int) -> Recipe:
    """Return ``recipe`` with what it leaves open settled by its method's rules for a pool of this size.

    Where a step asks for more images than there are, it is one of those there are, and so is its learning rate.
    """
    plugin, loop = METHODS.load(recipe.method.name), recipe.loop
    if loop.images_a_step > num_images * loop.crops:
        micro = -(-num_images * loop.crops // loop.batch_size)
        reads = -(-num_images // micro)
        loop = loop.model_copy(update={"batch_size": reads * loop.crops, "accumulate": micro})
    config = plugin.fitted(recipe.method.config, num_images, loop.images_a_step, loop.crops)
    epochs = plugin.epochs(num_images, loop.images_a_step, loop.crops)
    if epochs is not None and "epochs" not in loop.model_fields_set:
        loop = loop.model_copy(update={"epochs": epochs})
    return recipe.model_copy(update={"method": Choice(recipe.method.name, config), "loop": loop})


def make_method(recipe: Recipe, data: Prepared, seed: int, say: Callable[[str], None] = lambda _: None) -> Method[Any]:
    """Return the recipe's method around a fresh encoder, or one that continues from ``recipe.init``."""
    encoder = build_encoder(recipe.encoder.name, recipe.encoder.config, data.geometry, seed=seed)
    if recipe.init is not None:
        say(f"continued from {load_weights(encoder, recipe.init)}")
    plugin = METHODS.load(recipe.method.name)
    made: Method[Any] = seeded(lambda: plugin(recipe.method.config, encoder), "method", seed)
    return made


def load_method(recipe: Recipe, data: Prepared, seed: int, folder: Path) -> Method[Any]:
    """Return the method as the finished run in ``folder`` left it, settled as it was then."""
    _, config = method_of(read_json(folder / "encoder.json"))
    as_trained = recipe.model_copy(update={"method": Choice(recipe.method.name, config), "init": None})
    method = make_method(as_trained, data, seed)
    checkpoint.load_model(folder, method)
    return method


def _about(study: Study, recipe: Recipe, fingerprint: str, run: str) -> dict[str, Any]:
    return {
        "name": recipe.encoder.name,
        "config": recipe.encoder.config.data(),
        "method": recipe.method.data(),
        "prepare": study.prepare.data(),
        "fingerprint": fingerprint,
        "run": run,
    }


def feed_of(study: Study, recipe: Recipe, dev: Prepared, method: Method[Any]) -> TrainingFeed:
    """Return the recipe's batches of views of ``dev`` for ``method``, this process's share.

    Raises:
        StudyError: the processes' shares differ where the method couples the rows of a batch.
    """
    views, loop = method.views(method.config, dev.geometry), recipe.loop
    sampler = Sampler.of(dev, loop.batch_size, loop.accumulate, study.seed, loop.crops, loop.balance)
    feed = TrainingFeed(dev, views, sampler, loop.workers, share=(rank(), world_size()))
    if method.batch_coupled:
        _check_shares(sampler, world_size())
    return feed


def _check_shares(sampler: Sampler, world: int) -> None:
    shares = {min(sampler.reads, sampler.reads_per_step), sampler.fewest_reads}
    if not any(reads % world for reads in shares):
        return
    step = world * sampler.crops
    most = sampler.num * sampler.crops // sampler.accumulate  # images a micro-batch that the pool fills
    lower = min(sampler.batch_size, most) // step * step
    right = [size for size in (lower, lower + step) if 0 < size <= most]
    advice = f"take {' or '.join(map(str, right))}" if right else "start fewer processes"
    raise StudyError(
        f"loop.batch_size: {sampler.batch_size} gives micro-batches of {' and '.join(map(str, sorted(shares)))} reads, "
        f"which {world} processes cannot share evenly, as this method needs; {advice}"
    )


def _identity(study: Study, recipe: Recipe, pool: Pool) -> dict[str, Any]:
    parts = {"encoder": recipe.encoder.data(), "method": recipe.method.data(), "loop": recipe.loop.shaping()}
    init = {} if recipe.init is None else {"init": digest_of(recipe.init)}
    prepared = {"prepare": study.prepare.data(), "seed": study.seed, "pool.images": pool.fingerprints.images}
    return flat({**parts, **init, **prepared})
