"""What methods say to the other processes of a run; with one process everything is the identity."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return this process's number in the run, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes take part in the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered(rows: Tensor) -> Tensor:
    """Return the rows of all ranks in rank order, with gradient; every rank gives equally many."""
    if world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(rows.contiguous())))  # type: ignore[no-untyped-call]


def summed(values: Tensor) -> Tensor:
    """Return the sum over ranks, with gradient where ``values`` has one."""
    if world_size() == 1:
        return values
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values.contiguous())  # type: ignore[no-any-return, no-untyped-call]
