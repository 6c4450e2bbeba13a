"""The table of runs for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from medssl.core.score import Score
from medssl.review.words import duration, interval, name
from medssl.tracking.records import RunRecord

STATUS_STYLE = {"finished": "green", "failed": "bold red", "preempted": "yellow", "unfinished": "cyan"}


def runs_table(records: Sequence[RunRecord]) -> Table:
    """Return one row a run, in the given order; scores carry their interval and n.

    The id says the kind and the start (UTC), so that the figures find room in 80 columns.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", no_wrap=True)
    table.add_column("study", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("key figures", overflow="fold")
    for run in records:
        status = Text(run.status, style=STATUS_STYLE.get(run.status, ""))
        figures = Text("\n".join(key_figures(run)))
        table.add_row(Text(run.id), Text(run.study), status, duration(run.seconds), figures)
    return table


def key_figures(run: RunRecord, most: int = 4) -> list[str]:
    """Return the first ``most`` figures of a run as text: its scores, then what else its summary holds."""
    scores = []
    for key, score in run.scores.items():
        words = dict.fromkeys((name(key), name(score.metric)))  # "AUROC" once when the figure is called by its metric
        scores.append(f"{' '.join(words)} {interval(score)}")
    others = [
        f"{name(key)} {value if isinstance(value, str) else f'{value:.4g}'}"
        for key, value in run.summary.items()
        if not isinstance(value, Score)
    ]
    return (scores + others)[:most]
