"""Arrays as blosc2 frames: lossless, one array one sequence of bytes, plain voxels where nothing compresses them."""

from __future__ import annotations

import os
from math import prod
from typing import Any, Literal

import blosc2
import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import PoolError

Codec = Literal["zstd", "lz4", "none"]

# Blocks are what a crop decodes, chunks what a frame indexes. A 64-cube touches about twice its voxels in 8 x 32 x 32
# blocks, as in 16 x 32 x 32 ones, but one slice of a volume costs half: so for prepared volumes, which crops are cut
# from. Pools are read whole or by the slice: 8 x 64 x 64 are encoded 1.3 (CT) and 1.4 (MR) times as fast and decoded
# 1.1 to 1.2 times, for 3 % more bytes. Shapes are fitted to the array: padding is stored when nothing compresses it.
BLOCK_2D, BLOCK_3D, CROPPED_3D = (128, 128), (8, 64, 64), (8, 32, 32)
MIN_CHUNK, MAX_CHUNK = 4, 8  # blocks an axis
MAX_COLOURS = 4
MAX_PLAIN_BYTES = 2**29 - 2**16  # below the largest block of blosc2
MAGIC, HEADER_LENGTH, CHUNK_HEADER = b"\x9e\xa8b2frame\x00", slice(11, 15), 32
HEAD_BYTES = 512  # more than the header of a frame and of its first chunk
STORED_AS_IS = 0x2  # the flag of a chunk whose voxels were copied
# blosc2 lets these overrule what a program asks for; the same voxels would then have other bytes and checksums.
for _name in ("NTHREADS", "CLEVEL", "COMPRESSOR", "SHUFFLE", "DELTA", "TYPESIZE", "BLOCKSIZE", "SPLITMODE"):
    os.environ.pop(f"BLOSC_{_name}", None)
# Bit shuffling helps LZ4 (1.67 instead of 1.53 : 1 on a CT-like volume). Of two bytes a voxel ZSTD makes 3 % more (MR)
# to 2 % less (CT) of it; of one byte, where no bytes can be reordered, 10 % less (radiographs) to 17 % (colour). ZSTD's
# level 3 takes three times as long as level 1 for 0.3 % less on an MR, 2 to 4 % on head CTs.
CODECS: dict[Codec, tuple[Any, int, Any]] = {
    "zstd": (blosc2.Codec.ZSTD, 1, blosc2.Filter.SHUFFLE),
    "lz4": (blosc2.Codec.LZ4, 5, blosc2.Filter.BITSHUFFLE),
    "none": (blosc2.Codec.LZ4, 0, blosc2.Filter.NOFILTER),
}


def encode(array: NDArray[Any], codec: Codec) -> bytes:
    """Return ``array`` as a contiguous blosc2 frame, without loss.

    With codec ``none`` one block holds the whole array, so that its voxels lie in the frame in C order.

    Raises:
        PoolError: not numeric, or without voxels.
    """
    if array.dtype.kind not in "biufc" or array.dtype.char in "gG":  # long doubles differ between machines
        raise PoolError(f"cannot store voxels of type {array.dtype}, expected bool, integer, float or complex")
    if array.size == 0 or array.ndim == 0:
        raise PoolError(f"cannot store an array of shape {array.shape}, expected at least one voxel and one axis")
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    is_plain = codec == "none" and array.nbytes <= MAX_PLAIN_BYTES
    blocks, chunks = (
        (array.shape, array.shape) if is_plain else partition(array.shape, BLOCK_3D if codec == "zstd" else CROPPED_3D)
    )
    compressor, level, filter_ = CODECS[codec]
    if codec == "zstd" and array.itemsize == 1:
        filter_ = blosc2.Filter.BITSHUFFLE
    params = blosc2.CParams(
        codec=compressor,
        clevel=level,
        filters=[filter_],
        typesize=array.dtype.itemsize,
        nthreads=1,  # more than one encode the same array to other bytes each time
    )
    made = blosc2.asarray(array, chunks=chunks, blocks=blocks, cparams=params, contiguous=True)  # else it is copied
    frame: bytes = made.to_cframe()
    return frame


def plain_start(head: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int | None:
    """Return where in a frame the voxels lie one after another, given its first ``HEAD_BYTES``; None if compressed.

    By the frame and chunk formats of C-Blosc2 (README_CFRAME_FORMAT.rst, README_CHUNK_FORMAT.rst).
    """
    start = int.from_bytes(head[HEADER_LENGTH], "big")
    chunk = head[start : start + CHUNK_HEADER]
    if not head.startswith(MAGIC) or len(chunk) < CHUNK_HEADER or not chunk[2] & STORED_AS_IS:
        return None
    num_bytes, block = (int.from_bytes(chunk[at : at + 4], "little") for at in (4, 8))
    return start + CHUNK_HEADER if num_bytes == block == prod(shape) * dtype.itemsize else None


def partition(
    shape: tuple[int, ...], block_3d: tuple[int, int, int] = CROPPED_3D
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return block and chunk shapes: colours (last, or first of three) stay together, time is cut singly."""
    colours = (shape[-1],) if len(shape) > 2 and shape[-1] <= MAX_COLOURS else ()
    space = shape[: len(shape) - len(colours)]
    flat = len(space) < 3 or (len(space) == 3 and space[0] <= MAX_COLOURS)
    goal = (1,) * (len(space) - 3) + ((MAX_COLOURS, *BLOCK_2D)[-len(space) :] if flat else block_3d)
    num_blocks = [-(-size // block) for size, block in zip(space, goal, strict=True)]
    blocks = [-(-size // num) for size, num in zip(space, num_blocks, strict=True)]
    chunks = [block * _blocks_a_chunk(num) for block, num in zip(blocks, num_blocks, strict=True)]
    if len(space) > 3:
        chunks[:-3] = blocks[:-3]
    return (*blocks, *colours), (*chunks, *colours)


def _blocks_a_chunk(num_blocks: int) -> int:
    if num_blocks <= MAX_CHUNK:
        return num_blocks
    return min(range(MIN_CHUNK, MAX_CHUNK + 1), key=lambda size: -num_blocks % size)  # least padding
