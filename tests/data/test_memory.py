"""Recycled memory: never what somebody still holds, always what nobody does."""

import sys
from collections import deque

import numpy as np
import pytest
import torch

from medssl.data import memory
from medssl.data.memory import SMALL, empty


def test_memory_comes_back_only_when_no_view_of_it_is_left() -> None:
    first = empty((SMALL,), torch.float16)
    place, view = first.data_ptr(), first.view(2, -1)[1, 5:9]
    del first
    assert empty((SMALL,), torch.float16).untyped_storage().data_ptr() != place
    del view
    assert place in [empty((SMALL // 2,)).data_ptr() for _ in range(2)]


def test_tensors_held_at_once_never_share_memory() -> None:
    held: list[torch.Tensor] = []
    for value in range(40):
        made = empty((3, SMALL // 4)).fill_(value)
        held = [*held[-6:], made] if value % 3 else [made]
        assert all((tensor == tensor.flatten()[0]).all() for tensor in held)
        assert len({tensor.flatten()[0].item() for tensor in held}) == len(held)


def test_a_tensor_has_the_shape_and_type_asked_for() -> None:
    for shape in ((2, 3), (5, SMALL)):
        for dtype in (torch.float32, torch.float16, torch.uint8):
            made = empty(shape, dtype)
            assert (made.shape, made.dtype, made.is_contiguous()) == (shape, dtype, True)


def test_an_array_that_is_held_in_any_way_never_looks_free() -> None:
    held = deque(np.empty(SMALL, np.uint8) for _ in range(5))
    holders = [held[1], torch.from_numpy(held[2]), torch.from_numpy(held[3]).view(2, -1)[1], held[4][5:9]]
    for _ in range(200):  # longer than the interpreter takes to optimise
        found = [num == memory._UNUSED for _, num in memory._references(held)]
        assert found == [True, False, False, False, False]
    assert len(holders) == 4


@pytest.mark.parametrize("more", [-1, 2])
def test_an_interpreter_that_counts_otherwise_is_measured(monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    count = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda array: count(array) + more)
    unused = memory._calibrated()
    held = deque([np.empty(SMALL, np.uint8)])
    assert [num for _, num in memory._references(held)] == [unused]
    monkeypatch.setattr(sys, "getrefcount", lambda array: 1)
    assert memory._calibrated() == -1
