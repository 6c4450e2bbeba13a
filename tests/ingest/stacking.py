"""Series to be stacked: a source folder with its pool, slices at places and times."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from synthetic_dicom import ct_slice, save

from medssl.ingest.ingest import ingest
from medssl.ingest.report import IngestReport
from medssl.ingest.rules import Rules
from medssl.pool.key import Key
from medssl.pool.pool import Pool

CAREFUL = Rules()


class Case:
    """A source folder and its pool."""

    def __init__(self, source: Path, pool: Pool, key: Key) -> None:
        self.source, self.pool, self.key = source, pool, key

    def run(
        self, objects: Iterable[Dataset], syntaxes: tuple[str | None, ...] = (None,), rules: Rules = CAREFUL
    ) -> IngestReport:
        for i, ds in enumerate(objects):
            save(ds, self.source / f"{i:03d}", syntaxes[i % len(syntaxes)])
        report = ingest([self.source], self.pool, self.key, rules=rules)
        assert self.pool.verify() == []
        return report

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.pool.catalog.volumes.to_dicts()

    def voxels(self, row: int = 0) -> NDArray[Any]:
        return self.pool.reader().read(row)

    def slices(self, volume: str) -> list[int]:
        mine = self.pool.instances.filter(pl.col("volume") == volume, pl.col("outcome") == "stored")
        return sorted(mine["slice"].to_list())


def outcomes(report: IngestReport) -> dict[tuple[str, str | None], int]:
    return {(str(c.outcome), c.reason and str(c.reason)): c.files for c in report.outcomes}


def in_time(z: float, t: int, **elements: Any) -> Dataset:
    """Return a slice at ``z`` whose voxels hold ``z + 10 t``."""
    ds = ct_slice(z, f"{z} {t}", **elements)
    ds.PixelData = (np.frombuffer(ds.PixelData, "<i2") + 10 * t).astype("<i2").tobytes()
    return ds


def shuffled(slices: list[Dataset]) -> list[Dataset]:
    return [slices[i] for i in np.random.default_rng(1).permutation(len(slices))]
