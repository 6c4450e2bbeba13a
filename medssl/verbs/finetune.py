"""``medssl finetune``: turn few labels into a classifier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from medssl.core.collectives import rank, world_size
from medssl.core.config import fingerprint
from medssl.core.errors import LabelError
from medssl.core.files import write_json
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.data.loader import TrainingFeed
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.engine.distributed import device_for
from medssl.engine.loop import Session, train
from medssl.engine.scoring import embed
from medssl.evaluation.bootstrap import patient_bootstrap
from medssl.finetune.classify import Classifier, class_weights, save_classifier
from medssl.models.build import seeded
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.tracking.journal import Journal
from medssl.verbs.context import FoundEncoder, cache_of, find_encoder, flat, marks, running, unfinished
from medssl.verbs.evaluate import latest_verdict, refuse_no_go
from medssl.verbs.result import Result


def finetune(
    study: Study,
    *,
    task: str | None = None,
    encoder: str | None = None,
    allow_no_go: bool = False,
    resume: bool = False,
) -> Result:
    """Train the task's classifier on labelled dev volumes and report it on test patients.

    Raises:
        GateRefused: the gate said no_go to this encoder and nobody overrode it.
        LabelError: fewer than two classes among the labelled dev volumes.
    """
    pool = Pool.open(study.pool)
    found = find_encoder(study, pool, encoder)
    name = study.task(task)
    verdict = latest_verdict(study, found, name)
    refuse_no_go(verdict, allowed=allow_no_go)
    data = prepare(pool, study.prepare)
    prints = marks(pool, pretraining=found.fingerprint, task=name, study=study.name)
    stopped = unfinished(study, "finetune", ("task", name)).folder if resume else None
    with running(study, "finetune", prints, found.parents, resumed=stopped) as journal:
        if verdict != "go":
            journal.note(f"fine-tuned on an encoder whose verdict is {verdict or 'unknown: it was not evaluated'}")
        model, train_rows = _trained(study, name, data, found, journal, prints, resume=resume)
        scores, lacking = _scores(study, name, data, model)
        about = {**found.about, "task": name, "run": journal.id, "study": study.name}
        about["fingerprint"] = fingerprint(found.fingerprint, journal.id)  # its encoder has seen labels: another one
        save_classifier(model, journal.folder, about)
        facts = {"task": name, "classes": model.classes, "num_train": train_rows, "verdict": verdict}
        write_json(journal.folder / "finetune.json", {**facts, "scores": {k: vars(s) for k, s in scores.items()}})
        for made in ("finetune.json", "model.json", "head.safetensors", "encoder.json", "encoder.safetensors"):
            journal.artifact(journal.folder / made)
        journal.finish(summary=scores)
    shown = [f"fine-tuned {name} on {train_rows} labelled dev volumes: {journal.folder}"]
    shown += [f"  {role}: {score}" for role, score in scores.items()]
    shown += [f"  {role} not scored: {why}" for role, why in lacking.items()]
    return Result({"run": journal.id, **facts, "scores": {k: vars(s) for k, s in scores.items()}}, tuple(shown))


def _trained(
    study: Study,
    task: str,
    data: Prepared,
    found: FoundEncoder,
    journal: Journal,
    prints: Mapping[str, str],
    *,
    resume: bool,
) -> tuple[Classifier, int]:
    config = study.tasks[task]
    labelled, targets, classes = labelled_rows(data.role(Role.DEV), task)
    if len(classes) < 2:
        raise LabelError(
            f"task {task}: {len(labelled)} labelled dev volumes of {len(classes)} classes, expected 2 or more"
        )
    device = device_for()
    features = torch.from_numpy(embed(found.encoder, labelled, device))
    weights = class_weights(targets, len(classes), balance=config.balance)
    model: Classifier = seeded(
        lambda: Classifier(found.encoder, classes, config, features, weights), "head", study.seed
    )
    loop = config.loop
    sampler = Sampler.of(labelled, loop.batch_size, loop.accumulate, study.seed, loop.crops, loop.balance)
    feed = TrainingFeed(labelled, config.views, sampler, loop.workers, targets, share=(rank(), world_size()))
    volumes = labelled.catalog.volumes["volume"].to_list()
    # Labels of other tasks, and of who is not trained on, may come while a run is stopped.
    known = {
        **prints,
        **cache_of(labelled),
        "pool.labels": fingerprint(list(zip(volumes, targets.tolist(), strict=True)), classes),
    }
    session = Session(
        journal.folder,
        journal,
        identity=flat({**known, task: config.shaping(), "prepare": study.prepare.data(), "seed": study.seed}),
        resume=resume,
        seed=study.seed,
        volumes=volumes,
        description=f"finetune {task}",
    )
    train(model, feed, config.loop, session, device)
    return model, len(labelled)


def labelled_rows(data: Prepared, task: str) -> tuple[Prepared, NDArray[np.int64], list[str]]:
    """Return the labelled part of ``data``, its class indices and the sorted classes."""
    values = dict(data.catalog.targets(task).iter_rows())
    part = data.of(data.catalog.only(values))
    classes = sorted(set(values.values()))
    truth = [classes.index(values[volume]) for volume in part.catalog.volumes["volume"]]
    return part, np.array(truth, np.int64), classes


def _scores(
    study: Study, task: str, data: Prepared, model: Classifier
) -> tuple[Mapping[str, Score], Mapping[str, str]]:
    """Return AUROC by role, and what the roles lack whose labelled volumes are not of every class of the model."""
    scores, lacking = {}, {}
    for role in (Role.VAL, Role.TEST):
        part, truth, classes = labelled_rows(data.role(role), task)
        if classes != model.classes:
            missing, unknown = ({*a} - {*b} for a, b in ((model.classes, classes), (classes, model.classes)))
            found = [f"no labelled volume of {', '.join(sorted(missing))}"] if missing else []
            found += [f"the model knows no class {', '.join(sorted(unknown))}"] if unknown else []
            lacking[str(role)] = "; ".join(found)
            continue
        patients = part.catalog.volumes["patient"].to_numpy()
        probabilities = model.probabilities(part, device_for())
        num = study.evaluation.bootstrap
        scores[f"{role}"] = patient_bootstrap("auroc", truth, probabilities, patients, seed=study.seed, num=num)
    return scores, lacking
