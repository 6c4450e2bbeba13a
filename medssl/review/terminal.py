"""An evaluation for the terminal: the same tables as on the page, and the verdict last, where the eye rests."""

from __future__ import annotations

from functools import partial

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from medssl.evaluation.gate import By
from medssl.review import curves
from medssl.review.evaluated import Evaluated
from medssl.review.finetuned import Finetuned
from medssl.review.grids import Cell, Grid
from medssl.review.words import number, sentence, signed

VERDICT_STYLE = {"go": "bold green", "no_go": "bold red", "undecided": "bold yellow"}
WARNING_STYLE = "yellow"
MOST_SYSTEMS = 4  # columns of a table with a row a metric; the page has them all
ONE_LINE = 2  # columns of figures that fit in one line of 80 characters
LABEL, MOST = 11, 32  # characters of a row's name at least, and of a column's figures that are kept together


def evaluation_shown(found: Evaluated) -> tuple[RenderableType, ...]:
    """Return what ``medssl evaluate`` says, in reading order; what was not measured is left out."""
    gaps = Grid("", found.subgroups.head, tuple(r for r in found.subgroups.rows if r.own))
    by_labels = curves.tables(found.curve) if found.curve else ()
    tables = {
        f"{found.task}: systems": found.systems,
        "all metrics": found.metrics.first(MOST_SYSTEMS),
        "each class or finding": found.by_class.first(MOST_SYSTEMS),
        "other encoders": found.others,
        "other pools": found.external,
        "distance between pools": found.domains,
        "with the border covered": found.covered,
        "few labelled patients": found.few_shot,
        "widest gap within a group": gaps,
    }
    shown: list[RenderableType] = [grid_table(grid, title, found.run.id) for title, grid in tables.items() if grid.rows]
    shown += [grid_table(grid, grid.caption, found.run.id) for grid in by_labels]
    if found.audits:
        shown.append(_audits(found))
    return (*shown, *_verdict(found), *_left_open(found))


def finetuned_shown(found: Finetuned) -> tuple[RenderableType, ...]:
    """Return what ``medssl finetune`` says of a model; without test labels there is no table of metrics."""
    tables = {f"{found.task}: fine-tuned": found.systems, "all metrics": found.metrics}
    return tuple(grid_table(grid, title, found.run.id) for title, grid in tables.items() if grid.rows)


def grid_table(grid: Grid, title: str, run: str) -> Table:
    """Return a table whose figures have their intervals; below it their run, and their n where it is one."""
    counts = {cell.score.n for row in grid.rows for cell in row.cells if cell.score}
    n = f"n = {counts.pop()} patients, " if len(counts) == 1 else ""
    table = Table(
        title=sentence(title), caption=f"{n}{run}", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left"
    )
    table.caption_justify = "left"
    table.add_column("", min_width=LABEL)
    cell = partial(_short if len(grid.head) > ONE_LINE else _line, with_n=not n)
    for i, head in enumerate(grid.head):
        shown = [cell(row.cells[i]) for row in grid.rows]
        scored = [text for text, row in zip(shown, grid.rows, strict=True) if row.cells[i].score]
        widest = max((len(line) for text in scored for line in text.splitlines()), default=1)
        table.add_column(head, min_width=min(widest, MOST))
    for row in grid.rows:
        table.add_row(
            Text(sentence(row.label)), *(Text(cell(one)) for one in row.cells), style="bold" if row.own else ""
        )
    return table


def _line(cell: Cell, *, with_n: bool) -> str:
    """Return a figure in one line, its note below."""
    if cell.score is None:
        return cell.text
    figure = f"{_value(cell)} [{number(cell.score.low)}, {number(cell.score.high)}]"
    return "\n".join(filter(None, (f"{figure} n = {cell.score.n}" if with_n else figure, cell.text)))


def _short(cell: Cell, *, with_n: bool) -> str:
    """Return a figure above its interval, for tables of many columns; of its note the last part, which is a spread."""
    if cell.score is None:
        return cell.text
    lines = [_value(cell), f"{number(cell.score.low)}…{number(cell.score.high)}", cell.text.rpartition(", ")[2]]
    return "\n".join(filter(None, [*lines, f"n = {cell.score.n}" if with_n else ""]))


def _value(cell: Cell) -> str:
    value = cell.score.value if cell.score else float("nan")
    return signed(value) if cell.signed else number(value)


def _audits(found: Evaluated) -> Table:
    table = Table(title="Audits", box=SIMPLE_HEAD, pad_edge=False, title_justify="left", show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for audit in found.audits:
        style = WARNING_STYLE if audit.warning else ""
        table.add_row(Text(audit.outcome[0]), Text(audit.name), Text(audit.finding), style=style)
    return table


def _left_open(found: Evaluated) -> list[RenderableType]:
    """Return where a verdict by probes may be looked into; networks learn classes alone."""
    if found.verdict is None or found.verdict.decision == "go" or found.curve:
        return []
    if not found.measured or not found.kind.exclusive or found.by is By.FINE_TUNED:
        return []
    return [
        Text(
            "A probe can miss what fine-tuning shows: `medssl evaluate --curve` sets it beside learning from scratch, "
            "`evaluation.gate.by: fine_tuned` lets the gate judge it."
        )
    ]


def _verdict(found: Evaluated) -> list[RenderableType]:
    if found.verdict is None:
        return []
    said = found.verdict
    reasons = Table.grid(padding=(0, 1))
    reasons.add_column(no_wrap=True)
    reasons.add_column(overflow="fold")
    for reason in said.reasons:
        reasons.add_row("•", Text(reason))
    warned = ", ".join(audit.name for audit in found.audits if audit.warning)
    for warning in (f"Audits that warn, see above: {warned}.",) if warned else said.warnings:
        reasons.add_row("!", Text(warning), style=WARNING_STYLE)
    return [
        Text.assemble(
            (f"gate: {said.decision}", VERDICT_STYLE.get(said.decision, "bold")),
            (f"  {found.judged}" if found.judged else "", "dim"),
        ),
        Padding(reasons, (0, 0, 0, 2)),
    ]
