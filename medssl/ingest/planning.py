"""Between the phases: rows become units, units become tasks of one shard each; only references travel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import polars as pl

from medssl.core.types import Outcome
from medssl.dicom.deidentify import Pseudonyms
from medssl.dicom.objects import Kind
from medssl.dicom.reasons import Reason
from medssl.ingest.index import Chunk, Entries, Row, described
from medssl.ingest.rules import Rules
from medssl.ingest.tasks import Item, Task, Transform, Unit
from medssl.ingest.work import Work, name_of
from medssl.pool.frames import Codec
from medssl.pool.key import Key

MIN_SHARD_BYTES, MAX_SHARD_BYTES = 8 << 20, 512 << 20  # of decoded voxels
NUM_TASKS = 64  # to aim at, so that workers finish together; never their number, on which nothing may depend
CODEC: Codec = "zstd"
UNIT = ["patient", "series", "kind"]
ROWS: dict[str, Any] = {
    "source_key": pl.String,
    "bytes": pl.Int64,
    "mark": pl.Int64,
    "reason": pl.Categorical,
    "patient": pl.String,
    "series": pl.String,
    "sop": pl.String,
    "kind": pl.Categorical,
    "voxel_bytes": pl.Int64,
    "chunk": pl.UInt32,
    "place": pl.UInt16,
}


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """A unit by reference: (which of the task's chunks, place in it) an item, in the order of their paths."""

    items: tuple[tuple[int, int], ...]
    known: frozenset[str]
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Planned:
    """A task by reference: what one worker builds, and the ``name`` under which the result is found again."""

    work: Work
    name: str
    shard: int
    codec: Codec
    key: Key
    chunks: tuple[str, ...]
    units: tuple[UnitPlan, ...]
    transform: Transform | None
    rules: Rules
    num_bytes: int  # of the files

    def load(self) -> Task:
        """Return the task with the headers of its files."""
        pseudonyms, wanted = Pseudonyms(self.key), sorted({item for unit in self.units for item in unit.items})
        found: dict[tuple[int, int], Item] = {}
        for i, chunk in enumerate(self.chunks):
            places = [place for which, place in wanted if which == i]
            for place, entry in zip(places, Entries(self.work, ()).of(chunk, places), strict=True):
                if entry.header is not None:
                    about = described(entry.header, pseudonyms)
                    found[i, place] = Item(entry.source_key, entry.file, entry.header, about)
        units = (Unit(tuple(found[item] for item in unit.items), unit.known, unit.flags) for unit in self.units)
        folder = self.work.shards(self.name)
        return Task(folder, self.shard, self.codec, self.key, tuple(units), self.transform, self.rules)


@dataclass(frozen=True)
class Plan:
    """Every shard to come; its tasks are made when they are asked for, so that they never exist all at once.

    Attributes:
        images: a row an image, unit after unit in the order of their pseudonyms, which tells nothing of paths or names.
        units: a row a unit: where its images begin, how many bytes of voxels they hold, its flags.
        shards: where the units of each shard begin, and where the last one ends.
    """

    images: pl.DataFrame
    units: pl.DataFrame
    shards: Sequence[int]
    chunks: Sequence[Chunk]
    known: Mapping[tuple[str, str], frozenset[str]]
    work: Work
    first_shard: int
    key: Key
    transform: Transform | None
    rules: Rules

    def tasks(self) -> Iterator[Planned]:
        """Make the task of each shard."""
        codec = CODEC if self.transform is None else self.transform.codec
        settings = self.transform.settings if self.transform is not None else None
        for shard, (start, stop) in enumerate(pairwise(self.shards), self.first_shard):
            chunks, units, num_bytes = self._units(start, stop)
            names = tuple(self.chunks[chunk].name for chunk in chunks)
            told = (names, [(u.items, sorted(u.known), sorted(u.flags)) for u in units])
            name = name_of(shard, codec, self.key.fingerprint, self.rules, settings, *told)
            yield Planned(self.work, name, shard, codec, self.key, names, units, self.transform, self.rules, num_bytes)

    def _units(self, start: int, stop: int) -> tuple[list[int], tuple[UnitPlan, ...], int]:
        """Return the chunks that the units from ``start`` to ``stop`` are in, they, and the bytes of the files."""
        rows = self.units[start:stop]
        begin = int(rows["begin"][0])
        images = self.images[begin : int(rows["begin"][-1] + rows["num"][-1])]
        chunks = images["chunk"].unique().sort().to_list()
        which = {chunk: i for i, chunk in enumerate(chunks)}
        places = [(which[chunk], place) for chunk, place in images.select("chunk", "place").iter_rows()]
        units = []
        for row in rows.iter_rows(named=True):
            first = row["begin"] - begin
            known = self.known.get((row["patient"], row["series"]), frozenset())
            units.append(UnitPlan(tuple(places[first : first + row["num"]]), known, frozenset(row["flags"])))
        return chunks, tuple(units), int(images["bytes"].sum())


def table(chunk: int, rows: Sequence[Row]) -> pl.DataFrame:
    """Return the rows of a chunk as a table."""
    named = pl.DataFrame(rows, schema={name: ROWS[name] for name in list(ROWS)[: len(Row._fields)]}, orient="row")
    return named.with_columns(chunk=pl.lit(chunk, pl.UInt32), place=pl.int_range(len(rows), dtype=pl.UInt16))


def plan(
    files: pl.DataFrame,
    chunks: Sequence[Chunk],
    known: Mapping[tuple[str, str], frozenset[str]],
    work: Work,
    first_shard: int,
    key: Key,
    transform: Transform | None = None,
    rules: Rules | None = None,
) -> Plan:
    """Gather the images of each series and fill shards with whole units; one larger than a shard gets one of its own.

    Args:
        files: the new files in the order of their paths (schema ``ROWS``).
        chunks: where their headers are.
        known: the volumes that the pool holds, by (patient, series).
        work: the work folder.
        first_shard: its number.
        key: of the pool.
        transform: see ``ingest``.
        rules: see ``ingest``.
    """
    images = files.filter(pl.col("kind").is_not_null()).with_columns(pl.col("kind").cast(pl.String))
    images = images.select(*UNIT, "sop", "bytes", "voxel_bytes", "chunk", "place").sort(UNIT, maintain_order=True)
    units = images.group_by(UNIT, maintain_order=True).agg(pl.len().alias("num"), pl.col("voxel_bytes").sum())
    objects = images.select("sop", unit=pl.struct(UNIT).rle_id())
    images = images.select("chunk", "place", "bytes")
    units = units.with_columns(begin=pl.col("num").cum_sum() - pl.col("num"), flags=_flags(units, objects, files))
    shards = _shards(units["voxel_bytes"].to_list())
    return Plan(images, units, shards, chunks, known, work, first_shard, key, transform, rules or Rules())


def _flags(units: pl.DataFrame, objects: pl.DataFrame, files: pl.DataFrame) -> pl.Series:
    """Return the flags of each unit: files of its series are damaged, or other units hold objects of its UIDs."""
    quarantined = [str(reason) for reason in Reason if reason.outcome is Outcome.QUARANTINED]
    damaged = files.filter(pl.col("reason").cast(pl.String).is_in(quarantined))["series"].drop_nulls().unique()
    held = objects.drop_nulls().unique()
    reused = held.filter(pl.col("sop").is_duplicated())["unit"].unique()
    is_cut = (pl.col("kind") == Kind.SLICE) & pl.col("series").is_in(damaged.implode())
    is_reused = pl.int_range(pl.len(), dtype=pl.UInt32).is_in(reused.implode())
    flags = (
        pl.when(is_cut).then(pl.lit("incomplete_series")),
        pl.when(is_reused).then(pl.lit("reused_sop_uid")),
    )
    return units.select(pl.concat_list(flags).list.drop_nulls()).to_series()


def _shards(sizes: Sequence[int]) -> list[int]:
    limit = min(max(sum(sizes) // NUM_TASKS, MIN_SHARD_BYTES), MAX_SHARD_BYTES)
    starts: list[int] = []
    free = 0
    for unit, num_bytes in enumerate(sizes):
        if num_bytes > free or not starts:
            starts.append(unit)
            free = limit
        free -= num_bytes
    return [*starts, len(sizes)] if starts else []
