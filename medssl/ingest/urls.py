"""Files behind addresses such as ``s3://…``, through fsspec: listed once, opened anywhere, read in ranges.

Credentials come from the environment or fsspec's own configuration, never from the address.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import fsspec

from medssl.core.errors import MedsslError

BLOCK_BYTES = 64 << 10  # read ahead: most headers fit
BUFFER_BYTES = 8 << 10
MARKS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "mtime")  # of the file systems, best first


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that fsspec can open."""

    url: str

    def open(self) -> BinaryIO:
        """Return its bytes.

        Raises:
            OSError: it cannot be had, for whatever reason its file system gives.
        """
        try:
            files, path = _file_system(self.url)
            file = files.open(path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")
        except Exception as error:
            raise _unreachable(error) from None
        return io.BufferedReader(_Ranges(file), BUFFER_BYTES)

    def mark(self) -> str:
        """Return its size with its ETag, or what else its file system has of that kind."""
        try:
            files, path = _file_system(self.url)
            return mark_of(files.info(path))
        except Exception as error:
            raise _unreachable(error) from None

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class Listed:
    """A file with its name below the address that was listed."""

    name: str
    file: RemoteFile
    num_bytes: int
    mark: str


def listed(url: str) -> Iterator[Listed]:
    """List every file below an address, or the one file there.

    Raises:
        MedsslError: it holds a name or password, cannot be reached, or there is nothing.
    """
    safe = without_user(url)
    if safe != url:
        raise MedsslError(f"{safe}: an address must not hold a user or password; put them into the environment")
    try:
        files, root = _file_system(url)
        found = files.find(root, detail=True)
    except ImportError:
        wanted = "medssl[s3]" if url.startswith("s3:") else "what fsspec needs for this kind of address"
        raise MedsslError(f"{url}: cannot be opened here; install {wanted}") from None
    except Exception as error:  # each file system has errors of its own
        raise MedsslError(f"{url}: cannot be listed ({type(error).__name__}); check address and credentials") from None
    if not found:
        raise MedsslError(f"{url}: no files there, expected some that hold DICOM")
    for path, info in sorted(found.items()):
        if not path.endswith("/"):  # else what some stores keep for a folder
            name = path[len(root) :].strip("/")
            yield Listed(name, RemoteFile(files.unstrip_protocol(path)), int(info.get("size") or 0), mark_of(info))


def without_user(url: str) -> str:
    """Return an address without the part before ``@``, so that it can be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else url


def mark_of(info: Mapping[str, Any]) -> str:
    """Return what tells one content of a file from another."""
    return f"{info.get('size')} {next((info[name] for name in MARKS if info.get(name)), '')}"


def _file_system(url: str) -> tuple[Any, str]:
    files, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return files, path


def _unreachable(error: Exception) -> OSError:
    return OSError(errno.EIO, type(error).__name__)  # nothing else of it: it may quote the address


class _Ranges(io.RawIOBase):
    """A file of fsspec whose errors are all OSError."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            found = self.file.read(len(buffer))
        except Exception as error:
            raise _unreachable(error) from None
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self.file.close()
        super().close()
