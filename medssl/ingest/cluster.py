"""Running tasks on a Dask cluster: the same tasks as in local processes, on machines that share a file system."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from medssl.core.errors import MedsslError
from medssl.ingest.executors import AHEAD, Died, alone
from medssl.ingest.work import code_version

T = TypeVar("T")
R = TypeVar("R")

WAIT_S = 60.0  # without any worker, before a run gives up
POLL_S = 2.0


class Cluster:
    """The workers of a Dask scheduler, one task at a time each.

    A task that was lost with its worker runs again elsewhere; one that kills several is tried alone, in a process here.

    Raises:
        MedsslError: no Dask here, no scheduler there, no workers, or workers that are not like this process.
    """

    def __init__(self, address: str, pool: Path) -> None:
        self.address, self.pool = address, pool.resolve()
        try:
            import distributed
        except ModuleNotFoundError:
            raise MedsslError("--scheduler needs Dask: pip install 'medssl[dask]'") from None
        self._dask: Any = distributed
        self._client: Any = None
        self._seen_s = time.monotonic()
        self.num = 0

    def __enter__(self) -> Self:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it comes as an error
        try:
            self._client = self._dask.Client(self.address, timeout=POLL_S * 5, set_as_default=False, name="medssl")
            self._client.wait_for_workers(1, timeout=WAIT_S)
        except TimeoutError:
            self.__exit__(None, None, None)
            raise MedsslError(f"{self.address}: no workers; start `dask worker {self.address} --nthreads 1`") from None
        except (OSError, ValueError) as error:
            raise MedsslError(f"{self.address}: no Dask scheduler there ({type(error).__name__})") from None
        try:
            self._expect_alike()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close(timeout=POLL_S)  # the scheduler cancels what nobody waits for
            self._client = None

    def run(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R | Died]:
        """Yield ``function(task)`` for every task; see ``Executor``.

        Raises:
            MedsslError: no workers for a minute, or the scheduler is gone.
        """
        left = iter(tasks)
        handed: deque[tuple[T, Any]] = deque()
        try:
            while True:
                if time.monotonic() > self._seen_s + POLL_S:
                    self._expect_workers()  # more may have come
                for task in islice(left, max(0, AHEAD * max(self.num, 1) - len(handed))):
                    future = self._client.submit(_run, code_version(), function, task, pure=False)
                    handed.append((task, future))
                if not handed:
                    return
                task, future = handed[0]
                yield self._result(function, task, future)
                handed.popleft()
        finally:
            self._client.cancel([future for _, future in handed])

    def _result(self, function: Callable[[T], R], task: T, future: Any) -> R | Died:
        while True:
            try:
                found: R = future.result(timeout=POLL_S)
                return found
            except TimeoutError:
                if future.status == "error":
                    raise  # the task's own
                self._expect_workers()
            except self._dask.scheduler.KilledWorker:
                return alone(function, task)
            except CancelledError:
                raise MedsslError(f"{self.address}: the scheduler is gone; {GO_ON}") from None

    def _expect_workers(self) -> None:
        """Count the workers.

        Raises:
            MedsslError: there was none for a minute.
        """
        try:
            self.num = len(self._client.nthreads())
        except (OSError, TimeoutError):
            raise MedsslError(f"{self.address}: the scheduler is gone; {GO_ON}") from None
        if self.num:
            self._seen_s = time.monotonic()
        elif time.monotonic() - self._seen_s > WAIT_S:
            raise MedsslError(f"{self.address}: all workers are gone since {WAIT_S:.0f} s; {GO_ON}")

    def _expect_alike(self) -> None:
        """Check that every worker sees the pool's disk, runs the same code, and one task at a time."""
        token = self.pool.with_name(f".{self.pool.name}.{secrets.token_hex(4)}")
        token.touch()
        try:
            found: dict[str, tuple[str, bool]] = self._client.run(_look, str(token))
        except Exception as error:  # whatever a worker raises that cannot even load the function
            raise MedsslError(
                f"{self.address}: a worker cannot run medssl ({type(error).__name__}); install this version there"
            ) from None
        finally:
            token.unlink()
        threads = self._client.nthreads()
        self.num = len(threads)
        for worker, (version, sees) in sorted(found.items()):
            if version != code_version():
                raise MedsslError(f"{worker}: another medssl or other libraries than here; install the same everywhere")
            if not sees:
                raise MedsslError(f"{worker}: does not see {self.pool.parent}; pool and sources belong on shared disks")
            if threads.get(worker, 1) != 1:
                raise MedsslError(f"{worker}: {threads[worker]} threads; start workers with --nthreads 1")


GO_ON = "what is done is kept, run the same command again to go on"


def _look(token: str) -> tuple[str, bool]:
    return code_version(), Path(token).exists()


def _run(version: str, function: Callable[[T], R], task: T) -> R:
    """Run a task unless this worker, which may have come later than the others, is of another version."""
    if version != code_version():
        raise MedsslError("a worker runs another medssl or other libraries; install the same everywhere")
    return function(task)
