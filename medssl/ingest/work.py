"""The work folder: what a run knows before it commits, so that a killed one goes on; never inside the pool."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import medssl
from medssl.core.errors import MedsslError
from medssl.core.files import atomic, read_json

README = """The work of a `medssl ingest` that has not finished, so that it can go on: {pool}

It holds original identifiers (headers, paths). The run removes it when it commits; until then it is for the
operator's account only. `medssl ingest ... --fresh` discards it; deleting this folder is safe while no ingest runs.
"""
ROOMS = ("core", "pool", "dicom", "ingest")  # whose code decides what a header or a shard is
LIBRARIES = ("pydicom", "numpy", "blosc2", "imagecodecs", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "pillow")


@dataclass(frozen=True)
class Work:
    """The folder ``<POOL>.ingest`` (mode 0700): lists of files, headers, finished shards, downloads."""

    folder: Path

    @classmethod
    def beside(cls, pool: Path) -> Work:
        """Return the work folder of a pool."""
        path = pool.resolve()
        return cls(path.with_name(f"{path.name}.ingest"))

    @property
    def spool(self) -> Path:
        """Where downloads lie until the run commits."""
        return self.folder / "spool"

    def shards(self, name: str) -> Path:
        """Return the folder of the shard that task ``name`` writes."""
        return self.folder / "built" / name

    def open(self, pool: Path) -> None:
        """Make the folder, or go on with the one of a killed run.

        Raises:
            MedsslError: it belongs to somebody else, lies on another disk than the pool, or cannot be written.
        """
        with self.writing():
            self.folder.mkdir(mode=0o700, exist_ok=True)
            found = self.folder.stat()
            if found.st_uid != os.geteuid() or found.st_mode & 0o077 or self.folder.is_symlink():
                raise MedsslError(
                    f"{self.folder}: expected a folder that nobody but you can open (mode 0700); remove it or mend it"
                )
            if found.st_dev != pool.stat().st_dev:
                raise MedsslError(f"{pool}: lies on another disk than the folder around it; name a folder below it")
            (self.folder / "README.txt").write_text(README.format(pool=pool.name), encoding="utf-8")
            shutil.rmtree(self.folder / "listing", ignore_errors=True)  # the sources are listed anew each time

    def is_empty(self) -> bool:
        """Return whether there is nothing to go on with."""
        return not any((self.folder / part).is_dir() for part in ("headers", "built", "spool"))

    def discard(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def sweep(self, what: Literal["headers", "built"], names: Iterable[str]) -> None:
        """Remove all but ``names``: what a run of other sources, other files or another version left."""
        kept, folder = set(names), self.folder / what
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.partition(".")[0] not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def keep_list(self, name: str, files: Sequence[Any]) -> None:
        """Write down the files of a chunk."""
        path = self.folder / "listing" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(files))

    def listed(self, name: str) -> Any:
        """Return the files of a chunk."""
        return pickle.loads((self.folder / "listing" / name).read_bytes())

    def keep_headers(self, name: str, entries: Iterable[object]) -> None:
        """Write the entries of a chunk, each by itself, so that one can be read without the others."""
        self._expect()
        packed = tuple(pickle.dumps(entry) for entry in entries)
        with atomic(self.folder / "headers" / name) as partial:
            partial.write_bytes(pickle.dumps(packed))

    def headers(self, name: str) -> tuple[bytes, ...] | None:
        """Return the pickled entries of a chunk; None where they were not read yet."""
        try:
            found: tuple[bytes, ...] = pickle.loads((self.folder / "headers" / name).read_bytes())
        except FileNotFoundError:
            return None
        return found

    def keep_built(self, name: str, built: dict[str, Any]) -> None:
        """Write what a shard task made; its shard is on disk by then."""
        self._expect()
        with atomic(self.folder / "built" / f"{name}.json") as partial:
            partial.write_text(json.dumps(built), encoding="utf-8")

    def is_built(self, name: str) -> bool:
        """Return whether a shard task has finished."""
        return (self.folder / "built" / f"{name}.json").exists()

    def result(self, name: str) -> Any:
        """Return what a finished shard task made."""
        return read_json(self.folder / "built" / f"{name}.json")

    def _expect(self) -> None:
        if not (self.folder / "README.txt").exists():  # a worker that nobody waits for must not make it anew
            raise FileNotFoundError(errno.ENOENT, "the run has ended")

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Discard the folder where an error says that there is nothing to go on with."""
        try:
            yield
        except MedsslError:
            self.discard()
            raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what goes wrong while this folder is written into one line.

        Raises:
            MedsslError: it cannot be written.
        """
        try:
            yield
        except OSError as error:
            problem = error.strerror or type(error).__name__
            raise MedsslError(
                f"{self.folder}: cannot write there ({problem}); nothing was added; make room and run it again to go on"
            ) from None


def name_of(*words: object) -> str:
    """Return a hash of words that all say what they are; results are found again under it."""
    found = hashlib.blake2b(code_version().encode(), digest_size=16)
    for word in words:
        found.update(f"\x1f{word!r}".encode())
    return found.hexdigest()


@cache
def code_version() -> str:
    """Return 12 hex digits of the code and libraries that decide what ingest makes of a file."""
    found = hashlib.blake2b(platform.python_version().encode(), digest_size=6)
    for room in ROOMS:
        for path in sorted((Path(medssl.__file__).parent / room).rglob("*.py")):
            found.update(path.name.encode() + path.read_bytes())
    for library in LIBRARIES:
        try:
            found.update(f"{library} {version(library)}".encode())
        except PackageNotFoundError:
            found.update(library.encode())
    return found.hexdigest()
