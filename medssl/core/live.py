"""A live table of long work on many files: stages, speeds, what became of them; plain lines where nobody watches."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from medssl.core.progress import stderr

WINDOW_S = 30.0  # that a speed is measured over
PLAIN_S = 30.0  # between two lines without a terminal
COLOURS = {"stored": "green", "quarantined": "yellow"}


@dataclass
class Tally:
    """What became of files so far; the one who works counts, the one who shows reads."""

    outcomes: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    num_workers: int = 1


class Stage:
    """How far one stage is, and how fast it went lately."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self.begun_s = self.last_s = time.monotonic()
        self.seen: deque[tuple[float, int, int]] = deque([(self.begun_s, 0, 0)])

    def move(self, done: int, total: int, num_bytes: int) -> None:
        """Note that ``done`` of ``total`` (0: not known yet) are done, of ``num_bytes`` so far."""
        self.done, self.total, self.last_s = done, total, time.monotonic()
        self.seen.append((self.last_s, done, num_bytes))
        while len(self.seen) > 2 and self.seen[1][0] < self.last_s - WINDOW_S:
            self.seen.popleft()

    @property
    def is_over(self) -> bool:
        """Return whether nothing is left of it."""
        return self.total > 0 and self.done >= self.total

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        return (self.last_s if self.is_over else time.monotonic()) - self.begun_s

    def speeds(self) -> tuple[float, float]:
        """Return files and bytes a second: of late, or of all of a stage that is over."""
        (start, files, num_bytes), (last, done, all_bytes) = self.seen[0], self.seen[-1]
        if self.is_over:
            return self.done / max(self.seconds, 1e-3), 0.0
        span = max((time.monotonic() if last - start < 1 else last) - start, 1e-3)
        return (done - files) / span, (all_bytes - num_bytes) / span


class FileTable:
    """Stages of work on files, as a table or as lines."""

    def __init__(self, title: str, tally: Tally, console: Console) -> None:
        self.title, self.tally, self.console = title, tally, console
        self.stages: dict[str, Stage] = {}
        self.begun_s = self._said_s = time.monotonic()

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Show that ``done`` of ``total`` files are done in ``stage``."""
        one = self.stages.setdefault(stage, Stage())
        one.move(done, total, self.tally.num_bytes)
        if done and not self.console.is_terminal and (one.is_over or time.monotonic() > self._said_s + PLAIN_S):
            self._said_s = time.monotonic()
            self.console.print(self._line(stage, one), highlight=False, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        rows = Table.grid(padding=(0, 1))
        for justify in ("left", "left", "right", "right", "right", "right"):
            rows.add_column(justify=justify, no_wrap=True)
        for name, one in self.stages.items():
            files, num_bytes = one.speeds()
            amount = f"{one.done:,}" + (f"/{one.total:,}" if one.total and not one.is_over else "")
            speed = f"{num_bytes / 1e6:,.0f} MB/s" if num_bytes else ""
            bar = ProgressBar(one.total or None, one.done, width=16, pulse=not one.total)
            rows.add_row(name, bar, amount, f"{files:,.0f} files/s" if one.done else "", speed, self._left(one))
        num = self.tally.num_workers
        head = Text.assemble((self.title, "bold"), f"  {num} worker{'s' if num != 1 else ''}  ", clock(self._age()))
        return Group(head, rows, self._outcomes())

    def _age(self) -> float:
        return time.monotonic() - self.begun_s

    def _left(self, one: Stage) -> str:
        if one.is_over:
            return f"took {clock(one.seconds)}"
        files, _ = one.speeds()
        return f"ETA {clock((one.total - one.done) / files)}" if one.total and files > 0 else ""

    def _outcomes(self) -> Text:
        counts = ((outcome, f"{outcome} {num:,}") for outcome, num in self.tally.outcomes.most_common())
        return Text("  ").join(Text(text, COLOURS.get(outcome, "")) for outcome, text in counts)

    def _line(self, name: str, one: Stage) -> str:
        files, num_bytes = one.speeds()
        speeds = f"{files:,.0f} files/s" + (f", {num_bytes / 1e6:,.0f} MB/s" if num_bytes else "")
        amount = f"{one.done:,}" + (f" of {one.total:,}" if one.total else "")
        return "; ".join(filter(None, [f"{name}: {amount} files, {speeds}", self._left(one), self._outcomes().plain]))


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@contextmanager
def file_table(title: str, tally: Tally, console: Console = stderr) -> Iterator[FileTable]:
    """Show a `FileTable` while the block runs."""
    table = FileTable(title, tally, console)
    if not console.is_terminal:
        yield table
        return
    with Live(table, console=console, refresh_per_second=4):
        yield table
