"""Small pools for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medssl.pool.catalog import INSTANCES, LABELS, VOLUMES
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.pool.reader import VolumeReader
from medssl.pool.shards import ShardWriter

KEY = Key(b"k" * 32)
Tables = tuple[pl.DataFrame, pl.DataFrame]


def voxels(number: int) -> NDArray[Any]:
    """Return the image of volume ``number``: three shapes in turn."""
    shape = [(24, 30), (5, 20, 22), (9, 12, 3)][number % 3]
    return np.random.default_rng(number).integers(0, 4000, shape).astype(np.uint16)


def ingest(pool: Pool, shards: list[list[int]]) -> Tables:
    """Write the shards that hold these volume numbers, two volumes a patient, and return their rows."""
    volumes: list[dict[str, Any]] = []
    first = pool.next_shard()
    for shard, numbers in enumerate(shards, first):
        with ShardWriter(pool.shards, shard, "zstd") as writer:
            for number in numbers:
                patient = KEY.hmac("patient", str(number // 2))
                name = KEY.hmac("volume", str(number))
                member = writer.add(name, voxels(number))
                volumes.append(
                    {
                        "volume": name,
                        "patient": patient,
                        "study": KEY.hmac("study", str(number // 2)),
                        "series": KEY.hmac("series", str(number)),
                        "role": pool.role_of(patient, KEY),
                        "modality": "CT" if number % 3 == 1 else "DX",
                        "scanner": f"Maker {number % 2}",
                        "shape": voxels(number).shape,
                        "dtype": "uint16",
                        "flags": [],
                        **vars(member),
                    }
                )
    rows = pl.DataFrame(volumes, schema=VOLUMES)
    stored = [
        {"source_key": f"{v['volume']}", "bytes": 10, "outcome": "stored", "volume": v["volume"]} for v in volumes
    ]
    return rows, pl.DataFrame(stored, schema=INSTANCES)


def add(pool: Pool, shards: list[list[int]]) -> None:
    """Write and append these volumes."""
    with pool.writing():
        pool.append(*ingest(pool, shards))


def filled(path: Path, shards: list[list[int]]) -> Pool:
    """Return a new pool with these volumes."""
    pool = Pool.create(path, KEY)
    add(pool, shards)
    return pool


def label(row: str, value: str, task: str = "finding", **more: str | None) -> dict[str, Any]:
    """Return one label of a volume."""
    given = {"id": row, "level": "volume", "task": task, "value": value, "time": "2024-01-01T00:00:00Z"}
    return {**given, **more}


def labels(*rows: dict[str, Any]) -> pl.DataFrame:
    """Return a table of labels."""
    return pl.DataFrame(rows, schema=LABELS)


def holds(pool: Pool, numbers: range) -> bool:
    """Say whether the pool reads back exactly these volumes."""
    by_name = {KEY.hmac("volume", str(n)): voxels(n) for n in numbers}
    reader: VolumeReader = pool.reader()
    names = pool.catalog.volumes["volume"].to_list()
    return names == sorted(by_name) and all(
        np.array_equal(reader.read(row), by_name[name]) for row, name in enumerate(names)
    )
