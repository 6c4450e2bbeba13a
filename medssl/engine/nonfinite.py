"""A batch whose loss or gradient was not finite, kept by ids so that a person can draw it again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medssl.core.batch import Loaded, Progress, Views
from medssl.core.collectives import rank, world_size
from medssl.core.errors import TrainingError
from medssl.core.files import read_json, write_json

FOLDER = "nonfinite"

T = TypeVar("T")


class Steps(Protocol):
    """The part of a feed that draws a step again."""

    def steps(self, first: int, total: int) -> Iterable[list[Loaded]]:
        """Yield the micro-batches of steps ``first … total - 1``."""


def capture(
    folder: Path, progress: Progress, seed: int, micro: Sequence[Views], volumes: Sequence[str], model: nn.Module
) -> Path:
    """Write ``nonfinite/step-00000012.json`` below the run's ``folder``, while gradients stand; return its path.

    It holds step, epoch and seed; per micro-batch the volumes' pseudonyms and the views' keys, over all processes; the
    volumes with a voxel that is not finite, such parameters and such gradients. ``first`` is where it began: what goes
    wrong in a backward pass spoils every gradient behind it, and none nearer to the loss; so where some are sound, it
    is the bad one nearest to the loss, and where none is, the loss itself. Every process calls it, the first writes.
    """
    named = dict(model.named_parameters())
    gradients = {name: parameter.grad for name, parameter in named.items() if parameter.grad is not None}
    bad = [
        [name for batch in micro for name in _spoilt(batch, volumes)],
        [name for name, parameter in named.items() if not _finite(parameter)],
        [name for name, gradient in gradients.items() if not _finite(gradient)],
    ]
    ids, bads = zip(*_gathered(([_ids(batch, volumes) for batch in micro], bad)), strict=True)
    spoilt, parameters, grads = (set[str]().union(*parts) for parts in zip(*bads, strict=True))
    path = folder / FOLDER / f"step-{progress.step:08d}.json"
    if rank() == 0:
        about: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "seed": seed,
            "micro_batches": [_joined(parts) for parts in zip(*ids, strict=True)],
            "volumes": sorted(spoilt),
            "parameters": [name for name in named if name in parameters],
            "gradients": [name for name in named if name in grads],
            "first": "loss",
        }
        if spoilt:
            about["first"] = "voxels"
        elif parameters:
            about["first"] = f"parameter {about['parameters'][0]}"
        elif 0 < len(grads) < len(gradients):
            about["first"] = f"gradient of {about['gradients'][-1]}"
        write_json(path, about)
    return path


def replay(path: Path, feed: Steps, volumes: Sequence[str], device: torch.device) -> list[Views]:
    """Draw the captured step again from the run's own ``feed``, bit for bit (on one process: the whole step).

    Raises:
        TrainingError: the feed draws other volumes or views at this step: another pool, seed or setting.
    """
    about = read_json(path)
    micro = [loaded.views(device) for loaded in next(iter(feed.steps(about["step"], about["step"] + 1)))]
    for drawn, captured in zip(micro, about["micro_batches"], strict=True):
        if _by_volume(_ids(drawn, volumes)) != _by_volume(captured):
            raise TrainingError(
                f"{path.name}: the feed draws other views at step {about['step']}; open the study that the run had"
            )
    return micro


def _ids(batch: Views, volumes: Sequence[str]) -> dict[str, list[Any]]:
    return {"volumes": _names(batch.volume, volumes), "keys": batch.keys.tolist()}


def _names(rows: Tensor, volumes: Sequence[str]) -> list[Any]:
    return [volumes[row] if volumes else row for row in rows.tolist()]


def _spoilt(batch: Views, volumes: Sequence[str]) -> list[Any]:
    sound = torch.stack([image.flatten(1).isfinite().all(1) for image in batch.images]).all(0)
    return _names(batch.volume[~sound], volumes)


def _finite(values: Tensor) -> bool:
    local: Tensor = values.to_local() if hasattr(values, "to_local") else values  # this process's shard
    return bool(local.isfinite().all())


def _gathered(ours: T) -> list[T]:
    if world_size() == 1:
        return [ours]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, ours)
    return parts


def _joined(parts: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def _by_volume(ids: dict[str, list[Any]]) -> list[tuple[Any, Any]]:
    """Return ``(volume, keys)`` in an order that does not depend on the number of processes."""
    return sorted(zip(ids["volumes"], ids["keys"], strict=True))
