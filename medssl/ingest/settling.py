"""What only all results together show: one object sent in two series, one image under two patients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from medssl.core.types import Outcome
from medssl.ingest.tasks import Built, Fate, VolumeRow
from medssl.pool.pool import Pool

SAME_ELSEWHERE = "same_pixels_other_patient"


def settle(built: Sequence[Built], sops: Mapping[str, str | None], pool: Pool) -> Built:
    """Join the results of all tasks; ``sops`` names the object in each source file."""
    fates = {fate.source_key: fate for part in built for fate in part.fates}
    rows, copies = _without_copies([row for part in built for row in part.volumes], fates, sops, pool)
    for key, fate in fates.items():
        if fate.volume in copies:
            reason = "same_sop_uid" if fate.outcome is Outcome.STORED else fate.reason
            fates[key] = replace(fate, outcome=Outcome.DUPLICATE, reason=reason, volume=copies[fate.volume])
    owners: dict[str, set[str]] = defaultdict(set)
    for sha256, patient in pool.catalog.volumes.select("sha256", "patient").iter_rows():
        owners[sha256].add(patient)
    for row in rows:
        owners[row.sha256].add(row.patient)
    flagged = (
        replace(row, flags=sorted({*row.flags, SAME_ELSEWHERE})) if len(owners[row.sha256]) > 1 else row for row in rows
    )
    return Built(tuple(flagged), tuple(fates.values()))


def _without_copies(
    rows: Sequence[VolumeRow], fates: Mapping[str, Fate], sops: Mapping[str, str | None], pool: Pool
) -> tuple[list[VolumeRow], dict[str | None, str]]:
    """Return the rows to keep, and for each other one the volume that it copies: same patient, UID and voxels."""
    stored = pool.instances.filter(pl.col("outcome") == Outcome.STORED, pl.col("slice").is_null())
    before = stored.join(pool.catalog.volumes, on="volume").select("patient", "sop", "sha256", "volume")
    seen: dict[tuple[str, str | None, str], str] = {(*row[:3],): row[3] for row in before.iter_rows()}
    pictures = {
        fate.volume: sops[fate.source_key]
        for fate in fates.values()
        if fate.outcome is Outcome.STORED and fate.slice is None
    }
    kept: list[VolumeRow] = []
    copies: dict[str | None, str] = {}
    for row in rows:
        original = row.volume
        if row.volume in pictures:
            original = seen.setdefault((row.patient, pictures[row.volume], row.sha256), row.volume)
        if original == row.volume:
            kept.append(row)
        else:
            copies[row.volume] = original
    return kept, copies
