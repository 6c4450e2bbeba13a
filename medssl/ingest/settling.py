"""What only all results together show: what was sent in two series, one image, or nearly one, under two patients."""

from __future__ import annotations

import polars as pl

from medssl.core.types import Outcome
from medssl.ingest.likeness import near
from medssl.pool.catalog import ID_DIGITS
from medssl.pool.pool import Pool
from medssl.pool.tables import SHARES_OBJECT

SAME_ELSEWHERE, SAME_HERE = "same_pixels_other_patient", "same_pixels_other_series"
NEAR_DUPLICATE = "near_duplicate"
NEAR_BITS = 2  # of the 64 of a perceptual hash; measured in docs/deidentification.md
OBJECT = ["patient", "sop", "sha256"]
SERIES = ["patient", "study", "series"]
VALUES = ["axes", "shape", "sha256", "slope", "intercept", "units", "padding"]  # voxels and what they mean
PLACE, PLACE_DIGITS = ["spacing_mm", "affine", "slices_mm", "times"], 4


def settle(volumes: pl.DataFrame, fates: pl.DataFrame, pool: Pool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows to add to ``pool``, copies left out or flagged, and what became of the files then.

    Args:
        volumes: rows of all tasks in their order, with columns as in ``VOLUMES``.
        fates: a row a file: ``source_key, outcome, reason, volume, slice, sop``; columns as in ``INSTANCES``.
        pool: where they are to go.
    """
    kept, settled = _without(_copies(volumes, fates, pool), volumes, fates, reason="same_sop_uid")
    kept = _without_orphans(kept, settled)
    again = _again(kept, pool)
    kept, settled = _without(_whole(again, kept), kept, settled, reason="same_pixels")
    found = kept.with_columns(flags=_with(SAME_HERE, pl.col("volume").is_in(again["volume"].implode())))
    return _flagged(found, pool), settled


def _without(
    copies: pl.DataFrame, volumes: pl.DataFrame, fates: pl.DataFrame, *, reason: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Leave ``copies`` (``volume, original``) out of the volumes; their files are duplicates of the originals."""
    is_copy, was_stored = pl.col("original").is_not_null(), pl.col("outcome") == Outcome.STORED
    settled = fates.join(copies, on="volume", how="left", maintain_order="left").with_columns(
        outcome=pl.when(is_copy).then(pl.lit(str(Outcome.DUPLICATE))).otherwise("outcome"),
        reason=pl.when(is_copy & was_stored).then(pl.lit(reason)).otherwise("reason"),
        volume=pl.coalesce("original", "volume"),
    )
    return volumes.join(copies, on="volume", how="anti", maintain_order="left"), settled.drop("original")


def _again(volumes: pl.DataFrame, pool: Pool) -> pl.DataFrame:
    """Return ``volume, original`` for each new volume that an earlier series of its study has at the same place."""
    place = pl.col(PLACE).list.eval(pl.element().round(PLACE_DIGITS) + 0.0)  # which leaves no negative zero
    what = ["volume", *SERIES, *VALUES, place]
    everywhere = pl.concat([pool.catalog.volumes.select(what), volumes.select(what)])
    alike = everywhere.filter(pl.col("sha256").is_duplicated())
    same = ["patient", "study", *VALUES, *PLACE]
    first = alike.unique(same, keep="first", maintain_order=True).select(*same, original="volume", source="series")
    new = alike.join(volumes, on="volume", how="semi", maintain_order="left")
    found = new.join(first, on=same, nulls_equal=True, maintain_order="left")
    return found.filter(pl.col("series") != pl.col("source")).select("volume", "original")


def _whole(again: pl.DataFrame, volumes: pl.DataFrame) -> pl.DataFrame:
    """Keep what can be left out: nothing of a series whose other time points, or volumes of one object, stay."""
    is_part = pl.col("flags").list.contains(SHARES_OBJECT) | (pl.col("volume").str.len_bytes() > ID_DIGITS)
    parts = volumes.join(again, on="volume", how="anti").filter(is_part)
    free = volumes.join(parts, on=SERIES, how="anti")
    return again.join(free, on="volume", how="semi", maintain_order="left")


def _without_orphans(volumes: pl.DataFrame, fates: pl.DataFrame) -> pl.DataFrame:
    """Drop the further volumes of objects whose first one was left out as a copy."""
    stored = fates.filter(pl.col("outcome") == Outcome.STORED)
    named = volumes.join(stored, on="volume", how="semi").select("patient", "series", is_named=True).unique()
    found = volumes.join(named, on=["patient", "series"], how="left", maintain_order="left")
    is_orphan = pl.col("flags").list.contains(SHARES_OBJECT) & pl.col("is_named").is_null()
    return found.filter(~is_orphan).drop("is_named")


def _copies(volumes: pl.DataFrame, fates: pl.DataFrame, pool: Pool) -> pl.DataFrame:
    """Return ``volume, original`` for each new picture of a patient, UID and voxels that are there already."""
    is_picture = (pl.col("outcome") == Outcome.STORED) & pl.col("slice").is_null()
    new = volumes.join(fates.filter(is_picture).select("volume", "sop"), on="volume", maintain_order="left")
    old = pool.catalog.volumes.join(pool.instances.filter(is_picture).select("volume", "sop"), on="volume")
    everywhere = pl.concat([old.select(*OBJECT, "volume"), new.select(*OBJECT, "volume")])
    first = everywhere.unique(OBJECT, keep="first", maintain_order=True).rename({"volume": "original"})
    found = new.join(first, on=OBJECT, nulls_equal=True)
    return found.filter(pl.col("volume") != pl.col("original")).select("volume", "original")


def _flagged(volumes: pl.DataFrame, pool: Pool) -> pl.DataFrame:
    """Flag what has the same voxels as an image of another patient, and what looks nearly like one of another study."""
    voxels = ["sha256", "patient"]
    owners = pl.concat([pool.catalog.volumes.select(voxels), volumes.select(voxels)]).group_by("sha256")
    shared = owners.agg(pl.col("patient").n_unique()).filter(pl.col("patient") > 1)["sha256"]
    found = volumes.with_columns(flags=_with(SAME_ELSEWHERE, pl.col("sha256").is_in(shared.implode())))
    alike = _near_duplicates(volumes, pool)
    return found.with_columns(flags=_with(NEAR_DUPLICATE, pl.col("volume").is_in(alike.implode())))


def _near_duplicates(volumes: pl.DataFrame, pool: Pool) -> pl.Series:
    """Return which volumes, new or stored, one of another study looks like; echoes and views of one do by nature."""
    looks = ["volume", "study", "phash"]
    every = pl.concat([pool.catalog.volumes.select(looks), volumes.select(looks)]).drop_nulls("phash")
    return every.filter(near(every["phash"].to_numpy(), every["study"].to_numpy(), NEAR_BITS))["volume"]


def _with(flag: str, condition: pl.Expr) -> pl.Expr:
    more = pl.col("flags").list.concat(pl.lit([flag])).list.unique().list.sort()
    return pl.when(condition).then(more).otherwise("flags")
