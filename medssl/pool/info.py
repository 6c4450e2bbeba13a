"""What a pool holds, counted."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from medssl.pool.catalog import Catalog
from medssl.pool.manifest import Fingerprints


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
    input_bytes: int  # of all input files
    stored_bytes: int  # of all shards
    amounts: tuple[Amount, ...]
    outcomes: tuple[OutcomeCount, ...]
    scanners: tuple[ScannerCount, ...]
    labels: tuple[LabelCount, ...]
    fingerprints: Fingerprints


def summarise(catalog: Catalog, instances: pl.DataFrame, stored_bytes: int, marks: Fingerprints) -> PoolInfo:
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
        input_bytes=int(instances["bytes"].sum()),
        stored_bytes=stored_bytes,
        amounts=tuple(Amount(*row) for row in amounts.iter_rows()),
        outcomes=tuple(OutcomeCount(*row) for row in outcomes.iter_rows()),
        scanners=tuple(ScannerCount(*row) for row in scanners.iter_rows()),
        labels=tuple(labels),
        fingerprints=marks,
    )
