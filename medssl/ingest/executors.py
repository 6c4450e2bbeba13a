"""Running tasks in local processes: results in the order of the tasks, and a task that kills its process found out."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Protocol, Self, TypeVar

from medssl.core.processes import end_with_parent

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 16  # tasks handed out a worker: enough that none waits for a slow one, few enough that memory stays bounded

POLL_S = 1.0


@dataclass(frozen=True)
class Died:
    """In place of a result: the process of this task died, also when the task ran alone."""


class Executor(Protocol):
    """Runs tasks anywhere. Tasks are idempotent: one that was lost with its worker is run again."""

    @property
    def num(self) -> int:
        """How many workers there are now."""

    def run(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R | Died]:
        """Yield ``function(task)`` for every task, in order; an exception in a task is raised here.

        ``function`` must be importable, its tasks and results picklable.
        """


class Workers:
    """Local processes, started when first needed and kept.

    One worker is this process itself, unless it is to be ``guarded``: then a file that kills its decoder costs that
    file here too, not the run.
    """

    def __init__(self, num: int, *, guarded: bool = False) -> None:
        self.num, self.is_here = num, num <= 1 and not guarded
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        if error is not None:  # whoever stops a run does not wait for the tasks at hand, which are written whole or not
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def run(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R | Died]:
        """Yield ``function(task)`` for every task; see ``Executor``."""
        if self.is_here:
            yield from map(function, tasks)
            return
        left = iter(tasks)
        handed: deque[tuple[T, Future[R] | None]] = deque()  # without a future: to be run alone
        while True:
            handed += ((task, self._submit(function, task)) for task in islice(left, AHEAD * self.num - len(handed)))
            if not handed:
                return
            task, future = handed.popleft()
            try:
                result = alone(function, task) if future is None else _result(future)
            except BrokenProcessPool:
                handed = self._after_death(function, handed)
                result = alone(function, task)
            yield result

    def _submit(self, function: Callable[[T], R], task: T) -> Future[R]:
        self._pool = self._pool or _processes(self.num)
        try:
            return self._pool.submit(function, task)
        except BrokenProcessPool:
            self._pool = _processes(self.num)
            return self._pool.submit(function, task)

    def _after_death(
        self, function: Callable[[T], R], handed: Iterable[tuple[T, Future[R] | None]]
    ) -> deque[tuple[T, Future[R] | None]]:
        """Hand out again what was lost. Tasks start in order, so the first of those may be what killed: alone, then."""
        again: deque[tuple[T, Future[R] | None]] = deque()
        num_suspects = 1
        for task, future in handed:
            if future is None or not (future.done() and isinstance(future.exception(), BrokenProcessPool)):
                again.append((task, future))
            elif num_suspects < self.num:
                num_suspects += 1
                again.append((task, None))
            else:
                again.append((task, self._submit(function, task)))
        return again


def alone(function: Callable[[T], R], task: T) -> R | Died:
    """Return ``function(task)`` from a process of its own."""
    with _processes(1) as pool:
        try:
            return _result(pool.submit(function, task))
        except BrokenProcessPool:
            return Died()


def _result(future: Future[R]) -> R:
    """Wait for a result, awake often enough to notice a signal that another thread of this process got."""
    while not future.done():
        wait([future], timeout=POLL_S)
    return future.result()


def _processes(num: int) -> ProcessPoolExecutor:
    # Forked copies of this process would inherit the locks of its threads; a fork server has none.
    return ProcessPoolExecutor(num, multiprocessing.get_context("forkserver"), initializer=_start)


def _start() -> None:
    """Leave interrupts from the keyboard to the main process, which stops the others; never outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
