"""The progress bar on a narrow terminal, and after a resume."""

import io
import re

import pytest
from rich.console import Console

from medssl.core import progress


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(progress, "stderr", console)
    return console


def last_line(bar: progress.Bar, console: Console) -> str:
    bar._progress.stop()
    with console.capture() as captured:
        console.print(bar._progress.get_renderable())
    return captured.get().strip()


def test_everything_fits_into_eighty_columns(terminal: Console) -> None:
    with progress.bar("pretrain moco_v3", 125_000) as bar:
        bar.advance(118_000, text="epoch 283 · 0.898 · 512 img/s · wait 2%")
        line = last_line(bar, terminal)
    assert len(line) <= 80
    assert "118000/125000" in line
    assert line.endswith("wait 2%")


def test_a_resumed_bar_tells_the_time_left_by_its_own_speed(terminal: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    terminal.get_time = lambda: now[0]  # type: ignore[method-assign]
    with progress.bar("pretrain mae", 1000, done=900) as bar:
        bar._progress.get_time = lambda: now[0]  # type: ignore[method-assign]
        for _ in range(5):
            now[0] += 60
            bar.advance(text="")
        line = last_line(bar, terminal)
    hours, minutes, _ = re.findall(r"(\d+):(\d+):(\d+)", line)[0]
    assert abs(int(hours) * 60 + int(minutes) - 95) <= 1
