"""The live table: what it shows at 80 columns, and as lines where nobody watches."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from medssl.core.live import FileTable, Tally, clock, file_table


def drawn(table: FileTable, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(table)
    return console.file.getvalue().splitlines()


def test_ten_million_files_fit_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tally = Tally(num_workers=32)
    table = FileTable("ingest → pool", tally, Console(file=io.StringIO()))
    table("listing", 0, 0)
    now[0] += 600
    table("listing", 10_000_000, 10_000_000)
    table("headers", 0, 10_000_000)
    for _ in range(100):
        now[0] += 1
        table("headers", min(10_000_000, table.stages["headers"].done + 10_000), 10_000_000)
    tally.outcomes.update(stored=9_000_000, duplicate=800_000, quarantined=150_000, excluded=40_000, non_image=10_000)
    lines = drawn(table)
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("ingest → pool  32 workers  0:11:40")
    assert "1,000,000/10,000,000" in lines[2]
    assert "10,000 files/s" in lines[2]
    assert "ETA 0:15:00" in lines[2]
    assert "stored 9,000,000  duplicate 800,000  quarantined 150,000" in lines[3]


def test_megabytes_are_counted_where_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tally = Tally()
    table = FileTable("x", tally, Console(file=io.StringIO()))
    table("volumes", 0, 100)
    now[0], tally.num_bytes = 10.0, 500_000_000
    table("volumes", 50, 100)
    assert "5 files/s 50 MB/s ETA 0:00:10" in " ".join(drawn(table)[1].split())


def test_without_a_terminal_there_are_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80)
    tally = Tally()
    with file_table("x", tally, console) as table:
        table("headers", 0, 1000)
        for done in range(10, 1001, 10):
            now[0] += 1
            tally.outcomes["quarantined"] += 1
            table("headers", done, 1000)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "headers: 310 of 1,000 files, 10 files/s; ETA 0:01:09; quarantined 31"
    assert lines[-1] == "headers: 1,000 of 1,000 files, 10 files/s; took 0:01:40; quarantined 100"
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (360_000, "100:00:00")]
)
def test_durations_are_hours_minutes_seconds(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_terminal_gets_the_table_itself() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with file_table("x", Tally(), console) as table:
        table("listing", 5, 5)
    assert "listing" in console.file.getvalue()
