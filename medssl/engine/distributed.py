"""One process or many: the process group that `torchrun` asks for, and a model spread over it.

`torchrun` starts the same command once a device and names rank and world in the environment. Rank 0 alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medssl.core.batch import Progress, StepOutput, Views
from medssl.core.collectives import rank, world_size
from medssl.core.errors import MedsslError, TrainingError
from medssl.engine.optim import LoopConfig
from medssl.models.encoders.base import Encoder

HOST_TIMEOUT = timedelta(days=2)  # ranks wait this long for one that prepares a pool or scores its share

_hosts: list[Any] = []  # for what takes hours on a rank; gradients keep torch's own limit

T = TypeVar("T")


@contextmanager
def processes() -> Iterator[None]:
    """Join the other processes of this run while the block runs; alone, this is nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    lacking = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if lacking:
        raise TrainingError(f"WORLD_SIZE is set but not {', '.join(lacking)}; start with torchrun, or unset WORLD_SIZE")
    if torch.cuda.is_available():
        torch.cuda.set_device(device_for())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    _hosts.append(dist.new_group(backend="gloo", timeout=HOST_TIMEOUT))
    try:
        yield
    finally:
        _hosts.clear()
        dist.destroy_process_group()


def device_for(requested: str | None = None) -> torch.device:
    """Return the device asked for, else this process's CUDA device, else the CPU."""
    if requested or not torch.cuda.is_available():
        return torch.device(requested or "cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def first(work: Callable[[], T]) -> T:
    """Let rank 0 do the work, then the others, who find it done; where it fails, all fail alike."""
    result = alone(work)
    return work() if result is None else result


def alone(work: Callable[[], T]) -> T | None:
    """Let rank 0 do the work while the others wait, who return None; where it fails, all fail alike.

    Raises:
        MedsslError: of rank 0, on every rank.
        TrainingError: on the others, where rank 0 failed in another way.
    """
    result, error = None, None
    if rank() == 0:
        try:
            result = work()
        except Exception as raised:
            error = raised
    said = error if isinstance(error, MedsslError) else error and TrainingError("rank 0 failed; see its traceback")
    said = told(said)
    if error or said:
        raise error or said  # type: ignore[misc]
    return result


def told(value: T) -> T:
    """Return rank 0's value on every rank, however long it takes to come."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, group=_patient())
    return box[0]


def everyone(value: T) -> list[T]:
    """Return every rank's value in order of rank, however long one takes to come."""
    if world_size() == 1:
        return [value]
    boxes = [value] * world_size()
    dist.all_gather_object(boxes, value, group=_patient())
    return boxes


def _patient() -> Any:
    """Return the group that waits for `HOST_TIMEOUT`; the default one where `processes` did not start the others."""
    return _hosts[-1] if _hosts else None


def agreed(flag: bool) -> bool:
    """Return whether any rank says so."""
    if world_size() == 1:
        return flag
    said = torch.tensor(int(flag))
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said)


class Step(nn.Module):
    """The training step of a model as a module call, which is where DDP and FSDP hook in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, batch: Views, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of a micro-batch and its figures."""
        output: StepOutput = self.model.training_step(batch, progress)
        return output.loss, dict(output.metrics)


def spread(model: nn.Module, config: LoopConfig, device: torch.device) -> nn.Module:
    """Return ``model``'s step, replicated (DDP, Li 2020) or with its parameters sharded (FSDP2) over the processes."""
    step = Step(model)
    if world_size() == 1:
        return step
    if config.distribution == "ddp":
        devices = [device] if device.type == "cuda" else None
        # Buffers advance alike on every rank: batch norm and centres sum over ranks by themselves.
        return nn.parallel.DistributedDataParallel(
            step, devices, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
    if config.precision == "fp16":
        raise TrainingError("loop.precision fp16 cannot be sharded; use bf16 or loop.distribution=ddp")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world_size(),))
    for module in model.modules():
        for layer in module.layers() if isinstance(module, Encoder) else ():
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "training_step")  # where its hooks run
    return step


def synchronised(step: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Exchange gradients in this backward pass, or leave that to a later micro-batch."""
    if isinstance(step, nn.parallel.DistributedDataParallel):
        return nullcontext() if now else step.no_sync()
    model: Any = step.model
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(now)
    return nullcontext()


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Hold all parameters on every rank while the block runs, for those who look at or save the model."""
    shards: list[Any] = [m for m in model.modules() if hasattr(m, "unshard")]
    for shard in shards:
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.reshard()


def full(tree: Any) -> Any:
    """Return a state dict with every sharded tensor whole and on the CPU; a collective, so all ranks call it."""
    if isinstance(tree, Tensor):
        return (tree.full_tensor() if hasattr(tree, "full_tensor") else tree).detach().cpu()
    if isinstance(tree, dict):
        return {k: full(v) for k, v in tree.items()}
    return [full(v) for v in tree] if isinstance(tree, list) else tree


def sharded(value: Tensor, like: Any) -> Tensor:
    """Return a whole tensor distributed as ``like`` is."""
    if not hasattr(like, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
