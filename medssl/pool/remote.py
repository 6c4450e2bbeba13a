"""Copies of remote pools: pulled whole, or shard by shard as they are read, into a cache of bounded size.

Shards never change once a catalog names them, so a copy is right as long as each is the one that was listed when it was
pulled; its members are checked against the catalog before the shard appears. ``remote.json`` beside pool.json makes a
folder a copy.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import polars as pl

from medssl.core.errors import CorruptShard, PoolError
from medssl.core.files import atomic, read_json, write_json
from medssl.core.progress import stderr
from medssl.pool.catalog import VOLUMES
from medssl.pool.lock import locked
from medssl.pool.manifest import Manifest
from medssl.pool.masks import MASKS, path_of
from medssl.pool.shards import checksum, shard_path
from medssl.pool.tables import load

RECORD = "remote.json"
MANIFEST = "pool.json"


@dataclass(frozen=True)
class Copy:
    """What remote.json holds: where the pool came from, its fingerprints then, the bytes of each shard, and the most
    bytes of shards to keep (None: all of them)."""

    url: str
    fingerprints: dict[str, str]
    shards: dict[str, int]
    most_bytes: int | None = None

    @classmethod
    def load(cls, pool: Path) -> Copy | None:
        """Read the record of a pool; None where it is no copy."""
        path = pool / RECORD
        if not path.is_file():
            return None
        try:
            return cls(**read_json(path))
        except (OSError, ValueError, TypeError):
            raise PoolError(f"{path}: cannot be read; pull the pool again") from None


class Remote:
    """A pool somewhere else, through fsspec.

    Raises:
        PoolError: an address that cannot be used.
    """

    def __init__(self, url: str) -> None:
        if urlsplit(url).password:
            raise PoolError("the address of a remote pool must not hold a password; put it into the environment")
        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            wanted = "install medssl[s3]" if url.startswith("s3:") else "use file:// or s3://"
            raise PoolError(f"{url}: cannot be reached ({' '.join(str(error).split())}); {wanted}") from None

    def manifest(self) -> Manifest:
        """Return the remote pool.json."""
        with tempfile.TemporaryDirectory() as scratch:
            self.get(MANIFEST, Path(scratch) / MANIFEST)
            try:
                found = Manifest.load(Path(scratch))
            except PoolError as error:
                raise PoolError(f"{self.url}: {str(error).removeprefix(scratch)}") from None
        if found.is_renewed:
            raise PoolError(f"{self.url}: patients are being removed from it, or that was interrupted; finish it there")
        return found

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each shard by name."""
        with self._telling("shards"):
            listed = self._files.ls(f"{self._root}/shards", detail=True, refresh=True)
        return {Path(f["name"]).name: int(f["size"]) for f in listed if f["name"].endswith(".tar")}

    def get(self, name: str, out: Path, expect: Callable[[Path], None] = lambda path: None) -> None:
        """Download a file, atomically; ``expect`` raises where it is not what it should be."""
        with atomic(out) as partial, self._telling(name):
            self._files.get_file(f"{self._root}/{name}", str(partial))
            expect(partial)

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise PoolError(f"{self.url}: no {name} there, expected the folder of a pool") from None
        except PoolError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise PoolError(f"{self.url}: {name} cannot be read ({type(error).__name__}); try again later") from None


def pull(
    url: str, folder: Path, most_bytes: int | None = None, on_progress: Callable[[int, int], object] | None = None
) -> Copy:
    """Copy the pool at ``url`` to ``folder``, or bring the copy there up to date; what is there already stays.

    Args:
        url: e.g. ``file:///mnt/pools/chest`` or ``s3://bucket/chest``.
        folder: new, empty, or an earlier copy of the same pool.
        most_bytes: fetch shards when they are read, and keep at most so much of them; None: fetch all now.
        on_progress: gets bytes of shards that are here, and bytes of all.

    Raises:
        PoolError: no pool there; something else here; another pool than the one that was pulled; labels added on both
            sides; a shard larger than ``most_bytes``.
        CorruptShard: a downloaded shard differs from the catalog.
    """
    remote, before = Remote(url), Copy.load(folder)
    if before is None and folder.exists() and any(p.name != ".lock" for p in folder.iterdir()):
        raise PoolError(f"{folder}: not a copy of a remote pool, expected a new or empty folder")
    manifest, sizes = remote.manifest(), remote.sizes()
    made = Copy(url, asdict(manifest.fingerprints), sizes, most_bytes)
    largest = max(sizes.values(), default=0)
    if most_bytes is not None and most_bytes < largest:
        raise PoolError(f"--most-gb: the largest shard has {largest / 1e9:.3g} GB; give at least that")
    with locked(folder / ".lock", "pulling or writing to this pool"):
        if before is None:
            write_json(folder / RECORD, asdict(made))  # from here on an interrupted pull goes on
        is_new = before is None or _is_behind(before, made, folder, manifest)
        if is_new:
            _tables(remote, folder, manifest)
        with _flock(folder / "shards" / ".fetch.lock", fcntl.LOCK_EX):
            _make_room(folder / "shards", made)
            if most_bytes is None:
                _all_shards(remote, folder, sizes, on_progress)
        if is_new:
            manifest.save(folder)  # commits, as in any pool
        write_json(folder / RECORD, asdict(made))
    return made


@contextmanager
def shard_file(shards: Path, shard: int) -> Iterator[Path]:
    """Yield the file of a shard; in a copy it is fetched first where it is absent, and stays while the block runs.

    Safe from any number of processes: one fetches at a time, the least recently opened shards make room.
    """
    path, copy = shard_path(shards, shard), _copy(shards.parent)
    if copy is None:
        yield path
        return
    while True:
        with _flock(shards / ".room.lock", fcntl.LOCK_SH):
            if path.is_file():
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # its last use, on any mount
                yield path
                return
        _fetch(copy, shards, path)


def bounded(pool: Path) -> Copy | None:
    """Return the record of a pool whose shards come and go, None for any other."""
    copy = _copy(pool)
    return copy if copy is not None and copy.most_bytes is not None else None


def is_bounded(pool: Path) -> bool:
    """Say whether shards of this pool come and go."""
    return bounded(pool) is not None


def _copy(pool: Path) -> Copy | None:
    return Copy.load(pool) if (pool / MANIFEST).is_file() else None


def _fetch(copy: Copy, shards: Path, path: Path) -> None:
    """Download one shard unless another process did so meanwhile."""
    with _flock(shards / ".fetch.lock", fcntl.LOCK_EX):
        if path.is_file():
            return
        remote, name = Remote(copy.url), path.name
        _notice_change(copy, remote)
        if name not in copy.shards:
            raise CorruptShard(f"shard {name} is not in {copy.url} as it was pulled; pull the pool again")
        _make_room(shards, copy, copy.shards[name])
        _download(remote, shards.parent, path, copy.shards[name])


def _download(remote: Remote, pool: Path, path: Path, size: int) -> None:
    members = load(pool / "catalog" / "volumes.parquet", VOLUMES).filter(pl.col("shard") == int(path.stem))

    def expect(found: Path) -> None:
        if found.stat().st_size != size:
            raise PoolError(f"{remote.url}: shard {path.name} has another size than when it was listed; pull again")
        for volume, offset, length, sha256 in members.select("volume", "offset", "length", "sha256").iter_rows():
            if checksum(found, offset, length) != sha256:
                raise CorruptShard(f"{remote.url}: volume {volume} in shard {path.name} differs from its checksum")

    remote.get(f"shards/{path.name}", path, expect)


def _make_room(shards: Path, copy: Copy, size: int = 0) -> None:
    """Remove what killed downloads left, then the least recently opened shards until ``size`` more bytes fit."""
    for name in copy.shards:
        for partial in shards.glob(f".{name}.*.partial"):
            partial.unlink(missing_ok=True)
    if copy.most_bytes is None:
        return
    kept = [path for path in shards.glob("*.tar") if path.name in copy.shards]
    total = sum(path.stat().st_size for path in kept)
    with _flock(shards / ".room.lock", fcntl.LOCK_EX):
        for path in sorted(kept, key=lambda p: p.stat().st_atime_ns):
            if total + size <= copy.most_bytes:
                return
            total -= path.stat().st_size
            path.unlink()


def _tables(remote: Remote, folder: Path, manifest: Manifest) -> None:
    counts = manifest.counts
    names = ["volumes", "instances"] if counts.volumes or counts.instances else []
    for name in [*names, *(f"labels/{part:05d}" for part in range(counts.label_parts))]:
        remote.get(f"catalog/{name}.parquet", folder / "catalog" / f"{name}.parquet")
    if counts.masks:
        remote.get("catalog/masks.parquet", folder / "catalog" / "masks.parquet")
        for mask, length in load(folder / "catalog" / "masks.parquet", MASKS).select("mask", "length").iter_rows():
            path = path_of(folder, mask)
            if not path.is_file() or path.stat().st_size != length:
                remote.get(f"masks/{path.name}", path)


def _all_shards(remote: Remote, folder: Path, sizes: dict[str, int], on_progress: Any) -> None:
    done, total = 0, sum(sizes.values())
    for name, size in sorted(sizes.items()):
        path = folder / "shards" / name
        if not path.is_file() or path.stat().st_size != size:
            _download(remote, folder, path, size)
        done += size
        if on_progress is not None:
            on_progress(done, total)


def _is_behind(before: Copy, now: Copy, folder: Path, manifest: Manifest) -> bool:
    """Say whether the copy lacks something of the remote pool, which must be the one that was pulled before."""
    if before.url != now.url:
        raise PoolError(f"{folder}: a copy of {before.url}, got {now.url}; pull into a new folder")
    if any(now.shards.get(name) != size for name, size in before.shards.items()):
        raise PoolError(f"{now.url}: no longer the pool that was pulled, shards differ; pull into a new folder")
    if not (folder / MANIFEST).is_file():
        return True
    here = Manifest.load(folder)
    if here.key != manifest.key:
        raise PoolError(f"{now.url}: now a pool of another key; pull into a new folder")
    if here.counts.masks < manifest.counts.masks and asdict(here.fingerprints) == now.fingerprints:
        return True
    if asdict(here.fingerprints) == now.fingerprints or before.fingerprints == now.fingerprints:
        return False
    if asdict(here.fingerprints) != before.fingerprints:
        raise PoolError(f"{folder}: changed here and at {now.url}; pull into a new folder and import the labels there")
    return True


def _notice_change(copy: Copy, remote: Remote) -> None:
    if asdict(remote.manifest().fingerprints) != copy.fingerprints:
        text = f"the pool at {copy.url} has changed since it was pulled; this copy stays as it was until you pull again"
        stderr.print(text, style="yellow", soft_wrap=True)


@contextmanager
def _flock(path: Path, kind: int) -> Iterator[None]:
    """Wait for a lock that ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, kind)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)
