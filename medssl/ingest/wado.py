"""The connection to a DICOMweb service: credentials from the environment, retries with backoff, files fetched whole.

Searches are dicomweb-client's. It parses what it retrieves, though, and writing that anew is not the file that the
archive holds; so a file is streamed to disk here, byte by byte as it was sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from email.message import Message
from functools import lru_cache
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.util import Retry

from medssl.core.errors import MedsslError
from medssl.core.files import atomic

TIMEOUT_S = (10.0, 120.0)  # to connect; between two packets, for an archive may have to fetch from tape
RETRIES = Retry(
    total=5, backoff_factor=0.5, status_forcelist=(408, 429, 502, 503, 504), raise_on_status=False, redirect=3
)
TRIES = 3  # for an answer that breaks off
CHUNK_BYTES = 1 << 20
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'  # else some services transcode, or fail to


@lru_cache(maxsize=8)
def connection(service: str) -> Any:
    """Return the dicomweb-client of a service, one a process.

    Raises:
        MedsslError: dicomweb-client is not installed.
    """
    try:
        from dicomweb_client import DICOMwebClient
    except ImportError:
        raise MedsslError("DICOMweb needs dicomweb-client: pip install 'medssl[dicomweb]'") from None
    found = DICOMwebClient(service, session=_session(), permissive_uid=True, timeout=TIMEOUT_S)
    found.set_http_retry_params(retry=False)  # the session does, and also where no connection came about
    return found


def fetch(service: str, resource: str, out: Path) -> None:
    """Write the one instance at ``resource`` to ``out``, atomically.

    Raises:
        requests.RequestException: the service refuses it, or cannot be reached.
        OSError: it cannot be written.
    """
    session: requests.Session = connection(service)._session
    for again in reversed(range(TRIES)):
        try:
            with session.get(f"{service}/{resource}", headers={"Accept": ACCEPT}, stream=True) as answer:
                answer.raise_for_status()
                with atomic(out) as partial, partial.open("wb") as file:
                    file.writelines(only_part(answer.headers.get("Content-Type", ""), answer.iter_content(CHUNK_BYTES)))
            return
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
            if not again:
                raise


def only_part(content_type: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the body of the one part of a multipart answer; an answer that is no multipart as it is.

    Raises:
        requests.exceptions.ChunkedEncodingError: the answer breaks off.
    """
    about = Message()
    about["Content-Type"] = content_type
    boundary = str(about.get_param("boundary") or "").encode()
    if about.get_content_maintype() != "multipart" or not boundary:
        yield from chunks
        return
    held, end = b"", b"\r\n--" + boundary
    while b"\r\n\r\n" not in held:
        held += _next(chunks)
    held = held.partition(b"\r\n\r\n")[2]
    while (at := held.find(end)) < 0:
        yield held[: -len(end)]
        held = held[-len(end) :] + _next(chunks)
    yield held[:at]


def _next(chunks: Iterator[bytes]) -> bytes:
    chunk = next(chunks, b"")
    if not chunk:
        raise requests.exceptions.ChunkedEncodingError
    return chunk


class _Bearer(AuthBase):
    """As ``auth`` of a session, so that no .netrc goes before it."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class _Adapter(HTTPAdapter):
    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send, never to wait for ever."""
        return super().send(request, *args, **kwargs | {"timeout": TIMEOUT_S})


def _session() -> requests.Session:
    session, given = requests.Session(), os.environ
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(max_retries=RETRIES))
    if token := given.get("MEDSSL_DICOMWEB_TOKEN"):
        session.auth = _Bearer(token)
    elif user := given.get("MEDSSL_DICOMWEB_USER"):
        session.auth = (user, given.get("MEDSSL_DICOMWEB_PASSWORD", ""))
    for line in given.get("MEDSSL_DICOMWEB_HEADERS", "").splitlines():
        name, colon, value = line.partition(":")
        if not (name.strip() and colon):
            raise MedsslError("MEDSSL_DICOMWEB_HEADERS: expected one 'Name: value' a line")
        session.headers[name.strip()] = value.strip()
    return session
