"""Results come in order from any number of processes, and a dying process costs one task."""

from __future__ import annotations

import os
import signal
import time

import pytest

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


def test_a_task_that_kills_its_process_is_found_out() -> None:
    with Workers(2) as workers:
        assert list(workers.run(die_at_three, range(6))) == [0, 1, 2, Died(), 4, 5]
        assert list(workers.run(square_late, range(3))) == [0, 1, 4]
    assert alone(die_at_three, 3) == Died()
    assert alone(die_at_three, 4) == 4


@pytest.mark.parametrize("num", [1, 2])
def test_an_exception_in_a_task_is_raised(num: int) -> None:
    with Workers(num) as workers, pytest.raises(ValueError, match=r"^0$"):
        list(workers.run(fail, range(4)))
