"""The tables of a pool: one row a volume, one row an input file, one row a label; pseudonyms only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medssl.core.config import fingerprint
from medssl.core.types import Role

VOLUMES: dict[str, Any] = {
    "volume": pl.String,  # pseudonym; the identity that random keys derive from
    "patient": pl.String,
    "study": pl.String,
    "series": pl.String,
    "role": pl.String,
    "modality": pl.String,
    "sequence": pl.String,
    "body_part": pl.String,
    "view": pl.String,
    "laterality": pl.String,
    "site": pl.String,  # pseudonym
    "scanner": pl.String,  # manufacturer and model
    "sex": pl.String,
    "age": pl.Float64,  # years, capped at 90
    "day": pl.Int32,  # shifted by a keyed offset of the patient
    "axes": pl.String,  # [T] [Z] Y X [C], e.g. "YX", "ZYX", "YXC", "TZYX"; "C" comes first in prepared ones
    "shape": pl.List(pl.Int64),  # in the order of the axes
    "dtype": pl.String,
    "spacing_mm": pl.List(pl.Float64),  # in the order of the spatial axes; between planes along their normal
    "affine": pl.List(pl.Float64),  # 16 numbers, voxel (x, y, z) to patient LPS mm, at any time; null without a place
    "units": pl.String,  # "HU" or "stored"
    "slope": pl.Float64,
    "intercept": pl.Float64,
    "window_center": pl.Float64,  # after rescale
    "window_width": pl.Float64,
    "padding": pl.Float64,  # stored value that is no tissue; null where there is none
    "photometric": pl.String,  # as it came in; voxels are MONOCHROME2 or RGB
    "flags": pl.List(pl.String),
    "times": pl.List(pl.Float64),  # along "T", in the unit that a flag "t_…" names; null where that is not known
    "slices_mm": pl.List(pl.Float64),  # where slices of resampled ones were, along the normal from the first
    "quality": pl.List(pl.String),  # what to look at, in words; null in pools made before it was recorded
    "phash": pl.Int64,  # perceptual hash: few bits differ between near duplicates
    "shard": pl.Int32,
    "offset": pl.Int64,  # of the member's bytes in the tar file
    "length": pl.Int64,
    "sha256": pl.String,  # of the member's bytes
}
# Columns that tables of earlier pools lack.
LATER = frozenset({"patient", "quality", "phash", "times", "slices_mm", "mark"})
INSTANCES: dict[str, Any] = {
    "source_key": pl.String,  # HMAC of the path below its source; never the path
    "bytes": pl.Int64,
    "mark": pl.Int64,  # keyed hash of the file's time or checksum; null where it has none, and in earlier pools
    "sop": pl.String,
    "outcome": pl.String,
    "reason": pl.String,  # null where stored without remark
    "volume": pl.String,  # the first one, of an object that holds several
    "patient": pl.String,  # pseudonym, of any readable object; null in pools made before it was recorded
    "slice": pl.Int32,  # the (first) plane that it became, counted over time and Z; null where it is the whole volume
}
LABELS: dict[str, Any] = {
    "id": pl.String,
    "level": pl.String,  # volume | series | study | patient
    "task": pl.String,
    "value": pl.String,
    "source": pl.String,
    "annotator": pl.String,
    "time": pl.String,  # ISO 8601, UTC
}
LEVELS = ("volume", "series", "study", "patient")
ID_DIGITS = 32  # of a volume; a time point of one has more


@dataclass(frozen=True)
class Catalog:
    """The volumes of a pool in a fixed order (by id), with the labels given to them."""

    volumes: pl.DataFrame
    labels: pl.DataFrame

    def __len__(self) -> int:
        return self.volumes.height

    def role(self, *roles: Role) -> Catalog:
        """Keep the volumes of patients with one of ``roles``."""
        return self.where(pl.col("role").is_in([str(r) for r in roles]))

    def where(self, condition: pl.Expr) -> Catalog:
        """Keep the volumes that satisfy ``condition``."""
        return replace(self, volumes=self.volumes.filter(condition))

    def only(self, volumes: Iterable[str]) -> Catalog:
        """Keep these volumes."""
        return self.where(pl.col("volume").is_in(list(volumes)))

    def studies(self, studies: Iterable[str]) -> Catalog:
        """Keep the volumes of these studies."""
        return self.where(pl.col("study").is_in(list(studies)))

    def targets(self, task: str) -> pl.DataFrame:
        """Return ``volume, value`` for the labelled volumes, in catalog order; the finest and latest label wins."""
        given = self.labels.filter(pl.col("task") == task)
        found = []
        for rank, level in enumerate(LEVELS):
            part = given.filter(pl.col("level") == level).select(pl.col("id").alias(level), "value", "time")
            named = self.volumes.select(pl.col("volume").alias("sample"), whole() if level == "volume" else level)
            joined = named.join(part, on=level).select(pl.col("sample").alias("volume"), "value", "time")
            found.append(joined.with_columns(pl.lit(rank).alias("rank")))
        best = pl.concat(found).sort("rank", "time", descending=[False, True], maintain_order=True)
        best = best.unique("volume", keep="first", maintain_order=True)
        return self.volumes.select("volume").join(best.select("volume", "value"), on="volume", maintain_order="left")

    def labelled(self, task: str) -> Catalog:
        """Keep the volumes that carry a label of ``task``."""
        return self.only(self.targets(task)["volume"])

    def keys(self) -> NDArray[np.int64]:
        """Return the stable 64-bit identity of each volume, which random keys derive from."""
        return np.array([int(v[:16], 16) for v in self.volumes["volume"]], dtype=np.uint64).view(np.int64)

    def fingerprint(self) -> str:
        """Return 12 hex digits over identities, roles and voxels."""
        return fingerprint(self.volumes.sort("volume").select("volume", "role", "sha256").rows())


def moment(volume: str, index: int) -> str:
    """Name a time point of a volume, which is a sample of its own: random keys derive from the first digits."""
    return f"{volume[:12]}{index:04x}{volume}"


def whole() -> pl.Expr:
    """Return the column ``volume`` with the volume in the place of its time points."""
    name = pl.col("volume")
    return pl.when(name.str.len_bytes() > ID_DIGITS).then(name.str.slice(16)).otherwise(name)


def time_point() -> pl.Expr:
    """Return the column ``time`` of the samples of ``volume``: which time point one is, null where there are none."""
    name = pl.col("volume")
    index = name.str.slice(12, 4).str.to_integer(base=16)
    return pl.when(name.str.len_bytes() > ID_DIGITS).then(index).alias("time")


def empty(schema: dict[str, Any]) -> pl.DataFrame:
    """Return a table without rows."""
    return pl.DataFrame(schema=schema)
