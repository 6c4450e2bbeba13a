"""Walking the sources: every file below them once, in a fixed order, named alike on every machine."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.core.errors import MedsslError


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One entry below a source.

    Attributes:
        path: where it lies.
        relative: its path below its source, that one's own name first; ``/`` as separator, NFC.
        num_bytes: its size; 0 where it cannot be seen.
        modified_ns: when it was last written.
        is_readable: false for a folder or link that cannot be followed, and for pipes, sockets and devices.
        case: of a NIfTI file in a case folder, what that is called; see ``medssl.ingest.cases``.
    """

    path: Path
    relative: str
    num_bytes: int
    modified_ns: int = 0
    is_readable: bool = True
    case: str | None = None

    def is_unchanged(self) -> bool:
        """Return whether the file is as it was when it was listed."""
        status = self.path.stat()
        return (status.st_size, status.st_mtime_ns) == (self.num_bytes, self.modified_ns)

    @property
    def below(self) -> str:
        """The path below the source, without the source's name."""
        return self.relative.partition("/")[2] or self.relative


def walk(sources: Sequence[Path], exclude: Path) -> list[SourceFile]:
    """List every file below ``sources`` (folders or files), except those below ``exclude``.

    Links are followed; a folder that was visited already is not visited again, so loops end.

    Raises:
        MedsslError: a source does not exist, two sources share a name and hold files of one name, or there is no file.
    """
    visited = {_identity(exclude)} if exclude.exists() else set()
    found: list[SourceFile] = []
    for source in sources:
        if not source.exists():
            raise MedsslError(f"{source}: no such folder or file, expected one that holds DICOM")
        found += _walk(source, _plain(source.resolve().name or "root"), visited)
    if not found:
        raise MedsslError(f"no files below {', '.join(map(str, sources))}; expected folders that hold DICOM files")
    if len({file.relative for file in found}) < len(found):
        raise MedsslError("two sources of one name hold files of one name; give the folder above both as the source")
    return sorted(found, key=lambda file: file.relative)


def _walk(path: Path, relative: str, visited: set[tuple[int, int]]) -> Iterator[SourceFile]:
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            yield SourceFile(path, relative, status.st_size, status.st_mtime_ns)
            return
        if not stat.S_ISDIR(status.st_mode):
            yield SourceFile(path, relative, 0, is_readable=False)
            return
        if _identity(path) in visited:
            return
        visited.add(_identity(path))
        names = sorted(os.listdir(path))
    except OSError:
        yield SourceFile(path, relative, 0, is_readable=False)
        return
    for name in names:
        yield from _walk(path / name, f"{relative}/{_plain(name)}", visited)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _plain(name: str) -> str:
    """Return a name as valid text: one spelling of accents, bytes that are no UTF-8 escaped."""
    data = name.encode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", data.decode("utf-8", "backslashreplace"))
