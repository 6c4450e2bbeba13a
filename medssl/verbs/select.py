"""``medssl select-for-labeling``: a random pilot to measure with, then the studies that a strategy ranks first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.table import Table
from rich.text import Text

from medssl.core.errors import SelectionError
from medssl.core.keys import generator
from medssl.core.types import Role
from medssl.data.prepare import picture, prepare
from medssl.data.prepared import Prepared
from medssl.pool.catalog import whole
from medssl.pool.pool import Pool
from medssl.review.contact_sheet import Listed, contact_sheet, preview, worklist_page
from medssl.selection.guards import Candidates, candidates
from medssl.selection.pilot import PilotStudy, pilot
from medssl.selection.rounds import Rounds
from medssl.selection.strategies.base import STRATEGIES, Ranking, SelectionPool, Strategy
from medssl.selection.worklist import Row, Worklist
from medssl.study import Study
from medssl.verbs.context import marks, running
from medssl.verbs.result import Result
from medssl.verbs.signals import Signals, read_signals

SHEET = 48  # studies on the contact sheet


def select(study: Study, *, task: str | None = None, linkage: Path | None = None) -> Result:
    """Open the next round: freeze a ranking or go on with it, write the worklist and its contact sheet.

    Raises:
        SelectionError: the budget is more than what is left, or a later round has no task model yet.
    """
    pool = Pool.open(study.pool)
    name = study.task(task or study.selection.task)
    originals = _originals(linkage) if linkage else None
    data = prepare(pool, study.prepare)
    rounds = Rounds(study.workspace / "rounds" / study.name / name)
    number, offered = rounds.next_round, rounds.offered()
    labelled = set(data.catalog.labelled(name).volumes["study"])
    studies, roles = (data.catalog.volumes[column].to_list() for column in ("study", "role"))
    sizes = {Role.VAL: study.selection.pilot_val, Role.TEST: study.selection.pilot_test} if number == 0 else {}
    drawn = pilot(studies, roles, sizes=sizes, seed=study.seed, known=labelled | offered)
    blank, digests = _blank(data), _digests(pool, data)
    guarded = candidates(studies, roles, digests, blank, labelled=labelled, offered=offered)
    strategy: Strategy[Any] = STRATEGIES.load(study.selection.strategy.name)(study.selection.strategy.config)
    _check_left(study, len(guarded.studies), strategy.most(len(guarded.studies), number, study.selection.rounds))
    unlabelled, needs = data.of(data.catalog.studies(guarded.studies)), strategy.needs_in(number)
    signals = read_signals(study, pool, unlabelled, needs, name)
    prints = marks(pool, task=name, **({"model": signals.model} if signals.model else {}))
    with running(study, "select", prints, signals.parents) as journal:
        if signals.doubt:
            journal.note(signals.doubt)
        ranking = _rank(study, data, guarded, signals, strategy, rounds, number)
        worklist = Worklist(name, tuple(_rows(study, pool, data, drawn, ranking, signals.model)))
        if originals is not None:
            _expect_linked(worklist, originals)
        folder = rounds.open(worklist, ranking.frozen, lambda place: _illustrate(study, pool, worklist, place, number))
        for made in ("worklist.csv", "contact_sheet.png"):
            journal.artifact(folder / made)
        left_out = [{"study": e.study, "reason": e.reason} for e in guarded.excluded]
        journal.finish(summary={"round": str(number), "picked": len(ranking.studies), "pilot": len(drawn)})
    table = _linked(study, worklist, folder, linkage, originals) if linkage and originals else folder / "worklist.csv"
    facts = {"run": journal.id, "round": number, "worklist": str(table), "excluded": left_out}
    facts |= {"picked": list(ranking.studies), "pilot": [vars(p) for p in drawn]}
    return Result(facts, (_table(worklist), *_said(worklist, drawn, guarded, folder, table, signals.doubt)))


def _rank(
    study: Study,
    data: Prepared,
    guarded: Candidates,
    signals: Signals,
    strategy: Strategy[Any],
    rounds: Rounds,
    number: int,
) -> Ranking:
    first = data.catalog.volumes.unique("study", keep="first", maintain_order=True)
    row = {r["study"]: r for r in first.iter_rows(named=True)}
    offered = SelectionPool(
        studies=np.array(guarded.studies),
        patients=np.array([row[s]["patient"] for s in guarded.studies]),
        strata=np.array([stratum(row[s]) for s in guarded.studies]),
        round=number,
        num_rounds=study.selection.rounds,
        frozen=rounds.frozen(),
        **{str(signal): values for signal, values in signals.values.items()},
    )
    return strategy.select(offered, study.selection.budget, generator("select", study.seed, number))


def stratum(row: dict[str, Any]) -> str:
    """Return what scores must be comparable within: modality and scanner."""
    return f"{row['modality'] or 'unknown'} · {row['scanner'] or 'unknown'}"


def _originals(linkage: Path) -> dict[str, str]:
    """Return the original study UID of each pseudonym."""
    try:
        table = pl.read_csv(linkage, columns=["study", "study_uid"], infer_schema=False)
    except (OSError, pl.exceptions.PolarsError):
        raise SelectionError(
            f"{linkage}: not a linkage file; name the one that `medssl ingest --linkage` wrote"
        ) from None
    return dict(table.drop_nulls().unique().iter_rows())


def _digests(pool: Pool, data: Prepared) -> list[str]:
    """Return the checksum of each volume as ingested: resizing could make two different ones equal."""
    return (
        data.catalog.volumes.select(whole())
        .join(pool.catalog.volumes.select("volume", "sha256"), on="volume", maintain_order="left")["sha256"]
        .to_list()
    )


def _blank(data: Prepared) -> list[bool]:
    """Say which dev volumes have one value throughout; held-out ones are not even read."""
    roles = data.catalog.volumes["role"]
    return [role == Role.DEV and bool(np.ptp(data.reader.read(row)) == 0) for row, role in enumerate(roles)]


def _check_left(study: Study, left: int, most: int) -> None:
    """Refuse a budget before anything is trained or scored for it."""
    rounds, budget = study.selection.rounds, study.selection.budget
    if budget > left:
        raise SelectionError(f"selection.budget {budget} is more than the {left} unlabelled dev studies left")
    if budget > most:
        raise SelectionError(
            f"selection.budget {budget} is more than the {most} studies of a batch: {left} unlabelled dev "
            f"studies in selection.rounds {rounds}; lower one of them"
        )


def _expect_linked(worklist: Worklist, originals: dict[str, str]) -> None:
    absent = sum(study not in originals for study in worklist.studies)
    if absent:
        raise SelectionError(f"the linkage file lacks {absent} of {len(worklist.rows)} studies; is it of this pool?")


def _linked(study: Study, worklist: Worklist, folder: Path, linkage: Path, originals: dict[str, str]) -> Path:
    """Write the worklist with original study UIDs beside the linkage file, for its owner only; return the table.

    It is no file of the run, so that it never goes to MLflow or into a report.
    """
    place = linkage.parent / f"{study.name}-{worklist.task}-round-{folder.name}"
    rows = tuple(replace(row, preview=str((folder / row.preview).resolve())) for row in worklist.rows)
    Worklist(worklist.task, rows).write(place, originals)
    for file in place.iterdir():
        file.chmod(0o600)
    return place / "worklist.csv"


def _rows(
    study: Study, pool: Pool, data: Prepared, drawn: Sequence[PilotStudy], ranking: Ranking, model: str
) -> list[Row]:
    first = data.catalog.volumes.unique("study", keep="first", maintain_order=True)
    strata = {r["study"]: stratum(r) for r in first.iter_rows(named=True)}
    picks = [
        (s, Role.DEV, score, why, model)
        for s, score, why in zip(ranking.studies, ranking.scores, ranking.reasons, strict=True)
    ]
    held = [(p.study, p.role, None, f"random pilot, to measure with ({p.role}); never trained on", "") for p in drawn]
    return [
        Row(rank, s, role, score, why, strata[s], f"previews/{s}.png", made, pool.fingerprints.images, study.seed)
        for rank, (s, role, score, why, made) in enumerate([*picks, *held], start=1)
    ]


def _illustrate(study: Study, pool: Pool, worklist: Worklist, folder: Path, number: int) -> None:
    """Write a preview a study at the scan's own resolution, the contact sheet and the annotators' page."""
    first = pool.catalog.volumes.with_row_index("row").unique("study", keep="first", maintain_order=True)
    volume, reader = {r["study"]: r for r in first.iter_rows(named=True)}, pool.reader()
    listed = []
    for one in worklist.rows:
        row = volume[one.study]
        image = picture(reader.read(row["row"]), row, study.prepare)
        listed.append(Listed(one.rank, one.study, image, one.reason, one.score))
        preview(image, folder / one.preview)
    shown = listed[:SHEET]
    captions = [f"{entry.rank} · {entry.study[:8]}" for entry in shown]
    contact_sheet([entry.image for entry in shown], captions, folder / "contact_sheet.png")
    worklist_page(listed, folder / "contact_sheet.html", f"Round {number}: {worklist.task}")


def _table(worklist: Worklist) -> Table:
    table = Table("rank", "study", "role", "score", "reason", title=f"worklist: {worklist.task}", title_justify="left")
    for row in worklist.rows[:10]:
        table.add_row(
            str(row.rank), row.study[:12], row.role, "" if row.score is None else f"{row.score:.3f}", row.reason
        )
    return table


def _said(
    worklist: Worklist, drawn: Sequence[PilotStudy], guarded: Candidates, folder: Path, table: Path, doubt: str | None
) -> list[str | Text]:
    num_picked = len(worklist.rows) - len(drawn)
    lines: list[str | Text] = [
        f"round {folder.name}: {num_picked} dev studies picked, {len(drawn)} drawn at random as a pilot to measure with"
    ]
    if doubt:
        lines.append(Text(f"pretext: {doubt}", style="yellow"))
    if guarded.excluded:
        counts = pl.Series([re.sub(r" study .*", " another study", e.reason) for e in guarded.excluded]).value_counts(
            sort=True
        )
        lines.append("left out: " + ", ".join(f"{num} {reason}" for reason, num in counts.iter_rows()))
    lines.append(f"worklist {table}, pictures {folder / 'contact_sheet.html'}")
    lines.append(f"next: fill in the column {worklist.task}, then medssl import-labels")
    return lines
