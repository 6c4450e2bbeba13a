"""A teacher follows its student, keeps its own statistics, and moves shard by shard where parameters are sharded."""

from typing import Any

import numpy as np
import pytest
import torch
from ranks import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medssl.core.batch import Progress
from medssl.core.collectives import rank
from medssl.models.build import seeded
from medssl.models.teacher import Teacher, cosine_momentum


def network() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)), "net")


def test_parameters_move_by_the_momentum_and_nothing_else_does() -> None:
    student = network()
    teacher = Teacher({"net": student})
    start = [p.clone() for p in teacher.parameters()]
    for p in student.parameters():
        p.data += 1.0
    student(torch.randn(8, 4))  # moves the student's statistics
    teacher.follow({"net": student}, 0.9)
    for before, now, theirs in zip(start, teacher.parameters(), student.parameters(), strict=True):
        assert torch.allclose(now, 0.9 * before + 0.1 * theirs, atol=1e-6)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert torch.equal(teacher["net"][1].running_mean, torch.zeros(6))


def test_a_momentum_of_one_stands_still_and_of_zero_copies() -> None:
    student = network()
    teacher = Teacher({"net": student})
    start = [p.clone() for p in teacher.parameters()]
    for p in student.parameters():
        p.data += torch.randn_like(p)
    teacher.follow({"net": student}, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(start, teacher.parameters(), strict=True))
    teacher.follow({"net": student}, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), teacher.parameters(), strict=True))


def test_only_batch_norms_train_and_dropout_never_falls_on_a_teacher() -> None:
    teacher = Teacher({"net": network()}).train()
    images = torch.randn(8, 4) + 3
    assert torch.equal(teacher["net"](images), teacher["net"](images))
    assert teacher["net"][1].num_batches_tracked == 2
    teacher.eval()
    teacher["net"](images)
    assert teacher["net"][1].num_batches_tracked == 2


def test_momentum_rises_along_half_a_cosine_to_one() -> None:
    path = [cosine_momentum(0.996, Progress(step, 100)) for step in range(1, 101)]  # after each step
    assert path[0] == pytest.approx(0.996)
    assert path[50] == pytest.approx(0.998)
    assert 0.99999 < path[99] < 1.0  # the last step moves the teacher, too
    assert path == sorted(path)


def _followed(kind: str) -> list[Any]:
    """Train two steps on two ranks under DDP or FSDP2 and return the teacher's whole parameters."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    student = network()
    teacher = Teacher({"net": student})
    run: nn.Module = student
    if kind == "ddp":
        run = DistributedDataParallel(student)
    else:
        mesh = init_device_mesh("cpu", (2,))
        for module in (student[0], student, teacher["net"][0], teacher["net"]):
            fully_shard(module, mesh=mesh)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    for step in range(2):
        images = torch.randn(2, 4, generator=torch.Generator().manual_seed(10 * step + rank()))
        run.eval()(images).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        teacher.follow({"net": student}, 0.7)
    whole = [p.full_tensor() if kind == "fsdp" else p for p in teacher.parameters()]
    sizes = sum(p.to_local().numel() if kind == "fsdp" else p.numel() for p in teacher.parameters())
    return [sizes, [p.detach().numpy() for p in whole]]


def test_a_sharded_teacher_follows_as_a_replicated_one() -> None:
    replicated, sharded = on_ranks(2, _followed, "ddp"), on_ranks(2, _followed, "fsdp")
    assert sum(size for size, _ in sharded) == replicated[0][0]  # each rank holds its part only
    for one, other in zip(replicated[0][1], sharded[1][1], strict=True):
        assert np.allclose(one, other, atol=1e-6)
