"""Results come in order from any number of processes, and a dying process costs one task."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medssl.ingest import executors
from medssl.ingest.executors import Died, Workers, alone


def square_late(number: int) -> int:
    time.sleep(0.02 * (5 - number % 5))
    return number * number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    raise ValueError(number)


@pytest.mark.parametrize("num", [1, 2])
def test_results_come_in_the_order_of_the_tasks(num: int) -> None:
    with Workers(num) as workers:
        assert list(workers.run(square_late, range(8))) == [n * n for n in range(8)]
        assert list(workers.run(square_late, [])) == []


@pytest.mark.parametrize("num", [1, 2])
def test_a_task_that_kills_its_process_is_found_out(num: int) -> None:
    with Workers(num, guarded=True) as workers:
        assert list(workers.run(die_at_three, range(6))) == [0, 1, 2, Died(), 4, 5]
        assert list(workers.run(square_late, range(3))) == [0, 1, 4]
    assert alone(die_at_three, 3) == Died()
    assert alone(die_at_three, 4) == 4


@pytest.mark.parametrize("num", [1, 2])
def test_an_exception_in_a_task_is_raised(num: int) -> None:
    with Workers(num) as workers, pytest.raises(ValueError, match=r"^0$"):
        list(workers.run(fail, range(4)))


def test_a_death_costs_few_tasks_their_company(monkeypatch: pytest.MonkeyPatch) -> None:
    by_themselves: list[int] = []

    def counted(function: Callable[[int], int], task: int) -> int | Died:
        by_themselves.append(task)
        return alone(function, task)

    monkeypatch.setattr(executors, "alone", counted)
    with Workers(2) as workers:
        found = list(workers.run(die_at_three, range(100)))
    assert found == [Died() if n == 3 else n for n in range(100)]
    assert 3 in by_themselves
    assert len(by_themselves) <= 4


def tell_and_sleep(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def _start_and_wait(folder: Path) -> None:
    with Workers(2) as workers:
        list(workers.run(tell_and_sleep, [folder] * 4))


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    give_up = time.monotonic() + seconds
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.05)
    return condition()


def test_workers_never_outlive_the_process_that_started_them(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_start_and_wait, args=(tmp_path,))
    process.start()
    assert wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    children = [int(path.name) for path in tmp_path.iterdir()]
    assert all(is_alive(child) for child in children)
    process.kill()
    process.join()
    assert wait_for(lambda: not any(is_alive(child) for child in children))


def interrupt_and_sleep(process: int) -> None:
    os.kill(process, signal.SIGINT)
    time.sleep(60)


def test_whoever_stops_does_not_wait_for_the_tasks_at_hand() -> None:
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Workers(2) as workers:
        list(workers.run(interrupt_and_sleep, [os.getpid()]))
    assert time.monotonic() - begun < 30
