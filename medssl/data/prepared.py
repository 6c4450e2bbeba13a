"""Prepared volumes as readers see them: rows of a catalog, arrays of a known geometry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.core.types import Geometry, Role
from medssl.pool.catalog import Catalog
from medssl.pool.shards import VolumeReader


@dataclass(frozen=True)
class Prepared:
    """Prepared volumes of a pool: ``C *S`` float16 in [0, 1] each, rows in the order of ``catalog``.

    ``cropped``: volumes keep their own extent, at least ``geometry.shape`` an axis (the catalog's ``shape`` says how
    large), and are read by boxes of it; else every volume has exactly ``geometry.shape``.
    """

    shards: Path
    catalog: Catalog
    geometry: Geometry
    cropped: bool = False

    def __len__(self) -> int:
        return len(self.catalog)

    def role(self, *roles: Role) -> Prepared:
        """Keep the volumes of patients with these roles."""
        return self.of(self.catalog.role(*roles))

    def of(self, catalog: Catalog) -> Prepared:
        """Keep the volumes of ``catalog``."""
        return replace(self, catalog=catalog)

    @cached_property
    def keys(self) -> NDArray[np.int64]:
        """The stable identity of each row, ``N``."""
        return self.catalog.keys()

    @cached_property
    def reader(self) -> VolumeReader:
        """A picklable reader of these rows."""
        return VolumeReader(self.shards, self.catalog.volumes)

    @cached_property
    def shapes(self) -> NDArray[np.int64]:
        """The spatial shape of each row, ``N ndim``."""
        return np.array(self.catalog.volumes["shape"].to_list(), np.int64).reshape(len(self), -1)[:, 1:]

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """Return ``B C *S`` float32: whole volumes, or their middle boxes where they are cropped."""
        return torch.from_numpy(np.stack([self._middle(int(row)) for row in rows])).float()

    def _middle(self, row: int) -> NDArray[np.float16]:
        if not self.cropped:
            return self.reader.read(row)
        first = (self.shapes[row] - self.geometry.shape) // 2
        spans = (slice(int(a), int(a) + n) for a, n in zip(first, self.geometry.shape, strict=True))
        return self.reader.read(row, (slice(None), *spans))
