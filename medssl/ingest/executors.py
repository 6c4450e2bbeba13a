"""Running tasks in local processes: results in the order of the tasks, and a task that kills its process found out."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Died:
    """In place of a result: the process of this task died, also when the task ran alone."""


class Workers:
    """Local processes, started when first needed and kept; one worker is this process itself."""

    def __init__(self, num: int) -> None:
        self.num = num
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def run(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R | Died]:
        """Yield ``function(task)`` for every task, in order; an exception in a task is raised here.

        ``function`` must be importable, its tasks and results picklable.
        """
        if self.num <= 1 or len(tasks) <= 1:
            yield from map(function, tasks)
            return
        self._pool = self._pool or _processes(self.num)
        done = 0
        try:
            for result in self._pool.map(function, tasks):
                done += 1
                yield result
        except BrokenProcessPool:
            self._pool = None
            for task in tasks[done:]:
                yield alone(function, task)


def alone(function: Callable[[T], R], task: T) -> R | Died:
    """Return ``function(task)`` from a process of its own."""
    with _processes(1) as pool:
        try:
            return pool.submit(function, task).result()
        except BrokenProcessPool:
            return Died()


def _processes(num: int) -> ProcessPoolExecutor:
    # Forked copies of this process would inherit the locks of its threads; a fork server has none. An interrupt from
    # the keyboard reaches this process, which stops the others.
    context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(num, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
