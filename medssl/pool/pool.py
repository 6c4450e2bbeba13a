"""A pool: catalog and shards of every scan that was ingested, extended by appending; only removal rewrites it.

A change is committed by replacing pool.json, which says how many rows and label parts there are. Whatever a crash
left beyond those is not read, and the next change overwrites it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from medssl.core.errors import LabelError, PoolError
from medssl.core.types import Role
from medssl.pool.catalog import INSTANCES, LABELS, LEVELS, VOLUMES, Catalog
from medssl.pool.info import PoolInfo, summarise
from medssl.pool.key import Key
from medssl.pool.lock import locked
from medssl.pool.manifest import Counts, Fingerprints, Manifest, Roles, Settings, fingerprints
from medssl.pool.masks import MASKS
from medssl.pool.reader import VolumeReader
from medssl.pool.remote import Copy
from medssl.pool.removal import Removed, Tables, erase_rest, removed, repacked, sweep, without
from medssl.pool.tables import Problem, conform, load, problems, save, unwritten
from medssl.pool.verify import find_problems, mask_problems

__all__ = ["Pool", "PoolInfo", "Problem", "Roles"]

NEXT = "catalog.next"  # tables that are to take the place of all before
UNFINISHED = Problem("pool.json", "an interrupted change left files to delete; ingest or remove something")
SAME_LABEL = ["id", "task", "value", "annotator"]


class Pool:
    """A pool on disk. Use ``Pool.create`` or ``Pool.open``.

    Attributes:
        path: its folder.
        manifest: what pool.json held when it was last read.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._is_writing = False

    @classmethod
    def create(cls, path: Path, key: Key, roles: Roles | None = None, *, prepare: dict[str, Any] | None = None) -> Pool:
        """Make an empty pool in a new or empty folder; with ``prepare`` for volumes prepared that way only.

        Raises:
            PoolError: there is something already.
        """
        left = {*path.glob(".pool.json.*.partial")}  # of a process that was killed right here
        if path.exists() and (not path.is_dir() or any(file not in left for file in path.iterdir())):
            raise PoolError(f"{path}: cannot make a pool here, expected a new or empty folder")
        path.mkdir(parents=True, exist_ok=True)
        Manifest.new(key.fingerprint, Settings(roles or Roles(), prepare)).save(path)
        return cls.open(path, key)

    @classmethod
    def open(cls, path: Path, key: Key | None = None) -> Pool:
        """Open a pool; with ``key`` only if it was made with that key.

        Raises:
            PoolError: not a pool, of another format version, or of another key.
        """
        pool = cls(path, Manifest.load(path))
        if key is not None:
            pool._expect(key)
        return pool

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.path / "shards"

    @property
    def fingerprints(self) -> Fingerprints:
        """What the results of any use of this pool depend on."""
        return self.manifest.fingerprints

    @cached_property
    def catalog(self) -> Catalog:
        """The volumes sorted by id, and all labels."""
        return Catalog(self._volumes().sort("volume"), self._labels())

    @cached_property
    def instances(self) -> pl.DataFrame:
        """One row an input file, in the order of ingestion."""
        return load(self._table("instances"), INSTANCES, self.manifest.counts.instances)

    @cached_property
    def masks(self) -> pl.DataFrame:
        """One row a segmentation; ``medssl.pool.masks.read`` gives its voxels."""
        return load(self._table("masks"), MASKS, self.manifest.counts.masks)

    def reader(self) -> VolumeReader:
        """Return a reader of ``catalog.volumes``; for some of them, ``VolumeReader(pool.shards, some.volumes)``."""
        return VolumeReader(self.shards, self.catalog.volumes)

    def role_of(self, patient: str, key: Key) -> Role:
        """Return the role of a patient: a keyed hash, so it never changes and nobody chooses it.

        Raises:
            PoolError: not the key of this pool.
        """
        self._expect(key)
        return self.manifest.settings.roles.at(key.uniform("role", patient))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out while the block runs; hold it from ``next_shard`` to ``append``.

        Raises:
            PoolError: another process is writing.
        """
        if self._is_writing:
            yield
            return
        with locked(self.path / ".lock", "writing to this pool"):
            self._set(Manifest.load(self.path))  # another process may have appended since
            sweep(self.path)
            self._finish_renewal()
            self._is_writing = True
            try:
                yield
            finally:
                self._is_writing = False

    def next_shard(self) -> int:
        """Return the number of the first shard that no volume is in; a file there is left of a crash, to overwrite."""
        last = self.catalog.volumes["shard"].max()
        return last + 1 if isinstance(last, int) else 0

    def append(self, volumes: pl.DataFrame, instances: pl.DataFrame, masks: pl.DataFrame | None = None) -> None:
        """Add rows (schemas ``VOLUMES``, ``INSTANCES``, ``MASKS``) whose files are written; all of them or none.

        The row of a file that left nothing in the pool gives way to a later one.

        Raises:
            PoolError: repeated volume ids or source keys, a patient in two roles, rows that point nowhere.
        """
        volumes, instances = conform(volumes, VOLUMES, "volumes"), conform(instances, INSTANCES, "instances")
        new_masks = pl.DataFrame(schema=MASKS) if masks is None else conform(masks, MASKS, "masks")
        with self.writing():
            again = pl.col("volume").is_null() & pl.col("source_key").is_in(instances["source_key"].implode())
            others = self.instances.filter(~again)
            tables = Tables(
                pl.concat([self._volumes(), volumes]),
                pl.concat([others, instances]),
                self._labels(),
                pl.concat([self.masks, new_masks]),
            )
            wrong = next(chain(problems(tables.volumes, tables.instances), unwritten(self.shards, volumes)), None)
            if wrong is not None:
                raise PoolError(f"{self.path}: nothing was added; {wrong}")
            if others.height < self.instances.height:  # the rows committed before would not be the first ones any more
                self._renew(tables)
                self._finish_renewal()
                return
            save(self._table("volumes"), tables.volumes)
            save(self._table("instances"), tables.instances)
            if new_masks.height:
                save(self._table("masks"), tables.masks)
            counts = replace(
                self.manifest.counts,
                volumes=tables.volumes.height,
                instances=tables.instances.height,
                masks=tables.masks.height,
            )
            marks = fingerprints(Catalog(tables.volumes, tables.labels))
            self._commit(replace(self.manifest, counts=counts, fingerprints=marks))

    def add_labels(self, labels: pl.DataFrame) -> int:
        """Add labels (schema ``LABELS``) and return how many; those given before by the same annotator are left out.

        Raises:
            LabelError: an unknown level; nothing was added.
        """
        labels = conform(labels, LABELS, "labels")
        unknown = labels.with_row_index().filter(~pl.col("level").is_in(LEVELS).fill_null(False))["index"]
        if len(unknown):
            raise LabelError(f"labels: row {unknown[0]} has an unknown level, expected one of {', '.join(LEVELS)}")
        with self.writing():
            given = self._labels()
            new = labels.unique(SAME_LABEL, keep="first", maintain_order=True)
            new = new.join(given, on=SAME_LABEL, how="anti", nulls_equal=True, maintain_order="left")
            if not new.height:
                return 0
            num_parts = self.manifest.counts.label_parts
            save(self._label_part(num_parts), new)
            counts = replace(self.manifest.counts, label_parts=num_parts + 1)
            catalog = Catalog(self._volumes(), pl.concat([given, new]))
            self._commit(replace(self.manifest, counts=counts, fingerprints=fingerprints(catalog)))
        return new.height

    def remove(self, patients: Collection[str]) -> Removed:
        """Erase patients (pseudonyms): rows, voxels, labels, and prepared stores that hold them.

        Killed at any point the pool is as before, or without them; what was to be deleted then is, at the latest, when
        the pool is next written to. Shards that hold others too are copied without them, under new numbers.

        Raises:
            PoolError: one of them is not in this pool, or it is a copy of a remote one.
            CorruptShard: a volume to keep is damaged; nothing was removed.
        """
        if (copy := Copy.load(self.path)) is not None:
            raise PoolError(f"{self.path}: a copy of {copy.url}; remove patients there, and pull into a new folder")
        with self.writing():
            before = Tables(self._volumes(), self.instances, self._labels(), self.masks)
            known = {*before.volumes["patient"], *before.instances["patient"]}
            if absent := sum(patient not in known for patient in patients):
                raise PoolError(f"{self.path}: {absent} of {len(patients)} patients are not in it; nothing was removed")
            volumes = repacked(self.shards, before.volumes, patients, self.next_shard())
            after = replace(without(before, patients), volumes=volumes)
            self._renew(after, num_removed=before.instances.height - after.instances.height)
            num_stores = self._finish_renewal()
        return removed(patients, before, after, num_stores)

    def verify(self, on_progress: Callable[[int], object] | None = None) -> list[Problem]:
        """Check every stored byte and every promise of the catalog; ``on_progress`` gets the volumes just checked."""
        try:
            catalog, instances = self.catalog, self.instances
        except PoolError as error:
            return [Problem("catalog", str(error))]
        found = find_problems(self.shards, catalog, instances, self.fingerprints, on_progress)
        of_masks = mask_problems(self.path, self.masks, catalog.volumes)
        return [*([UNFINISHED] if self.manifest.is_renewed else []), *found, *of_masks]

    def info(self) -> PoolInfo:
        """Count what the pool holds."""
        num_bytes = sum(path.stat().st_size for path in self.shards.glob("*.tar"))
        num_removed = self.manifest.counts.removed_files
        return summarise(self.catalog, self.instances, num_bytes, self.fingerprints, num_removed)

    def _renew(self, tables: Tables, *, num_removed: int = 0) -> None:
        """Commit tables that take the place of all before; the pool is as it was until all of them are written."""
        tables.save(self.path / NEXT)
        num_removed += self.manifest.counts.removed_files
        counts = Counts(tables.volumes.height, tables.instances.height, 1, tables.masks.height, num_removed)
        marks = fingerprints(Catalog(tables.volumes, tables.labels))
        self._commit(replace(self.manifest, counts=counts, fingerprints=marks, is_renewed=True))

    def _finish_renewal(self) -> int:
        """Delete what new tables left: old ones and shards, stores of volumes that are gone; return how many stores.

        A folder of tables that was never committed goes too.
        """
        new = self.path / NEXT
        if not self.manifest.is_renewed:
            shutil.rmtree(new, ignore_errors=True)
            return 0
        if new.exists():
            shutil.rmtree(self.path / "catalog", ignore_errors=True)
            new.rename(self.path / "catalog")
        num_stores = erase_rest(self.path, self._volumes())
        self._commit(replace(self.manifest, is_renewed=False))
        return num_stores

    def _expect(self, key: Key) -> None:
        if key.fingerprint != self.manifest.key:
            raise PoolError(
                f"{self.path}: made with the key of fingerprint {self.manifest.key}, got {key.fingerprint}; "
                "pass the right file with --key"
            )

    @property
    def _tables(self) -> Path:
        new = self.path / NEXT
        return new if self.manifest.is_renewed and new.exists() else self.path / "catalog"

    def _table(self, name: str) -> Path:
        return self._tables / f"{name}.parquet"

    def _label_part(self, part: int) -> Path:
        return self._tables / "labels" / f"{part:05d}.parquet"

    def _volumes(self) -> pl.DataFrame:
        return load(self._table("volumes"), VOLUMES, self.manifest.counts.volumes)

    def _labels(self) -> pl.DataFrame:
        parts = [load(self._label_part(part), LABELS) for part in range(self.manifest.counts.label_parts)]
        return pl.concat([pl.DataFrame(schema=LABELS), *parts])

    def _commit(self, manifest: Manifest) -> None:
        manifest.save(self.path)
        self._set(manifest)

    def _set(self, manifest: Manifest) -> None:
        self.manifest = manifest
        for cached in ("catalog", "instances", "masks"):
            self.__dict__.pop(cached, None)
