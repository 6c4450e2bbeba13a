"""A store: shards and the table of their volumes in one folder that appears whole; prepared data are one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from medssl.core.errors import PoolError
from medssl.pool.catalog import VOLUMES
from medssl.pool.lock import locked
from medssl.pool.reader import VolumeReader
from medssl.pool.shards import shard_path
from medssl.pool.tables import conform, load, save


@dataclass(frozen=True)
class Store:
    """A folder laid out like a pool, ``catalog/volumes.parquet`` and ``shards/``, without the journal of its input.

    Raises:
        PoolError: no such store.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not self._table.is_file():
            raise PoolError(f"{self.folder}: no prepared data (no catalog/volumes.parquet), expected a finished folder")

    @property
    def _table(self) -> Path:
        return self.folder / "catalog" / "volumes.parquet"

    @cached_property
    def volumes(self) -> pl.DataFrame:
        """The volumes, sorted by id: the order that ``reader`` counts rows in."""
        return load(self._table, VOLUMES).sort("volume")

    def reader(self) -> VolumeReader:
        """Return a reader of ``volumes``."""
        return VolumeReader(self.folder / "shards", self.volumes)

    @classmethod
    def build(cls, folder: Path, write: Callable[[Path], pl.DataFrame]) -> Store:
        """Return the store in ``folder``, made first if there is none.

        Args:
            folder: where the store is to appear, whole or not at all.
            write: writes shards into the folder it is given and returns their rows (schema ``VOLUMES``). After a kill
                or interrupt, a lost worker or a full disk it finds there, and beside that folder, what it wrote before.

        Raises:
            PoolError: another process is making it.
        """
        if folder.exists():
            return cls(folder)
        with locked(folder.with_name(f".{folder.name}.lock"), f"preparing {folder.name}"):
            if folder.exists():  # made while this process was on its way
                return cls(folder)
            partial = folder.with_name(f".{folder.name}.partial")
            (partial / "shards").mkdir(parents=True, exist_ok=True)
            try:
                rows = conform(write(partial / "shards"), VOLUMES, "prepared volumes")
                save(partial / "catalog" / "volumes.parquet", rows)
                used = {shard_path(partial / "shards", shard) for shard in rows["shard"].unique()}
                for left in set((partial / "shards").iterdir()) - used:  # half written when a process was killed
                    left.unlink()
                partial.rename(folder)
            except Exception as error:
                can_go_on = isinstance(error, PoolError | OSError) and any((partial / "shards").glob("*.tar"))
                if not can_go_on:
                    shutil.rmtree(partial, ignore_errors=True)
                raise
        return cls(folder)
