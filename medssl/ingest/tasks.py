"""What ingest hands to its workers, and what they hand back: rows without any identifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from medssl.core.types import Outcome
from medssl.dicom.deidentify import Described
from medssl.ingest.headers import AnyHeader
from medssl.ingest.rules import Rules
from medssl.ingest.sources import SourceFile
from medssl.pool.frames import Codec
from medssl.pool.key import Key


@dataclass(frozen=True, slots=True)
class Item:
    """One readable image file and what the catalog may know of it."""

    source_key: str
    file: SourceFile
    header: AnyHeader
    about: Described


class Transform(Protocol):
    """What ``ingest --prepare`` stores instead of the volumes themselves; picklable."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the pool records of it."""

    @property
    def codec(self) -> Codec:
        """How its arrays are stored."""

    def takes(self, axes: str) -> bool:
        """Return whether it is for volumes of these axes."""

    def __call__(self, voxels: NDArray[Any], row: Mapping[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the array to store, and the catalog columns that describe it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """All images of one kind in one series, in the order of their paths.

    ``known`` are the volumes that the pool holds of this series; ``flags`` are added to every volume.
    """

    items: tuple[Item, ...]
    known: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Task:
    """What one worker does at a time: the units of one shard."""

    folder: Path
    shard: int
    codec: Codec
    key: Key
    units: tuple[Unit, ...]
    transform: Transform | None = None
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one file: all of its row but its size and its sop."""

    source_key: str
    outcome: Outcome
    reason: str | None = None
    volume: str | None = None
    slice: int | None = None


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A row of the catalog without the role; see ``medssl.pool.catalog.VOLUMES``."""

    volume: str
    patient: str
    study: str
    series: str
    modality: str | None
    sequence: str | None
    body_part: str | None
    view: str | None
    laterality: str | None
    site: str | None
    scanner: str | None
    sex: str | None
    age: float | None
    day: int | None
    axes: str
    shape: list[int]
    dtype: str
    spacing_mm: list[float] | None
    affine: list[float] | None
    units: str
    slope: float
    intercept: float
    window_center: float | None
    window_width: float | None
    padding: float | None
    photometric: str
    flags: list[str]
    times: list[float] | None
    slices_mm: list[float] | None
    quality: list[str]
    phash: int | None
    shard: int
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class Built:
    """What one task wrote, and the fate of each of its files."""

    volumes: tuple[VolumeRow, ...]
    fates: tuple[Fate, ...]
