"""Removing patients for good: what remains of the tables and shards, and what must go with them.

``Pool.remove`` calls these in an order in which a kill leaves the old pool or the new one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from medssl.core.errors import CorruptShard
from medssl.pool.catalog import VOLUMES, whole
from medssl.pool.shards import ShardWriter, checksum, shard_path
from medssl.pool.tables import save

ABANDONED_S = 3600
HIDDEN = ".removed-"  # stores on their way out


@dataclass(frozen=True)
class Removed:
    """What was erased: ``studies`` are pseudonyms, for the warnings about runs and worklists."""

    patients: int
    studies: tuple[str, ...]
    roles: tuple[str, ...]
    volumes: int
    files: int  # rows of input files
    labels: int
    shards: int  # rewritten or deleted
    stores: int  # of prepared volumes, to be made anew


@dataclass(frozen=True)
class Tables:
    """The rows of a pool."""

    volumes: pl.DataFrame
    instances: pl.DataFrame
    labels: pl.DataFrame
    masks: pl.DataFrame

    def save(self, folder: Path) -> None:
        """Write all of them into a new folder."""
        save(folder / "volumes.parquet", self.volumes)
        save(folder / "instances.parquet", self.instances)
        save(folder / "labels" / "00000.parquet", self.labels)
        save(folder / "masks.parquet", self.masks)


def removed(patients: Collection[str], before: Tables, after: Tables, num_stores: int) -> Removed:
    """Return what went between two states of the tables."""
    gone = before.volumes.join(after.volumes, on="volume", how="anti")
    return Removed(
        patients=len(set(patients)),
        studies=tuple(gone["study"].unique().sort()),
        roles=tuple(gone["role"].unique().sort()),
        volumes=gone.height,
        files=before.instances.height - after.instances.height,
        labels=before.labels.height - after.labels.height,
        shards=gone["shard"].n_unique(),
        stores=num_stores,
    )


def without(tables: Tables, patients: Collection[str]) -> Tables:
    """Return the rows that say nothing of ``patients``."""
    volumes, instances, labels = tables.volumes, tables.instances, tables.labels
    is_gone = pl.col("patient").is_in(list(patients))
    gone, kept = volumes.filter(is_gone), volumes.filter(~is_gone)
    files = instances.filter(~(is_gone.fill_null(False) | _within("volume", gone["volume"])))
    for level in ("volume", "series", "study", "patient"):
        names = pl.concat([gone[level], pl.Series(list(patients), dtype=pl.String)])
        names = names.filter(~names.is_in(kept[level].implode()))  # a study may be shared by mistake
        labels = labels.filter(~((pl.col("level") == level) & _within("id", names)))
    return Tables(kept, files, labels, tables.masks.filter(~is_gone))


def repacked(shards: Path, volumes: pl.DataFrame, patients: Collection[str], first: int) -> pl.DataFrame:
    """Copy the members to keep of every shard that holds one of ``patients`` into new shards, from number ``first``.

    Returns:
        the rows to keep, pointing to where the members lie now.

    Raises:
        CorruptShard: a member to keep differs from its checksum.
    """
    is_gone = pl.col("patient").is_in(list(patients))
    touched = volumes.filter(is_gone)["shard"].unique()
    is_touched = pl.col("shard").is_in(touched.implode())
    found = [volumes.filter(~is_touched)]
    kept = volumes.filter(is_touched & ~is_gone).sort("shard", "offset")
    for number, part in enumerate(kept.partition_by("shard", maintain_order=True), first):
        with ShardWriter(shards, number, "none") as writer:
            moved = [_copied(shards, row, writer) for row in part.iter_rows(named=True)]
        found.append(pl.DataFrame(moved, schema=VOLUMES))
    return pl.concat(found)


def sweep(pool: Path) -> None:
    """Remove what killed processes left half written; a living one touches its file more often than that."""
    for folder in ("", "catalog", "catalog/labels", "shards"):
        for partial in (pool / folder).glob(".*.partial"):
            if partial.stat().st_mtime < time.time() - ABANDONED_S:
                partial.unlink(missing_ok=True)


def erase_rest(pool: Path, volumes: pl.DataFrame) -> int:
    """Delete the shards, masks and stores that hold anything but ``volumes``; return how many finished stores."""
    used = {shard_path(pool / "shards", shard) for shard in volumes["shard"].unique()}
    for path in [*set((pool / "shards").glob("*.tar")) - used, *_unlisted_masks(pool)]:
        path.unlink(missing_ok=True)
    stores = _stale(pool, volumes)
    for path in stores:
        _erase(path)
    return sum(not path.name.startswith((".", "foreground-")) for path in stores)


def _unlisted_masks(pool: Path) -> list[Path]:
    """Return the files of masks that the table does not name."""
    table = pool / "catalog" / "masks.parquet"
    named = set(pl.read_parquet(table, columns=["mask"])["mask"]) if table.is_file() else set()
    return [path for path in (pool / "masks").glob("*") if path.stem not in named]


def _stale(pool: Path, volumes: pl.DataFrame) -> list[Path]:
    """Return what lies in ``prepared/`` of volumes that the pool does not hold, or may do: unfinished stores."""
    found = []
    for path in (pool / "prepared").glob("*"):
        table = path / "catalog" / "volumes.parquet"
        if path.name.startswith("foreground-") or path.name.startswith(HIDDEN) or path.name.endswith(".partial"):
            found.append(path)
        elif table.is_file():
            held = pl.read_parquet(table, columns=["volume"]).select(whole())["volume"]
            if not held.is_in(volumes["volume"].implode()).all():
                found.append(path)
    return found


def _erase(path: Path) -> None:
    """Delete a file, or a store, which stops being one at once."""
    if path.is_file():
        path.unlink(missing_ok=True)
        return
    hidden = path if path.name.startswith(HIDDEN) else path.with_name(HIDDEN + path.name)
    if hidden != path:
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
    shutil.rmtree(hidden)


def _within(column: str, names: pl.Series) -> pl.Expr:
    return pl.col(column).is_in(names.implode()).fill_null(False)


def _copied(shards: Path, row: dict[str, object], writer: ShardWriter) -> dict[str, object]:
    path = shard_path(shards, int(str(row["shard"])))
    offset, length = int(str(row["offset"])), int(str(row["length"]))
    if not path.is_file() or checksum(path, offset, length) != row["sha256"]:
        raise CorruptShard(
            f"shards/{path.name}: volume {row['volume']} differs from its checksum, so that nothing was removed; "
            "restore that file first"
        )
    with path.open("rb") as handle:
        handle.seek(offset)
        member = writer.add_frame(str(row["volume"]), handle.read(length))
    return {**row, **vars(member)}
