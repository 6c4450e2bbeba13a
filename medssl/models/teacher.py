"""A teacher: the exponential moving average of a student (Tarvainen 2017; BYOL, DINO, MoCo v3)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import cos, pi
from typing import Any, Self

import torch
from torch import Tensor, nn

from medssl.core.batch import Progress


class Teacher(nn.ModuleDict):
    """Slow copies of a student's modules, by name; no gradient ever reaches them.

    Parameters follow the student in `follow`. Buffers do not: a batch norm's statistics are those of the teacher's own
    batches, as its weights are its own. In training mode only batch norms train; drop-path and dropout stay off.
    """

    def __init__(self, students: Mapping[str, nn.Module]) -> None:
        super().__init__({name: copy.deepcopy(student).requires_grad_(False) for name, student in students.items()})

    def train(self, mode: bool = True) -> Self:
        """Let batch norms follow ``mode``; everything else stays in eval mode."""
        for module in self.modules():
            module.training = mode and isinstance(module, nn.modules.batchnorm._BatchNorm)
        return self

    @torch.no_grad()
    def follow(self, students: Mapping[str, nn.Module], momentum: float) -> None:
        """Move every parameter to ``momentum · teacher + (1 - momentum) · student``, once an optimiser step.

        Sharded parameters (FSDP2) move shard by shard, for which student and teacher must be sharded alike.
        """
        theirs = [_local(p) for name in self for p in students[name].parameters()]
        torch._foreach_lerp_([_local(p) for p in self.parameters()], theirs, 1 - momentum)


def cosine_momentum(start: float, after: Progress) -> float:
    """Return the momentum of the step just taken: from ``start`` towards 1 along half a cosine (Grill 2020, §3.3)."""
    return 1 - (1 - start) * (1 + cos(pi * (after.step - 1) / after.total_steps)) / 2


def _local(parameter: Any) -> Tensor:
    """Return this process's shard of a sharded parameter, or the parameter itself."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter  # type: ignore[no-any-return]
