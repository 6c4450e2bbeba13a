"""``medssl evaluate``: does the representation transfer? Probes, baselines, audits, the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from medssl.core.errors import EvaluationError, GateRefused
from medssl.core.files import read_json, write_json
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.engine.distributed import device_for
from medssl.evaluation.evaluate import class_patients, measurable
from medssl.evaluation.evaluate import evaluate as measure
from medssl.evaluation.few_shot import few_shot
from medssl.evaluation.fits import knn_fit
from medssl.evaluation.gate import By, Decision
from medssl.evaluation.panel import panel
from medssl.evaluation.results import Evaluation, deciding, plain
from medssl.evaluation.structure import structure
from medssl.evaluation.subgroups import subgroups
from medssl.pool.pool import Pool
from medssl.review.evaluated import evaluated
from medssl.review.terminal import evaluation_shown
from medssl.study import Study
from medssl.tracking.journal import Journal
from medssl.tracking.records import read_runs
from medssl.verbs.audits import audit
from medssl.verbs.context import FoundEncoder, find_encoder, marks, running
from medssl.verbs.covered import covered_learning
from medssl.verbs.curve import curve as label_efficiency
from medssl.verbs.domains import domain_table
from medssl.verbs.pictures import draw_pictures
from medssl.verbs.result import NO_GO, OK, Result
from medssl.verbs.subject import Subject, outside


def evaluate(
    study: Study, *, task: str | None = None, encoder: str | Sequence[str] | None = None, curve: bool = False
) -> Result:
    """Measure an encoder on the labelled volumes and let the gate decide; exit code 4 where it says no_go.

    Args:
        study: the experiment.
        task: one of its tasks.
        encoder: a run or folder, else the latest that fits. Of several the first is judged, the others are compared
            with it on the same patients, and on the same draws of labels.
        curve: draw the label-efficiency curve as well, which takes as long as all its trainings; nothing is drawn
            where there are too few labels to measure anything.
    """
    name = study.task(task or study.evaluation.task)
    refuse_to_fine_tune(study, name)
    pool = Pool.open(study.pool)
    asked = [encoder] if encoder is None or isinstance(encoder, str) else list(encoder)
    found, *others = [find_encoder(study, pool, one) for one in asked or [None]]
    subject = Subject.of(study, pool, found, name)
    prints = marks(pool, pretraining=found.fingerprint)
    with running(study, "evaluate", prints, found.parents) as journal:
        measured, data = _measured(subject, others, journal.folder)
        write_json(journal.folder / "evaluation.json", data)
        _pictures(subject, journal.folder / "pictures", is_measured=bool(measured.systems))
        if curve and measured.systems:
            data["curve"] = _curved(subject, others, journal.folder)
        elif curve:
            journal.note("no label-efficiency curve: too few labels to measure anything")
        _recorded(journal, measured, data.get("curve"))
    run = next(run for run in read_runs(study.workspace) if run.id == journal.id)
    said: Sequence[RenderableType] = evaluation_shown(evaluated(run, data))
    code = NO_GO if measured.verdict.decision is Decision.NO_GO else OK
    return Result({"run": journal.id, **data}, tuple(said), code)


def refuse_to_fine_tune(study: Study, task: str) -> None:
    """Raise where the gate is to judge fine-tuning on labels that are no classes."""
    kind = study.tasks[task].kind
    if study.evaluation.gate.by is By.FINE_TUNED and not kind.exclusive:
        raise EvaluationError(f"evaluation.gate.by: fine_tuned needs classes, task {task} is {kind}; take probe")


def _measured(subject: Subject, others: Sequence[FoundEncoder], folder: Path) -> tuple[Evaluation, dict[str, Any]]:
    """Return the evaluation, and everything that ``evaluation.json`` says; ``audits.json`` is written beside it."""
    study, config, problem = subject.study, subject.study.evaluation, subject.problem
    how: dict[str, Any] = {"seed": study.seed, "num_resamples": config.bootstrap}
    how |= {"metric": subject.metric, "level": config.level}
    external = _external(subject)  # what is wrong with another pool is said before the long part
    found = measure(problem, subject.systems(), rule=config.gate, **how)
    audits = audit(subject)
    write_json(folder / "audits.json", audits.to_json())
    found = found.audited(audits)
    if found.systems and subject.is_fine_tuned and config.gate.shortcut:
        found = replace(found, covered=covered_learning(subject))
    data = found.to_json()
    if found.systems:
        data |= _details(subject, how) | {"others": _compared(subject, others), "external": external}
    data["domains"] = domain_table(study, subject.found, subject.everything)
    return found, data


def _curved(subject: Subject, others: Sequence[FoundEncoder], folder: Path) -> dict[str, Any]:
    """Return what ``curve.json`` says."""
    study, problem, level = subject.study, subject.problem, subject.study.evaluation.level
    encoders = {"encoder": subject.found, **{one.name: one for one in others}}
    found = label_efficiency(
        study, encoders, subject.data, problem.task, problem, folder, metric=subject.metric, level=level
    )
    return found.to_json()


def _details(subject: Subject, how: Mapping[str, Any]) -> dict[str, Any]:
    """Return few-shot figures, structure and subgroups, where the task has them."""
    judge, made = subject.judge, dict[str, Any]()
    predicted = judge.units.mean(subject.predicted)
    few = {name: how[name] for name in ("seed", "num_resamples")}
    made["subgroups"] = subgroups(subject.problem, judge.units, predicted, metric=subject.metric, **few).to_json()
    if subject.problem.kind.exclusive:
        systems = {name: x for name, (x, *_) in subject.features.items()} | dict(subject.pixels)
        made["few_shot"] = few_shot(
            subject.problem, systems, draws=subject.study.evaluation.shot_draws, **how
        ).to_json()
        made["structure"] = structure(subject.problem, systems, **few).to_json()
    return made


def _compared(subject: Subject, others: Sequence[FoundEncoder]) -> dict[str, dict[str, Any]]:
    """Return what the probes of other encoders reach, and by how much the judged one's linear probe is better."""
    judge, made = subject.judge, dict[str, dict[str, Any]]()
    for other in others:
        there = replace(subject, found=other)
        theirs, nearest = there.predicted, judge.predicted(knn_fit(subject.problem, there.own, "encoder"))
        figures = {"linear": judge.score(theirs), "knn": judge.score(nearest)}
        figures["difference"] = judge.difference(subject.predicted, theirs)
        made[other.name] = plain(figures) | {"metrics": plain(panel(judge, theirs).metrics)}
    return made


def _external(subject: Subject) -> dict[str, dict[str, Any]]:
    """Return the scores of every system in other pools, and by how much the encoder is better there."""
    made: dict[str, dict[str, Any]] = {}
    for name, folder in subject.study.evaluation.external.items():
        problem, probes = outside(subject, name, folder)
        judge = replace(subject.judge, problem=problem)
        counts = {role: class_patients(problem, problem.rows(role)) for role in Role}
        if not measurable(problem, counts, subject.study.evaluation.gate):
            made[name] = {"patients": dict(counts[Role.TEST])}
            continue
        given = {system: judge.predicted(found[deciding(found)]) for system, found in probes.items()}
        nearest = {system: judge.predicted(found["knn"]) for system, found in probes.items() if "knn" in found}
        made[name] = {
            "systems": plain({system: judge.score(p) for system, p in given.items()}),
            "knn": plain({system: judge.score(p) for system, p in nearest.items()}),
            "differences": plain(
                {system: judge.difference(given["encoder"], p) for system, p in given.items() if system != "encoder"}
            ),
            "metrics": {system: plain(panel(judge, p).metrics) for system, p in given.items()},
        }
    return made


def _pictures(subject: Subject, folder: Path, *, is_measured: bool) -> None:
    predicted = subject.predicted if is_measured else None
    features, config = subject.features["encoder"][0], subject.study.evaluation.pictures
    draw_pictures(folder, subject.found.encoder, subject.data, features, subject.judge, config, device_for(), predicted)


def _recorded(journal: Journal, measured: Evaluation, curve: Mapping[str, Any] | None) -> None:
    named = [journal.folder / name for name in ("evaluation.json", "audits.json", "curve.json")]
    for made in [*named, *sorted((journal.folder / "pictures").glob("*.png"))]:
        if made.is_file():
            journal.artifact(made, "pictures" if made.suffix == ".png" else "")
    scores = {f"{system}.{probe}": s for system, probes in measured.systems.items() for probe, s in probes.items()}
    scores |= {f"encoder_minus_{baseline}": s for baseline, s in measured.differences.items()}
    scores |= {
        f"encoder_minus_{baseline}.{probe}": s
        for baseline, found in measured.probe_differences.items()
        for probe, s in found.items()
    }
    scores |= {
        f"metrics.{system}.{metric}": s for system, p in measured.panels.items() for metric, s in p.metrics.items()
    }
    for line in curve["lines"] if curve else ():
        scores |= {f"curve.{line['system']}.{p['fraction']:.3g}": Score(**p["score"]) for p in line["points"]}
    facts: dict[str, float | str] = {
        "feature_std": measured.feature_std,
        "rankme": measured.rankme,
        "verdict": str(measured.verdict.decision),
    }
    journal.finish(summary={**facts, **scores})


def latest_verdict(study: Study, found: FoundEncoder, task: str) -> str | None:
    """Return the last verdict on this encoder for ``task``, or None where it was never evaluated."""
    verdicts = [
        read_json(r.folder / "evaluation.json")["verdict"]["decision"]
        for r in read_runs(study.workspace)
        if r.kind == "evaluate"
        and r.status == "finished"
        and r.fingerprints.get("pretraining") == found.fingerprint
        and (r.folder / "evaluation.json").is_file()
        and read_json(r.folder / "evaluation.json")["task"] == task
    ]
    return verdicts[-1] if verdicts else None


def refuse_no_go(verdict: str | None, *, allowed: bool) -> None:
    """Raise where the gate said no and nobody overrode it."""
    if verdict == Decision.NO_GO and not allowed:
        raise GateRefused(
            "the gate said no_go to this encoder; read the verdict, then pretrain better or pass --allow-no-go"
        )
