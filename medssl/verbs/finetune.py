"""``medssl finetune``: turn few labels into a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import RenderableType

from medssl.core.collectives import rank, world_size
from medssl.core.config import fingerprint
from medssl.core.errors import LabelError
from medssl.core.files import write_json
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.data.loader import TrainingFeed
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.engine.distributed import device_for
from medssl.engine.loop import Session, train
from medssl.engine.scoring import embed
from medssl.evaluation.panel import panel
from medssl.evaluation.problem import Floats, Kind, Rows
from medssl.evaluation.results import deciding, plain
from medssl.finetune.classify import Classifier, class_weights, save_classifier
from medssl.models.build import seeded
from medssl.pool.pool import Pool
from medssl.review.finetuned import finetuned
from medssl.review.terminal import finetuned_shown
from medssl.study import Study
from medssl.tracking.journal import Journal
from medssl.tracking.records import read_runs
from medssl.verbs.context import FoundEncoder, cache_of, find_encoder, flat, marks, running, unfinished
from medssl.verbs.evaluate import latest_verdict, refuse_no_go
from medssl.verbs.result import Result
from medssl.verbs.subject import Subject, probes_of, problem_of

UNTUNED = ("encoder", "pixels")  # what the model is compared with: a probe on the frozen encoder, and raw pixels


def finetune(
    study: Study,
    *,
    task: str | None = None,
    encoder: str | None = None,
    allow_no_go: bool = False,
    resume: bool = False,
) -> Result:
    """Train the task's classifier on labelled dev volumes; report it, and what needs no fine-tuning, on test patients.

    Raises:
        GateRefused: the gate said no_go to this encoder and nobody overrode it.
        LabelError: fewer than two classes among the labelled dev volumes, or labels that are no classes.
    """
    pool = Pool.open(study.pool)
    found = find_encoder(study, pool, encoder)
    name = study.task(task)
    verdict = latest_verdict(study, found, name)
    refuse_no_go(verdict, allowed=allow_no_go)
    subject = _known(Subject.of(study, pool, found, name))
    lacking = _lacking(subject)
    prints = marks(pool, pretraining=found.fingerprint, task=name, study=study.name)
    stopped = unfinished(study, "finetune", ("task", name)).folder if resume else None
    with running(study, "finetune", prints, found.parents, resumed=stopped) as journal:
        if verdict != "go":
            journal.note(f"fine-tuned on an encoder whose verdict is {verdict or 'unknown: it was not evaluated'}")
        untuned = {} if Role.TEST in lacking else _untuned(subject)  # of the encoder as it is before it learns on
        model, train_rows = _trained(study, name, subject.everything, found, journal, prints, resume=resume)
        measured, summary = _measured(subject, model, untuned, lacking)
        about = {**found.about, "task": name, "run": journal.id, "study": study.name}
        about["fingerprint"] = fingerprint(found.fingerprint, journal.id)  # its encoder has seen labels: another one
        save_classifier(model, journal.folder, about)
        facts = {"task": name, "classes": model.classes, "num_train": train_rows, "verdict": verdict, **measured}
        write_json(journal.folder / "finetune.json", facts)
        for made in ("finetune.json", "model.json", "head.safetensors", "encoder.json", "encoder.safetensors"):
            journal.artifact(journal.folder / made)
        journal.finish(summary=summary)
    shown: list[RenderableType] = [f"fine-tuned {name} on {train_rows} labelled dev volumes: {journal.folder}"]
    if measured["scores"]:
        run = next(run for run in read_runs(study.workspace) if run.id == journal.id)
        shown += finetuned_shown(finetuned(run, facts))
    shown += [f"  {role} not scored: {why}" for role, why in lacking.items()]
    return Result({"run": journal.id, **facts}, tuple(shown))


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


def _known(subject: Subject) -> Subject:
    """Return the subject without labels of classes that no dev patient has, which nothing here can learn."""
    task, kind = subject.problem.task, subject.problem.kind
    if not kind.exclusive:
        raise LabelError(f"task {task}: fine-tuning learns classes; this is a {kind} task, which `evaluate` can judge")
    _, _, classes = labelled_rows(subject.everything.role(Role.DEV), task)
    truth = {volume: value for volume, value in subject.truth.items() if value in classes}
    return replace(subject, problem=problem_of(subject.study, task, subject.data.catalog.volumes, truth))


def _lacking(subject: Subject) -> dict[Role, str]:
    """Return what the roles lack whose labelled volumes are not of every class that is learnt."""
    lacking, task = {}, subject.problem.task
    learnt = {*labelled_rows(subject.everything.role(Role.DEV), task)[2]}
    expected = {*subject.problem.names} if subject.problem.kind is Kind.CLASSES else learnt
    for role in (Role.VAL, Role.TEST):
        classes = {*labelled_rows(subject.everything.role(role), task)[2]}
        if classes != expected:
            missing, unknown = expected - classes, classes - expected
            found = [f"no labelled volume of {', '.join(sorted(missing))}"] if missing else []
            found += [f"the model knows no class {', '.join(sorted(unknown))}"] if unknown else []
            lacking[role] = "; ".join(found)
    return lacking


def _untuned(subject: Subject) -> dict[str, tuple[str, Floats]]:
    """Return the name of the probe of each system that needs no fine-tuning, and what it says of test patients."""
    probes = probes_of(subject.problem, {"encoder": [subject.own]}, {"pixels": subject.pixels["pixels"]})
    chosen = {system: deciding(probes[system]) for system in UNTUNED}
    return {system: (probe, subject.judge.predicted(probes[system][probe])) for system, probe in chosen.items()}


def _measured(
    subject: Subject, model: Classifier, untuned: Mapping[str, tuple[str, Floats]], lacking: Mapping[Role, str]
) -> tuple[dict[str, Any], dict[str, Score]]:
    """Return what ``finetune.json`` says of the model by role and of the others on test patients, and the summary."""
    judges = {
        r: replace(subject.judge, rows=subject.problem.rows(r)) for r in (Role.VAL, Role.TEST) if r not in lacking
    }
    given = {role: _probabilities(subject, model, judge.test) for role, judge in judges.items()}
    scores = {str(role): judge.score(given[role]) for role, judge in judges.items()}
    found: dict[str, Any] = {"metric": subject.metric, "scores": plain(scores)}
    if Role.TEST in lacking:
        return found, scores
    judge, ours = judges[Role.TEST], given[Role.TEST]
    differences = {system: judge.difference(ours, theirs) for system, (_, theirs) in untuned.items()}
    systems = {"model": ours, **{system: theirs for system, (_, theirs) in untuned.items()}}
    metrics = {system: panel(judge, predictions).metrics for system, predictions in systems.items()}
    found["baselines"] = {s: plain({probe: judge.score(theirs)}) for s, (probe, theirs) in untuned.items()}
    found |= {"differences": plain(differences), "metrics": {s: plain(by_name) for s, by_name in metrics.items()}}
    summary = scores | {f"model_minus_{system}": score for system, score in differences.items()}
    return found, summary | {
        f"metrics.{s}.{m}": score for s, by_name in metrics.items() for m, score in by_name.items()
    }


def _probabilities(subject: Subject, model: Classifier, rows: Rows) -> Floats:
    """Return ``M K`` probabilities of these rows, in the order of the problem's classes."""
    volumes = subject.data.catalog.volumes["volume"].gather(rows).to_list()
    given = model.probabilities(subject.data.of(subject.data.catalog.only(volumes)), device_for())
    found = np.zeros((len(rows), subject.problem.num_outputs))
    found[:, [subject.problem.names.index(name) for name in model.classes]] = given
    return found
