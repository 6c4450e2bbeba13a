"""Deterministic preparation, once: intensities to [0, 1] by modality, one place and shape, stored beside the pool.

The same function serves pretraining, fine-tuning and prediction, so that preprocessing cannot differ between them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from medssl.core.config import fingerprint
from medssl.core.errors import PoolError
from medssl.core.files import read_json, write_json
from medssl.core.progress import stderr
from medssl.data.intensity import normalise, picture
from medssl.data.prepare_config import PrepareConfig
from medssl.data.prepare_tasks import Preparer, Stored, check, find_points, planned, prepare_shard, run
from medssl.data.prepared import Prepared
from medssl.ingest.executors import Workers
from medssl.pool.catalog import Catalog
from medssl.pool.pool import Pool
from medssl.pool.remote import is_bounded
from medssl.pool.shards import shard_path
from medssl.pool.store import Store
from medssl.pool.tables import save

__all__ = ["PrepareConfig", "Preparer", "normalise", "picture", "prepare", "prepared_folder"]

FEW, LITTLE = 1000, 2**24  # volumes and stored bytes that take less time than it takes to start processes
VERSION = 3  # of the transforms: another one prepares anew


def prepare(pool: Pool, config: PrepareConfig, *, workers: int = 1) -> Prepared:
    """Return the prepared form of ``pool``, made now or found from before.

    Volumes whose axes are not those of ``config.shape`` are left out, and counted on stderr when the rest is made.
    Every time point of a volume is a sample of its own (``catalog.moment``). Killed at any point, the next call goes on
    with the shards that are whole. With ``workers`` > 1 the calling script must be importable
    (``if __name__ == "__main__"``); a small pool is prepared here nevertheless.

    Raises:
        PoolError: no volume fits ``config.shape``, or ``ingest --prepare`` made the pool for another configuration.
        CorruptShard: a stored volume differs from its checksum; nothing is prepared.
    """
    volumes = pool.catalog.volumes
    is_small = volumes.height < FEW and volumes["length"].sum() < LITTLE
    with Workers(1 if is_small else workers) as processes:
        if pool.manifest.settings.prepare is not None:
            return _as_ingested(pool, config, processes)
        folder = prepared_folder(pool, config)
        if not is_bounded(pool.path):  # whose shards are checked as they come
            _check_sources(pool, processes)
        store = Store.build(folder, lambda shards: _write(pool, config, shards, processes))
    is_cropped = config.fit == "crop"
    points = folder / "foreground.parquet" if is_cropped else None
    return Prepared(folder / "shards", Catalog(store.volumes, pool.catalog.labels), config.geometry, is_cropped, points)


def prepared_folder(pool: Pool, config: PrepareConfig) -> Path:
    """Return where the prepared form of ``pool`` is, or will be."""
    if pool.manifest.settings.prepare is not None:
        return pool.path
    return pool.path / "prepared" / fingerprint(config.data(), pool.fingerprints.images, VERSION)


def _as_ingested(pool: Pool, config: PrepareConfig, processes: Workers) -> Prepared:
    """Return a pool that holds nothing but prepared volumes as it is."""
    made, asked = pool.manifest.settings.prepare or {}, config.data()
    if changed := [
        f"{name} {made.get(name)!r}, not {asked[name]!r}" for name in asked if asked[name] != made.get(name)
    ]:
        raise PoolError(
            f"{pool.path}: holds only volumes that ingest prepared with {'; '.join(changed)}; "
            "set prepare as it was, or ingest the sources into another pool"
        )
    is_cropped, points = config.fit == "crop", None
    if is_cropped:
        points = pool.path / "prepared" / f"foreground-{pool.fingerprints.images}.parquet"
        if not points.exists():
            parts = [Stored(pool.shards, volumes) for volumes in by_shard(pool.catalog.volumes)]
            save(points, pl.concat(run(find_points, parts, processes, "foreground")))
    return Prepared(pool.shards, pool.catalog, config.geometry, is_cropped, points)


def _write(pool: Pool, config: PrepareConfig, shards: Path, processes: Workers) -> pl.DataFrame:
    """Write what is not there yet, the table of foreground points too, and return the catalog rows."""
    preparer, given = Preparer(config), pool.catalog.volumes
    fitting = given.filter(given["axes"].map_elements(preparer.takes, pl.Boolean))
    if not fitting.height:
        raise PoolError(
            f"{pool.path}: none of its {len(pool.catalog)} volumes is {len(config.shape)}D, as prepare.shape asks"
        )
    if num := given.height - fitting.height:
        others = ", ".join(sorted(set(given["axes"]) - set(fitting["axes"])))
        stderr.print(f"prepare: {num} of {given.height} volumes left out, whose axes are {others}", highlight=False)
    tasks = planned(pool.shards, shards, preparer, fitting.sort("shard", "offset"))  # a source is read once, in order
    rows = pl.concat(run(prepare_shard, tasks, processes, "prepare"))
    if config.fit == "crop":
        save(shards.parent / "foreground.parquet", rows.select("volume", "points"))
    shutil.rmtree(shards.parent / "parts")
    return rows.drop("points")


def _check_sources(pool: Pool, processes: Workers) -> None:
    """Check the members of every shard that is new or was touched since the last look, so that damage stops training.

    Raises:
        CorruptShard: stored bytes differ from their checksum, or a shard is missing.
    """
    record = pool.path / "prepared" / "sources.json"
    now = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(pool.shards.glob("*.tar"))}
    before = read_json(record) if record.is_file() else {}
    if now == before:
        return
    checks = []
    for volumes in by_shard(pool.catalog.volumes):
        name = shard_path(pool.shards, volumes["shard"][0]).name
        if name not in now or before.get(name) != now[name]:
            checks.append(Stored(pool.shards, volumes))
    list(run(check, checks, processes, "checksums"))
    write_json(record, now)


def by_shard(volumes: pl.DataFrame) -> list[pl.DataFrame]:
    """Cut a table into those of its shards, in the order of reading."""
    return volumes.sort("shard", "offset").partition_by("shard", maintain_order=True)
