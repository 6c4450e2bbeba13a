"""Recycled memory: never what somebody still holds, always what nobody does."""

import torch

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
