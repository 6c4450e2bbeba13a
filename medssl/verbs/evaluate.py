"""``medssl evaluate``: does the representation transfer? Probes, baselines, and the gate."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from medssl.core.errors import GateRefused
from medssl.core.files import read_json, write_json
from medssl.core.types import Role
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.engine.distributed import device_for
from medssl.engine.scoring import embed
from medssl.evaluation import fits
from medssl.evaluation.evaluate import Systems
from medssl.evaluation.evaluate import evaluate as measure
from medssl.evaluation.gate import Decision
from medssl.evaluation.problem import Problem
from medssl.evaluation.results import Evaluation
from medssl.models.build import build_encoder
from medssl.models.encoders.base import ENCODERS
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.tracking.records import read_runs
from medssl.verbs.context import FoundEncoder, find_encoder, marks, running, score_folder
from medssl.verbs.result import NO_GO, OK, Result

PIXELS = 64


def evaluate(study: Study, *, task: str | None = None, encoder: str | None = None) -> Result:
    """Measure an encoder on the labelled volumes and let the gate decide; exit code 4 where it says no_go."""
    pool = Pool.open(study.pool)
    found = find_encoder(study, pool, encoder)
    name = study.task(task or study.evaluation.task)
    data = prepare(pool, study.prepare)
    prints = marks(pool, pretraining=found.fingerprint)
    with running(study, "evaluate", prints, found.parents) as journal:
        measured = _measured(study, data, found, name)
        verdict = measured.verdict
        write_json(journal.folder / "evaluation.json", measured.to_json())
        journal.artifact(journal.folder / "evaluation.json")
        scores = {f"{system}.{probe}": s for system, probes in measured.systems.items() for probe, s in probes.items()}
        scores |= {f"encoder_minus_{baseline}": s for baseline, s in measured.differences.items()}
        facts: dict[str, float | str] = {
            "feature_std": measured.feature_std,
            "rankme": measured.rankme,
            "verdict": str(verdict.decision),
        }
        journal.finish(summary={**facts, **scores})
    shown: list[RenderableType] = [_table(measured, journal.id)] if measured.systems else []
    shown += [Text(f"gate: {verdict.decision}", style="bold"), *(f"  {reason}" for reason in verdict.reasons)]
    code = NO_GO if verdict.decision is Decision.NO_GO else OK
    return Result({"run": journal.id, **measured.to_json()}, tuple(shown), code)


def _measured(study: Study, data: Prepared, found: FoundEncoder, task: str) -> Evaluation:
    """Embed every labelled volume, and enough unlabelled dev ones to see a collapse, with encoder and baselines."""
    truth = dict(data.catalog.targets(task).iter_rows())
    wanted = list(truth) + data.catalog.role(Role.DEV).volumes["volume"].to_list()[:1000]
    chosen = data.of(data.catalog.only(wanted))
    device = device_for()
    config = ENCODERS.load(found.about["name"]).config_class.parse(found.about["config"])
    untrained = build_encoder(found.about["name"], config, data.geometry, seed=study.seed)
    volumes, kept = chosen.catalog.volumes, score_folder(study, found.fingerprint, "evaluate")
    values = [truth.get(volume) for volume in volumes["volume"]]
    roles, patients, studies = (volumes[name].to_list() for name in ("role", "patient", "study"))
    problem = Problem.of(task, values, roles, patients, studies=studies)
    features = embed(found.encoder, chosen, device, kept)
    without = embed(untrained, chosen, device, kept / "random")
    probes = {
        name: {"knn": fits.knn_fit(problem, x, name), "linear": fits.linear_fit(problem, x, name)}
        for name, x in {"encoder": features, "random": without}.items()
    }
    probes["pixels"] = {"pca": fits.pca_fit(problem, _pixels(chosen))}
    rule, num = study.evaluation.gate, study.evaluation.bootstrap
    return measure(problem, Systems(probes, features), rule=rule, seed=study.seed, num_resamples=num)


def _pixels(data: Prepared) -> NDArray[np.float32]:
    """Return images of at most ``PIXELS`` an axis, ``N C *S``: what a linear model on pixels can hold in memory."""
    shape = tuple(min(size, PIXELS) for size in data.geometry.shape)
    chunks = np.array_split(np.arange(len(data)), max(1, len(data) // 64))
    return np.concatenate([F.interpolate(data.images(rows), size=shape, mode="area").numpy() for rows in chunks])


def _table(measured: Evaluation, run: str) -> Table:
    table = Table(
        title=f"{measured.task}: {measured.num_train} train, {measured.num_val} val, {measured.num_test} test",
        caption=run,
    )
    for heading in ("system", "probe", "score"):
        table.add_column(heading)
    for system, probes in measured.systems.items():
        for probe, score in probes.items():
            table.add_row(system, probe, str(score))
    for baseline, score in measured.differences.items():
        table.add_row(f"encoder − {baseline}", "paired", str(score))
    return table


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
