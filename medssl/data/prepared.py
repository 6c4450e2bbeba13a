"""Prepared volumes as readers see them: rows of a catalog, arrays of a known geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.core.types import Geometry, Role
from medssl.data.covers import Cover, covered
from medssl.pool.catalog import Catalog
from medssl.pool.reader import Box, VolumeReader

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """Prepared volumes of a pool: ``C *S`` float16 in [0, 1] each, rows in the order of ``catalog``.

    ``cropped``: volumes keep their own extent, at least ``geometry.shape`` an axis (the catalog's ``shape`` says how
    large), and are read by boxes of it; else every volume has exactly ``geometry.shape``. ``points`` is the table of
    where their tissue is. ``cover``: what whoever looks at the images does not see.
    """

    shards: Path
    catalog: Catalog
    geometry: Geometry
    cropped: bool = False
    points: Path | None = None
    cover: Cover | None = None

    def __len__(self) -> int:
        return len(self.catalog)

    def role(self, *roles: Role) -> Prepared:
        """Keep the volumes of patients with these roles."""
        return self.of(self.catalog.role(*roles))

    def of(self, catalog: Catalog) -> Prepared:
        """Keep the volumes of ``catalog``."""
        return replace(self, catalog=catalog)

    def covered(self, cover: Cover | None) -> Prepared:
        """Show every image without what ``cover`` names; None: whole."""
        return replace(self, cover=cover)

    @cached_property
    def keys(self) -> Ints:
        """The stable identity of each row, ``N``."""
        return self.catalog.keys()

    @cached_property
    def reader(self) -> VolumeReader:
        """A picklable reader of these rows."""
        return VolumeReader(self.shards, self.catalog.volumes)

    @cached_property
    def shapes(self) -> Ints:
        """The spatial shape of each row, ``N ndim``."""
        return np.array(self.catalog.volumes["shape"].to_list(), np.int64).reshape(len(self), -1)[:, 1:]

    @cached_property
    def foreground(self) -> NDArray[np.int32]:
        """Voxels of tissue, ``N P ndim``, spread over each volume, for crops that are to hold some.

        The middle of each volume where nobody looked for tissue: where volumes are not cropped.
        """
        if self.points is None:
            return (self.shapes // 2).astype(np.int32)[:, None]
        known = pl.read_parquet(self.points)
        asked = self.catalog.volumes.select("volume").join(known, on="volume", maintain_order="left")
        flat = asked["points"].explode().to_numpy().astype(np.int32)
        return flat.reshape(len(self), -1, self.geometry.ndim) if len(self) else flat.reshape(0, 1, self.geometry.ndim)

    def images(self, rows: Ints) -> Tensor:
        """Return ``B C *S`` float32: whole volumes, or their middle boxes where they are cropped."""
        return self.seen(rows, [self.middle(int(row)) for row in rows] if self.cropped else None)

    def seen(self, rows: Ints, boxes: Sequence[Box] | None = None, keys: Ints | None = None) -> Tensor:
        """Return ``B C *S`` float32: whole volumes, or a box of each; what covers is drawn by ``keys`` ``B``."""
        images = torch.from_numpy(self.reader.read_many(rows, boxes)).float()
        if self.cover is None:
            return images
        keys = self.keys[rows] if keys is None else keys
        if boxes is None:
            return covered(images, self.cover, torch.from_numpy(keys))
        first = torch.tensor([[span.start for span in box[1:]] for box in boxes])
        extent = torch.from_numpy(self.shapes[rows])
        return covered(images, self.cover, torch.from_numpy(keys), first=first, extent=extent)

    def middle(self, row: int) -> Box:
        """Return the box of ``geometry.shape`` in the middle of a volume."""
        first = (self.shapes[row] - self.geometry.shape) // 2
        return (slice(None), *(slice(int(a), int(a) + n) for a, n in zip(first, self.geometry.shape, strict=True)))
