"""Segmentations of a pool: a table, and one compressed file each beside the catalog."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from medssl.core.errors import CorruptShard
from medssl.core.files import atomic
from medssl.pool.frames import encode

MASKS: dict[str, Any] = {
    "mask": pl.String,  # pseudonym; names its file
    "volume": pl.String,  # on whose grid it lies
    "patient": pl.String,
    "study": pl.String,
    "labels": pl.List(pl.String),  # of its segments, in order: words of anatomy, else "segment N"
    "num_voxels": pl.List(pl.Int64),  # of each segment
    "shape": pl.List(pl.Int64),  # S Z Y X
    "length": pl.Int64,
    "sha256": pl.String,  # of the file
}


def path_of(pool: Path, mask: str) -> Path:
    """Return where the voxels of a mask lie."""
    return pool / "masks" / f"{mask}.b2nd"


def write(path: Path, masks: NDArray[np.uint8]) -> dict[str, Any]:
    """Write segments ``S Z Y X`` (0 or 1), atomically; return the columns that describe them."""
    frame = encode(masks, "zstd")
    with atomic(path) as partial:
        partial.write_bytes(frame)
    return {
        "num_voxels": np.count_nonzero(masks, axis=(1, 2, 3)).tolist(),
        "shape": list(masks.shape),
        "length": len(frame),
        "sha256": hashlib.sha256(frame).hexdigest(),
    }


def read(pool: Path, mask: str, sha256: str) -> NDArray[np.uint8]:
    """Return the segments ``S Z Y X`` of a mask.

    Raises:
        CorruptShard: its file is missing or differs from its checksum.
    """
    path = path_of(pool, mask)
    try:
        frame = path.read_bytes()
    except OSError:
        raise CorruptShard(f"masks/{path.name}: missing; restore it") from None
    if hashlib.sha256(frame).hexdigest() != sha256:
        raise CorruptShard(f"masks/{path.name}: its bytes differ from their checksum; restore it")
    found: NDArray[np.uint8] = blosc2.ndarray_from_cframe(frame)[...]
    return found
