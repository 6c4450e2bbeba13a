"""Progress bars on stderr; results go to stdout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

stderr = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")  # rank 0 speaks for all

SPEED_PERIOD_S = 600.0  # a step of minutes still has a speed


class Bar:
    """One line of progress with free text at its end."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, num: int = 1, text: str | None = None) -> None:
        """Move on by ``num``; ``text`` replaces the text at the end."""
        if text is None:
            self._progress.advance(self._task, num)
        else:
            self._progress.update(self._task, advance=num, text=text)


@contextmanager
def bar(description: str, total: int, done: int = 0) -> Iterator[Bar]:
    """Show a progress bar while the block runs (nothing when stderr is not a terminal)."""
    count = MofNCompleteColumn(table_column=Column(no_wrap=True))  # a narrow terminal shortens the bar alone
    left = TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True))
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        count,
        left,
        TextColumn("{task.fields[text]}"),
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
        speed_estimate_period=SPEED_PERIOD_S,
    ) as progress:
        yield Bar(progress, progress.add_task(description, total=total, completed=done, text=""))


class Stages:
    """Bars for work of several stages, each made when its stage is first named."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._tasks = progress, dict[str, TaskID]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done in ``stage``."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)


@contextmanager
def stages() -> Iterator[Stages]:
    """Show `Stages` while the block runs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal, transient=True) as progress:
        yield Stages(progress)
