"""Memory for batches on a CPU, handed out again once nobody holds it: fresh pages cost more than what is put there."""

from __future__ import annotations

import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALL = 2**20  # bytes that the C library recycles well by itself
_held: deque[NDArray[Any]] = deque(maxlen=8)
_lock = threading.Lock()

with warnings.catch_warnings():  # once a process; of what is lent nobody writes to anything
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


def _references(held: Iterable[NDArray[Any]]) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield each array and how many references there are to it, those of this look at it among them."""
    for array in held:
        yield array, sys.getrefcount(array)


def _calibrated() -> int:
    """Return the references to an array that only a queue holds, or -1 where a tensor of it does not add to them.

    How many a look takes is up to the interpreter, and may sink once it has optimised the code: the least one counts,
    above which every held array stays.
    """
    scratch = deque([np.empty(SMALL, np.uint8)])
    unused = min(num for _ in range(100) for _, num in _references(scratch))
    tensor = torch.from_numpy(scratch[0]).view(torch.float32)
    held = min(num for _ in range(100) for _, num in _references(scratch))
    del tensor
    return unused if held > unused else -1


_UNUSED = _calibrated()


def lent(array: NDArray[Any]) -> Tensor:
    """Return a tensor over an array that may only be read."""
    return torch.from_numpy(array)


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an uninitialised CPU tensor, in memory of an earlier one where no tensor or view of that is left.

    A tensor made from a numpy array keeps a reference to it for as long as its storage lives, so the count of those
    references tells.
    """
    num_bytes = prod(shape) * dtype.itemsize
    if num_bytes < SMALL:
        return torch.empty(shape, dtype=dtype)
    with _lock:
        for array, num_references in _references(_held):
            if array.nbytes == num_bytes and num_references == _UNUSED:
                return torch.from_numpy(array).view(dtype).view(shape)
        fresh = np.empty(num_bytes, np.uint8)
        _held.append(fresh)
        return torch.from_numpy(fresh).view(dtype).view(shape)
