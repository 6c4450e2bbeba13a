"""Arrays to be stored: of every type and many shapes, with boxes of them, and one like a CT."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

DTYPES = ["?", "i1", "u1", "<i2", ">i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", ">f4", "<f8", "<c8", "<c16"]


def ct(seed: int = 0, shape: tuple[int, ...] = (20, 70, 65)) -> NDArray[np.int16]:
    return np.random.default_rng(seed).normal(0, 30, shape).astype(np.int16)


@st.composite
def arrays_and_boxes(draw: st.DrawFn) -> tuple[NDArray[Any], tuple[slice, ...]]:
    shape = draw(
        hnp.array_shapes(min_dims=1, max_dims=5, max_side=9) | hnp.array_shapes(min_dims=2, max_dims=3, max_side=80)
    )
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    seed = draw(st.integers(0, 2**32 - 1))
    bits = np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.itemsize)
    if dtype == np.bool_:
        array: NDArray[Any] = (np.frombuffer(bits, np.uint8) > 127).reshape(shape)
    else:
        array = np.frombuffer(bits, dtype).reshape(shape)
    ends = [sorted(draw(st.tuples(st.integers(0, size - 1), st.integers(1, size)))) for size in shape]
    return array, tuple(slice(low, max(high, low + 1)) for low, high in ends[: draw(st.integers(1, len(shape)))])
