"""What preparation hands to its workers: the plan, one task a shard, and what a single volume goes through.

The plan depends on the catalog and the configuration alone, so any number of workers writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol, TypeVar

import polars as pl
import torch
from numpy.typing import NDArray

from medssl.core.errors import PoolError
from medssl.core.progress import bar
from medssl.data.intensity import normalise
from medssl.data.prepare_config import PrepareConfig
from medssl.data.transforms import place, tissue_points
from medssl.ingest.executors import Died, Workers
from medssl.pool.catalog import VOLUMES, moment
from medssl.pool.frames import Codec
from medssl.pool.reader import Box, VolumeReader
from medssl.pool.shards import ShardWriter
from medssl.pool.tables import save

MIN_SHARD_BYTES, MAX_SHARD_BYTES = 8 << 20, 512 << 20
NUM_TASKS = 64  # to aim at, so that workers finish together; never their number, on which nothing may depend
POINTS = pl.List(pl.Int32)


class _Task(Protocol):
    @property
    def volumes(self) -> pl.DataFrame: ...


T = TypeVar("T", bound=_Task)
R = TypeVar("R")


@dataclass(frozen=True)
class Preparer:
    """What one volume goes through; ``ingest --prepare`` takes it along. Picklable."""

    config: PrepareConfig

    @property
    def settings(self) -> dict[str, Any]:
        """What a pool that holds nothing but prepared volumes records of it."""
        return self.config.data()

    @property
    def codec(self) -> Codec:
        """How its arrays are stored."""
        return self.config.codec

    def takes(self, axes: str) -> bool:
        """Return whether a volume of these axes has as many spatial ones as ``shape``."""
        return axes.strip("CT") == "ZYX"[-len(self.config.shape) :]

    def __call__(self, voxels: NDArray[Any], row: Mapping[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the prepared array ``C *S`` and the catalog columns that describe it."""
        with _one_thread():
            placed = place(normalise(voxels, row, self.config), row, self.config)
        columns = {
            "axes": "C" + "ZYX"[-len(self.config.shape) :],
            "shape": list(placed.array.shape),
            "dtype": str(placed.array.dtype),
            "spacing_mm": placed.spacing_mm,
            "affine": placed.affine,
            "units": "prepared",
            "slope": 1.0,
            "intercept": 0.0,
            "window_center": None,
            "window_width": None,
            "padding": None,
            "flags": sorted({*row["flags"], *placed.flags}),
        }
        return placed.array, columns


@dataclass(frozen=True)
class ShardTask:
    """The volumes of one prepared shard, in the shards of ``source``; it becomes number ``shard`` in ``folder``."""

    source: Path
    folder: Path
    shard: int
    preparer: Preparer
    volumes: pl.DataFrame


@dataclass(frozen=True)
class Stored:
    """Volumes of one shard that is there."""

    folder: Path
    volumes: pl.DataFrame


def planned(source: Path, folder: Path, preparer: Preparer, volumes: pl.DataFrame) -> list[ShardTask]:
    """Cut the volumes, in order, into shards of a size that depends on them alone."""
    sizes = [num_bytes(row, preparer.config) for row in volumes.iter_rows(named=True)]
    limit = min(max(sum(sizes) // NUM_TASKS, MIN_SHARD_BYTES), MAX_SHARD_BYTES)
    starts, filled = [0], 0
    for index, size in enumerate(sizes):
        if filled and filled + size > limit:
            starts.append(index)
            filled = 0
        filled += size
    parts = [volumes[a:b] for a, b in zip(starts, [*starts[1:], len(sizes)], strict=True)]
    return [ShardTask(source, folder, shard, preparer, part) for shard, part in enumerate(parts)]


def num_bytes(row: Mapping[str, Any], config: PrepareConfig) -> int:
    """Return about how many bytes a volume will take."""
    num, times = prod(config.shape), row["axes"].startswith("T")
    if config.fit == "crop":
        extent = prod(row["shape"][times : times + len(config.shape)])
        if config.spacing_mm is not None and row["spacing_mm"] is not None:
            extent = round(extent * prod(row["spacing_mm"]) / prod(config.spacing_mm))
        num = max(num, extent)
    return 2 * config.channels * num * (row["shape"][0] if times else 1)


def moments(row: Mapping[str, Any]) -> Iterator[tuple[Box | None, dict[str, Any]]]:
    """Yield what to read of a volume and a row for it: all of it, or one time point after the other."""
    if not row["axes"].startswith("T"):
        yield None, dict(row)
        return
    for index in range(row["shape"][0]):
        name = moment(row["volume"], index)
        yield (
            (slice(index, index + 1),),
            {**row, "volume": name, "axes": row["axes"][1:], "shape": row["shape"][1:]},
        )


def prepare_shard(task: ShardTask) -> pl.DataFrame:
    """Write a shard and its rows, or find both from before; rows come last, so their being there says it is whole."""
    table = task.folder.parent / "parts" / f"{task.shard:05d}.parquet"
    if table.exists():
        return pl.read_parquet(table)
    reader, rows = VolumeReader(task.source, task.volumes), []
    with ShardWriter(task.folder, task.shard, task.preparer.codec) as writer:
        samples = ((i, *m) for i, row in enumerate(task.volumes.iter_rows(named=True)) for m in moments(row))
        for index, box, row in samples:
            voxels = reader.read(index, box)
            voxels = voxels if box is None else voxels[0]
            try:
                array, columns = task.preparer(voxels, row)
            except Exception as error:
                error.add_note(f"while volume {row['volume']} was prepared")
                raise
            points = tissue_points(array, row["volume"]).ravel().tolist()
            rows.append({**row, **columns, **asdict(writer.add(row["volume"], array)), "points": points})
    found = pl.DataFrame(rows, schema={**VOLUMES, "points": POINTS})
    save(table, found)
    return found


def find_points(task: Stored) -> pl.DataFrame:
    """Return ``volume, points`` of prepared volumes."""
    reader, names = VolumeReader(task.folder, task.volumes), task.volumes["volume"].to_list()
    points = [tissue_points(reader.read(row), name).ravel().tolist() for row, name in enumerate(names)]
    return pl.DataFrame({"volume": names, "points": points}, schema={"volume": pl.String, "points": POINTS})


def check(task: Stored) -> None:
    """Compare stored bytes with their checksums.

    Raises:
        CorruptShard: they differ, or the shard is missing.
    """
    reader = VolumeReader(task.folder, task.volumes)
    for row in range(len(reader)):
        reader.check(row)


def run(function: Callable[[T], R], tasks: Sequence[T], processes: Workers, doing: str) -> Iterator[R]:
    """Yield the result of every task, in order, behind a progress bar that counts volumes."""
    with bar(doing, sum(task.volumes.height for task in tasks)) as shown:
        for task, found in zip(tasks, processes.run(function, tasks), strict=True):
            if isinstance(found, Died):
                raise PoolError(f"{doing}: a worker was killed, maybe for its memory; use fewer workers and run again")
            shown.advance(task.volumes.height)
            yield found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: workers are processes, and sums must not depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
