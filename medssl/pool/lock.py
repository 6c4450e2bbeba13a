"""One writer at a time: an advisory lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medssl.core.errors import PoolError


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs.

    Raises:
        PoolError: another process holds it; says that it is ``doing``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise PoolError(
            f"{path.parent}: cannot write there ({error.strerror}); expected a folder of your own"
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PoolError(f"{path.parent}: another process is {doing}; wait for it or stop it") from None
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing alone would leave it with children forked meanwhile
