"""pool.json: what makes a folder a pool; the one file whose replacement commits a change."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medssl.core.config import fingerprint
from medssl.core.errors import PoolError
from medssl.core.files import read_json, write_json
from medssl.core.types import Role
from medssl.pool.catalog import LABELS, VOLUMES, Catalog, empty

FORMAT, VERSION = "medssl pool", 1


@dataclass(frozen=True)
class Roles:
    """The fractions of patients in each role.

    Raises:
        PoolError: a fraction outside [0, 1], or a sum other than 1.
    """

    dev: float = 0.7
    val: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        fractions = (self.dev, self.val, self.test)
        if not all(0 <= f <= 1 for f in fractions) or not math.isclose(sum(fractions), 1, abs_tol=1e-9):
            raise PoolError(f"roles dev {self.dev}, val {self.val}, test {self.test}: expected fractions that sum to 1")

    def at(self, position: float) -> Role:
        """Return the role whose share of [0, 1) holds ``position``."""
        if position < self.test:
            return Role.TEST
        return Role.VAL if position < self.test + self.val else Role.DEV


@dataclass(frozen=True)
class Fingerprints:
    """12 hex digits each, over voxels with their roles, and over labels; independent of the order of ingestion."""

    images: str
    labels: str


@dataclass(frozen=True)
class Settings:
    """What was chosen when the pool was made; ``prepare`` where it holds nothing but volumes prepared that way."""

    roles: Roles
    prepare: dict[str, Any] | None = None


@dataclass(frozen=True)
class Counts:
    """How much of the catalog is committed: rows or parts beyond these do not exist for a reader."""

    volumes: int = 0
    instances: int = 0
    label_parts: int = 0
    masks: int = 0
    removed_files: int = 0  # whose rows were erased, with their patients


@dataclass(frozen=True)
class Manifest:
    """The contents of pool.json.

    ``is_renewed``: all tables were written anew and are in ``catalog.next``, until that has taken the place of
    ``catalog`` and the shards that they no longer name are deleted.
    """

    key: str  # its fingerprint
    settings: Settings
    fingerprints: Fingerprints
    counts: Counts = Counts()
    is_renewed: bool = False
    format: str = FORMAT
    version: int = VERSION

    @classmethod
    def new(cls, key: str, settings: Settings) -> Manifest:
        """Return the manifest of a pool without volumes."""
        return cls(key, settings, fingerprints(Catalog(empty(VOLUMES), empty(LABELS))))

    @classmethod
    def load(cls, pool: Path) -> Manifest:
        """Read the manifest of the folder ``pool``.

        Raises:
            PoolError: not a pool, or one of another format version.
        """
        path = pool / "pool.json"
        try:
            data = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            raise PoolError(f"{pool}: not a pool (no pool.json), expected a folder made by `medssl ingest`") from None
        except (OSError, ValueError) as error:
            raise PoolError(f"{path}: cannot be read ({type(error).__name__}); restore it") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise PoolError(f"{path}: not written by medssl, expected a folder made by `medssl ingest`")
        if data.get("version") != VERSION:
            raise PoolError(
                f"{path}: pool format version {data.get('version')}, this medssl reads version {VERSION}; "
                "use the medssl that wrote it or ingest again"
            )
        try:
            return TypeAdapter(cls).validate_python(data)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise PoolError(f"{path}: {place} is missing or wrong; restore this file") from None

    def save(self, pool: Path) -> None:
        """Replace pool.json, atomically."""
        write_json(pool / "pool.json", asdict(self))


def fingerprints(catalog: Catalog) -> Fingerprints:
    """Return the fingerprints of a catalog.

    Of the time of labels only the order counts, which decides between contradicting ones.
    """
    labels = catalog.labels.sort("id", "task", "level", "time", maintain_order=True).drop("time", "source")
    return Fingerprints(catalog.fingerprint(), fingerprint(labels.rows()))
