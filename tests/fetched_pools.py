"""Pools that hold nothing but prepared images, in many shards, and their copies that fetch shards as they are read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import polars as pl
from fsspec.implementations.local import LocalFileSystem
from small_pool import KEY

from medssl.data.prepare import PrepareConfig, Preparer
from medssl.pool.catalog import INSTANCES, VOLUMES
from medssl.pool.pool import Pool
from medssl.pool.remote import pull
from medssl.pool.shards import ShardWriter


class Counted(LocalFileSystem):
    """A store on this disk that remembers which shards were asked for."""

    protocol = "counted"
    fetched: ClassVar[list[str]] = []

    def get_file(self, path: str, *args: Any, **more: Any) -> None:
        """Copy a file."""
        if path.endswith(".tar"):
            self.fetched.append(Path(path).name)
        super().get_file(path.removeprefix("counted://"), *args, **more)


fsspec.register_implementation("counted", Counted, clobber=True)


def prepared_pool(folder: Path, config: PrepareConfig, shards: int, each: int) -> Pool:
    """Return a pool as ``ingest --prepare`` makes it: ``each`` images a shard, a patient each, all of them dev."""
    pool = Pool.create(folder, KEY, prepare=Preparer(config).settings)
    volumes, instances = [], []
    for number in range(shards):
        with ShardWriter(pool.shards, number, "none") as shard:
            for image in range(number * each, (number + 1) * each):
                ids = {level: KEY.hmac(level, str(image)) for level in ("volume", "patient", "study", "series")}
                pixels = np.random.default_rng(image).random((1, *config.shape)).astype(np.float16)
                row = dict.fromkeys(VOLUMES) | ids | {"role": "dev", "modality": "DX", "axes": "CYX", "flags": []}
                row |= {"shape": [1, *config.shape], "dtype": "float16", "units": "prepared", "slope": 1.0}
                volumes.append(row | {"intercept": 0.0} | asdict(shard.add(ids["volume"], pixels)))
                instances.append({"source_key": str(image), "bytes": 1, "outcome": "stored", "volume": ids["volume"]})
    pool.append(pl.DataFrame(volumes, schema=VOLUMES), pl.DataFrame(instances, schema=INSTANCES))
    return pool


def copied(pool: Pool, folder: Path, shards: int) -> Pool:
    """Return a copy that keeps ``shards`` of them at most; what it fetches is in ``Counted.fetched``."""
    size = max(path.stat().st_size for path in pool.shards.glob("*.tar"))
    pull(f"counted://{pool.path}", folder, size * shards)
    Counted.fetched.clear()
    return Pool.open(folder)
