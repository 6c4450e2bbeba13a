"""Frames: blocks that fit, bytes that compress, and voxels in a row where nothing compresses them."""

from __future__ import annotations

from typing import Any

import blosc2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stored_arrays import arrays_and_boxes, ct

from medssl.pool.frames import HEAD_BYTES, encode, partition, plain_start


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4))
def test_blocks_and_chunks_waste_little(shape: list[int]) -> None:
    blocks, chunks = partition(tuple(shape))
    for size, block, chunk in zip(shape, blocks, chunks, strict=True):
        assert chunk % block == 0
        assert block <= size
        assert -(-size // chunk) * chunk - size < max(block, 0.35 * size + 1)


def test_blocks_fit_volumes_images_time_and_colour() -> None:
    blocks, chunks = partition((160, 512, 512))
    assert (blocks, chunks) == ((8, 32, 32), (32, 128, 128))
    assert partition((224, 224)) == ((112, 112), (224, 224))
    assert partition((3, 224, 224)) == ((3, 112, 112), (3, 224, 224))
    assert partition((30, 20, 64, 64)) == ((1, 7, 32, 32), (1, 21, 64, 64))  # time is cut singly
    assert partition((480, 640, 3)) == ((120, 128, 3), (480, 640, 3))  # colours stay together


def test_a_smooth_image_of_one_byte_a_voxel_takes_an_eighth_less_than_shuffled_bytes_would() -> None:
    y, x = np.mgrid[:200, :200]
    noise = np.random.default_rng(0).normal(0, 2, y.shape)
    image = (120 + 60 * np.sin(y / 40) * np.cos(x / 30) + noise).astype(np.uint8)
    blocks, chunks = partition(image.shape)
    zstd = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
    bytewise = blosc2.asarray(image, chunks=chunks, blocks=blocks, cparams=zstd, contiguous=True).to_cframe()
    assert len(encode(image, "zstd")) < 7 / 8 * len(bytewise)


@given(arrays_and_boxes())
def test_an_uncompressed_frame_holds_its_voxels_in_a_row(drawn: tuple[NDArray[Any], tuple[slice, ...]]) -> None:
    array = drawn[0].astype(drawn[0].dtype.newbyteorder("<"))
    frame = encode(array, "none")
    start = plain_start(frame[:HEAD_BYTES], array.dtype, array.shape)
    assert start is not None
    assert frame[start : start + array.nbytes] == array.tobytes()
    assert blosc2.ndarray_from_cframe(frame)[()].tobytes() == array.tobytes()
    if array.size > 1:
        assert plain_start(frame[:HEAD_BYTES], array.dtype, array.shape[1:] or (1,)) in (None, start)
    assert plain_start(b"no frame at all", array.dtype, array.shape) is None


def test_a_compressed_frame_is_not_taken_for_plain_voxels() -> None:
    array = ct(0, (3, 40, 50))
    for codec in ("zstd", "lz4"):
        assert plain_start(encode(array, codec)[:HEAD_BYTES], array.dtype, array.shape) is None
