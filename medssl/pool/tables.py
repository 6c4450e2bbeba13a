"""Tables on disk: their schema is enforced, rows are only ever appended, and what they promise is checked."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medssl.core.errors import PoolError
from medssl.core.files import atomic
from medssl.core.types import Outcome, Role
from medssl.pool.catalog import LATER
from medssl.pool.shards import shard_path

REQUIRED = ("volume", "patient", "study", "series", "role", "shape", "dtype", "shard", "offset", "length", "sha256")

# The flag of a volume without an instance row: its object's row, of the same series, names the object's first volume.
SHARES_OBJECT = "shares_object"


@dataclass(frozen=True)
class Problem:
    """Something that a sound pool does not have: ``where`` is a file below the pool."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def conform(table: pl.DataFrame, schema: dict[str, Any], name: str) -> pl.DataFrame:
    """Return ``table`` with the columns of ``schema`` in order; a column without any value takes its type.

    Raises:
        PoolError: a column is missing, unknown or of another type.
    """
    missing, unknown = sorted(schema.keys() - set(table.columns)), sorted(set(table.columns) - schema.keys())
    if missing or unknown:
        raise PoolError(f"{name}: missing columns {missing}, unknown columns {unknown}, expected {list(schema)}")
    for column, kind in schema.items():
        if table.schema[column] not in (kind, pl.Null, pl.List(pl.Null)):
            raise PoolError(f"{name}: column {column!r} holds {table.schema[column]}, expected {kind}")
    return table.select(pl.col(column).cast(kind) for column, kind in schema.items())


def load(path: Path, schema: dict[str, Any], num_rows: int | None = None) -> pl.DataFrame:
    """Read the first ``num_rows`` rows (all without it): the rows after those were never committed.

    Raises:
        PoolError: unreadable, of another schema, or with fewer rows.
    """
    if num_rows == 0:
        return pl.DataFrame(schema=schema)
    try:
        table = pl.read_parquet(path, n_rows=num_rows)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise PoolError(f"{path}: cannot read this table ({type(error).__name__}); restore it") from None
    if num_rows is not None and table.height < num_rows:
        raise PoolError(f"{path}: {table.height} rows, expected {num_rows}; restore it")
    absent = [pl.lit(None, schema[name]).alias(name) for name in LATER & schema.keys() - set(table.columns)]
    return conform(table.with_columns(absent), schema, str(path))


def save(path: Path, table: pl.DataFrame) -> None:
    """Write a table, atomically.

    Raises:
        OSError: it cannot be written.
    """
    with atomic(path) as partial:
        try:
            table.write_parquet(partial)
        except pl.exceptions.PolarsError:  # what polars makes of a full disk, sometimes
            raise OSError(errno.EIO, "Input/output error, maybe no space left") from None


def unwritten(shards: Path, volumes: pl.DataFrame) -> Iterator[Problem]:
    """Find rows whose voxels are not in the folder ``shards``."""
    ends = volumes.group_by("shard").agg((pl.col("offset") + pl.col("length")).max().alias("end")).sort("shard")
    for shard, end in ends.iter_rows():
        path = shard_path(shards, shard)
        if not path.is_file() or path.stat().st_size < end:
            yield Problem(f"shards/{path.name}", "missing or too short; write the shard before its rows")


def problems(volumes: pl.DataFrame, instances: pl.DataFrame) -> Iterator[Problem]:
    """Find what breaks the promises that volumes and instances make to each other."""
    yield from _volume_problems(volumes)
    where = "catalog/instances.parquet"
    stored = instances.filter(pl.col("outcome") == Outcome.STORED)
    if num := instances.height - instances["source_key"].n_unique():
        yield Problem(where, f"{num} repeated source keys, expected one row an input file")
    if num := instances.filter(~pl.col("outcome").is_in([str(o) for o in Outcome]).fill_null(False)).height:
        yield Problem(where, f"{num} rows with an unknown outcome, expected one of {', '.join(Outcome)}")
    if num := stored.join(volumes, on="volume", how="anti").height:
        yield Problem(where, f"{num} stored instances point to no volume")
    unnamed = volumes.join(stored, on="volume", how="anti")
    series = volumes.join(stored, on="volume", how="semi").select("patient", "series").unique()
    shared = unnamed.filter(pl.col("flags").list.contains(SHARES_OBJECT).fill_null(False))
    if num := unnamed.height - shared.join(series, on=["patient", "series"], how="semi").height:
        yield Problem("catalog/volumes.parquet", f"{num} volumes have no stored instance")


def _volume_problems(volumes: pl.DataFrame) -> Iterator[Problem]:
    where = "catalog/volumes.parquet"
    if num := volumes.height - volumes["volume"].n_unique():
        yield Problem(where, f"{num} repeated volume ids, expected one row a volume")
    if num := volumes.filter(~pl.col("volume").str.contains(r"^[0-9a-f]{16,}$").fill_null(False)).height:
        yield Problem(where, f"{num} volume ids that are no keyed hash, expected 16 or more hex digits")
    if empty := [c for c in REQUIRED if volumes[c].null_count()]:
        yield Problem(where, f"rows without a value in {', '.join(empty)}")
    if num := volumes.filter(~pl.col("role").is_in([str(r) for r in Role]).fill_null(False)).height:
        yield Problem(where, f"{num} rows with an unknown role, expected one of {', '.join(Role)}")
    roles = volumes.group_by("patient").agg(pl.col("role").n_unique())
    if num := roles.filter(pl.col("role") > 1).height:
        yield Problem(where, f"{num} patients in two roles, expected one role a patient")
