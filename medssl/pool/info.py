"""What a pool holds, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from medssl.pool.catalog import Catalog
from medssl.pool.manifest import Fingerprints

WORDS = (
    "modality",
    "body_part",
    "sequence",
    "view",
    "laterality",
    "sex",
    "scanner",
    "site",
    "axes",
    "flags",
    "quality",
)
MOST_WORDS = 20  # of one kind, most frequent first; the others are counted together
BINS = 12
PSEUDONYM = 8  # digits that tell sites apart


@dataclass(frozen=True)
class Amount:
    """What one role holds of one modality."""

    role: str
    modality: str | None
    patients: int
    studies: int
    volumes: int


@dataclass(frozen=True)
class OutcomeCount:
    """How many input files ended alike; no ``reason`` where they were stored without remark."""

    outcome: str
    reason: str | None
    files: int


@dataclass(frozen=True)
class ScannerCount:
    """How many volumes come from one model of scanner."""

    scanner: str | None
    volumes: int


@dataclass(frozen=True)
class Share:
    """How much of a pool carries a word; ``word`` None where nothing is known."""

    word: str | None
    patients: int
    volumes: int


@dataclass(frozen=True)
class Words:
    """The words of one column, the most frequent ones; ``others`` counts the words that are left out."""

    shares: tuple[Share, ...]
    others: int


@dataclass(frozen=True)
class Histogram:
    """How values are spread: ``counts`` between neighbouring ``edges``; ``unknown`` have none."""

    name: str
    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    unknown: int


@dataclass(frozen=True)
class LabelCount:
    """How much of one role carries one value of a task."""

    task: str
    value: str
    role: str
    patients: int
    volumes: int


@dataclass(frozen=True)
class PoolInfo:
    """A pool in figures; every tuple is sorted."""

    patients: int
    studies: int
    volumes: int
    files: int
    removed_files: int  # that were erased with their patients
    input_bytes: int  # of all input files
    stored_bytes: int  # of all shards
    amounts: tuple[Amount, ...]
    outcomes: tuple[OutcomeCount, ...]
    scanners: tuple[ScannerCount, ...]
    labels: tuple[LabelCount, ...]
    words: Mapping[str, Words]  # by column of the catalog
    histograms: tuple[Histogram, ...]
    fingerprints: Fingerprints


def summarise(
    catalog: Catalog, instances: pl.DataFrame, stored_bytes: int, marks: Fingerprints, num_removed: int = 0
) -> PoolInfo:
    """Count the contents of a pool."""
    volumes = catalog.volumes
    people, studies, num = pl.col("patient").n_unique(), pl.col("study").n_unique(), pl.len()
    amounts = volumes.group_by("role", "modality").agg(people, studies, num).sort("role", "modality")
    outcomes = instances.group_by("outcome", "reason").agg(num).sort("outcome", "reason")
    scanners = volumes.group_by("scanner").agg(num).sort("scanner")
    labels = []
    for task in catalog.labels["task"].unique().sort():
        given = catalog.targets(task).join(volumes, on="volume").group_by("value", "role").agg(people, num)
        labels += [LabelCount(task, *row) for row in given.sort("value", "role").iter_rows()]
    return PoolInfo(
        patients=volumes["patient"].n_unique(),
        studies=volumes["study"].n_unique(),
        volumes=volumes.height,
        files=instances.height,
        removed_files=num_removed,
        input_bytes=int(instances["bytes"].sum()),
        stored_bytes=stored_bytes,
        amounts=tuple(Amount(*row) for row in amounts.iter_rows()),
        outcomes=tuple(OutcomeCount(*row) for row in outcomes.iter_rows()),
        scanners=tuple(ScannerCount(*row) for row in scanners.iter_rows()),
        labels=tuple(labels),
        words={column: _words(volumes, column) for column in WORDS},
        histograms=tuple(_histograms(volumes)),
        fingerprints=marks,
    )


def _words(volumes: pl.DataFrame, column: str) -> Words:
    table = volumes.select("patient", pl.col(column).str.head(PSEUDONYM) if column == "site" else column)
    if column in ("flags", "quality"):
        table = table.explode(column)
    counted = table.group_by(column).agg(pl.col("patient").n_unique(), pl.len().alias("num"))
    ordered = counted.sort("num", column, descending=[True, False], nulls_last=True)
    return Words(tuple(Share(*row) for row in ordered[:MOST_WORDS].iter_rows()), max(0, ordered.height - MOST_WORDS))


def _histograms(volumes: pl.DataFrame) -> list[Histogram]:
    """Return what volumes measure; a plane's sides and pixels come last in shape and spacing, before colours."""
    space = pl.col("axes").str.replace_all("[TC]", "").str.len_chars()
    colours = pl.col("axes").str.ends_with("C").cast(pl.Int64)
    is_stack = pl.col("axes").str.contains("Z")
    last = -1 - colours
    values = volumes.filter(pl.col("axes").is_not_null()).select(
        age=pl.col("age"),
        rows=pl.col("shape").list.get(last - 1, null_on_oob=True),
        columns=pl.col("shape").list.get(last, null_on_oob=True),
        slices=pl.when(is_stack).then(pl.col("shape").list.get(last - 2, null_on_oob=True)),
        pixel=pl.col("spacing_mm").list.get(space - 1, null_on_oob=True),
        slice=pl.when(is_stack).then(pl.col("spacing_mm").list.get(0, null_on_oob=True)),
        stacks=is_stack,
    )
    stacks = values.filter("stacks")
    return [
        _histogram("age", "years", values["age"], (0.0, 90.0)),
        _histogram("rows", "pixels", values["rows"]),
        _histogram("columns", "pixels", values["columns"]),
        _histogram("pixel spacing", "mm", values["pixel"]),
        *([_histogram("slices", "", stacks["slices"])] if stacks.height else []),
        *([_histogram("slice spacing", "mm", stacks["slice"])] if stacks.height else []),
    ]


def _histogram(name: str, unit: str, values: pl.Series, span: tuple[float, float] | None = None) -> Histogram:
    known = values.drop_nulls().to_numpy().astype(float)
    if not known.size:
        return Histogram(name, unit, (), (), len(values))
    low, high = span or (float(known.min()), float(known.max()))
    if low == high:
        return Histogram(name, unit, (low, high), (known.size,), len(values) - known.size)
    counts, edges = np.histogram(known, BINS, (low, high))
    return Histogram(name, unit, tuple(edges.tolist()), tuple(counts.tolist()), len(values) - known.size)
