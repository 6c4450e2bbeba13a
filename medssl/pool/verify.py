"""Checking a pool: every stored byte against its checksum, every table against its promises."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from medssl.pool.catalog import Catalog
from medssl.pool.manifest import Fingerprints, fingerprints
from medssl.pool.masks import path_of
from medssl.pool.remote import shard_file
from medssl.pool.shards import checksum
from medssl.pool.tables import Problem, problems


def find_problems(
    shards: Path,
    catalog: Catalog,
    instances: pl.DataFrame,
    recorded: Fingerprints,
    on_progress: Callable[[int], object] | None = None,
) -> Iterator[Problem]:
    """Find what is wrong with a pool, tables first; ``on_progress`` gets the number of volumes just checked."""
    yield from problems(catalog.volumes, instances)
    found = fingerprints(catalog)
    for name in ("images", "labels"):
        if getattr(found, name) != getattr(recorded, name):
            yield Problem("pool.json", f"the fingerprint of the {name} differs from that of the catalog")
    known = set()
    for (shard,), volumes in catalog.volumes.sort("shard", "offset").group_by("shard", maintain_order=True):
        with shard_file(shards, int(str(shard))) as path:
            known.add(path.name)
            yield from _shard_problems(path, volumes, on_progress)
    for path in sorted(shards.glob("[!.]*")):
        if path.name not in known:
            yield Problem(
                f"shards/{path.name}", "no volume is in it; left by an interrupted ingest, the next one reuses it"
            )


def mask_problems(pool: Path, masks: pl.DataFrame, volumes: pl.DataFrame) -> Iterator[Problem]:
    """Find masks of no volume, and files of masks that are missing, damaged or of no mask."""
    if num := masks.join(volumes, on="volume", how="anti").height:
        yield Problem("catalog/masks.parquet", f"{num} masks lie on no volume")
    known = set()
    for mask, length, sha256 in masks.select("mask", "length", "sha256").iter_rows():
        path = path_of(pool, mask)
        known.add(path.name)
        if not path.is_file():
            yield Problem(f"masks/{path.name}", "missing")
        elif path.stat().st_size != length or checksum(path, 0, length) != sha256:
            yield Problem(f"masks/{path.name}", "its bytes differ from their checksum")
    for path in sorted((pool / "masks").glob("[!.]*")):
        if path.name not in known:
            yield Problem(f"masks/{path.name}", "no mask of the catalog is in it")


def _shard_problems(
    path: Path, volumes: pl.DataFrame, on_progress: Callable[[int], object] | None
) -> Iterator[Problem]:
    where = f"shards/{path.name}"
    if not path.is_file():
        yield Problem(where, f"missing, with {volumes.height} volumes")
        return
    listed = _listed(path)
    for volume, offset, length, sha256 in volumes.select("volume", "offset", "length", "sha256").iter_rows():
        if checksum(path, offset, length) != sha256:
            yield Problem(where, f"the bytes of volume {volume} differ from their checksum")
        elif (offset, length) not in listed:
            yield Problem(where, f"the tar header of volume {volume} is damaged (its voxels are not)")
        if on_progress is not None:
            on_progress(1)


def _listed(path: Path) -> set[tuple[int, int]]:
    """Return offset and length of the members that tar programs see."""
    try:
        with tarfile.open(path) as tar:
            return {(member.offset_data, member.size) for member in tar}
    except tarfile.TarError:
        return set()
