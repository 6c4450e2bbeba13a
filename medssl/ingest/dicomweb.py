"""DICOMweb services: found by QIDO-RS page by page, fetched by WADO-RS as they are stored there, a few at a time.

An address is ``dicomweb+https://host/dicom-web``, to which ``/studies/UID`` or ``/studies/UID/series/UID`` and QIDO
filters (``?Modality=CT&StudyDate=20200101-``) may be added. The environment holds the credentials:
``MEDSSL_DICOMWEB_TOKEN`` (bearer), or ``MEDSSL_DICOMWEB_USER`` and ``MEDSSL_DICOMWEB_PASSWORD`` (basic), and further
headers in ``MEDSSL_DICOMWEB_HEADERS``, one ``Name: value`` a line. No error names a UID or a filter.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

import requests

from medssl.core.errors import MedsslError
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import Reason
from medssl.ingest.wado import connection, fetch

SCHEMES = ("dicomweb+http://", "dicomweb+https://")
RESOURCE = re.compile(r"(?P<service>.*?)(?:/studies/(?P<study>[0-9.]{1,64})(?:/series/(?P<series>[0-9.]{1,64}))?)?/*")
UID = re.compile(r"[0-9.]{1,64}")
PAGE = 500
REFUSALS = (401, 403)
THREADS, BATCH = 4, 256  # that fetch, and how many instances between two looks at the progress
OF_INSTANCES = frozenset(["SOPInstanceUID", "SOPClassUID", "InstanceNumber", "Rows", "Columns", "NumberOfFrames"])
STUDY, SERIES, SOP, NUM_INSTANCES = "0020000D", "0020000E", "00080018", "00201209"
Tell = Callable[[str], object]


@dataclass(frozen=True)
class Downloads:
    """Where fetched instances go, and which are not needed.

    ``spool`` is a private folder (0700): what lies in it is not fetched again, so a killed run goes on; the caller
    removes it when the pool holds everything. ``known_bytes`` returns the size of an instance that the pool knows under
    a name, else None. ``progress`` hears (stage, done, total).
    """

    spool: Path
    known_bytes: Callable[[str], int | None] = lambda name: None
    progress: Callable[[str, int, int], object] = lambda stage, done, total: None


@dataclass(frozen=True, slots=True)
class WebInstance:
    """An instance of a service, fetched when it is first opened, unless it lies in the spool."""

    service: str
    resource: str
    spooled: Path

    def open(self) -> BinaryIO:
        """Return its bytes.

        Raises:
            OSError: the service does not give it.
        """
        if not self.spooled.exists():
            try:
                fetch(self.service, self.resource, self.spooled)
            except requests.RequestException as error:
                raise OSError(errno.EIO, type(error).__name__) from None
        return self.spooled.open("rb")

    def mark(self) -> str:
        """Return nothing: what has a UID never changes."""
        return ""

    def __str__(self) -> str:
        return f"{self.service}/{self.resource}"


@dataclass(frozen=True, slots=True)
class Found:
    """An instance, named ``host/study/series/sop.dcm``."""

    place: WebInstance
    name: str
    num_bytes: int = 0
    reason: Reason | None = None


def is_address(source: str) -> bool:
    """Return whether a source is the address of a DICOMweb service."""
    return source.startswith(SCHEMES)


def shown(address: str) -> str:
    """Return an address without user, UIDs and filters."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{_resource(address)['service']}"


def instances(address: str, downloads: Downloads | None, tell: Tell) -> list[Found]:
    """Find and fetch every instance at ``address`` that is not known; what the service fails to give gets a reason.

    Raises:
        MedsslError: the address holds a password, the service cannot be reached, refuses, or gives no DICOM JSON; there
            is no room; nowhere to put instances.
    """
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise MedsslError(f"{shown(address)}: an address must not hold a user or password; see MEDSSL_DICOMWEB_USER")
    if downloads is None:
        raise MedsslError(f"{shown(address)}: nowhere to put instances, expected a spool folder")
    downloads.spool.mkdir(parents=True, exist_ok=True)
    downloads.spool.chmod(0o700)
    with quiet(), _telling(shown(address)):  # libraries log addresses with UIDs
        found, failed = _search(address, downloads, tell)
        return [*_fetched(found, downloads), *failed]


def _search(address: str, downloads: Downloads, tell: Tell) -> tuple[list[WebInstance], list[Found]]:
    """Return the instances at ``address``, and the series whose instances the service fails to list."""
    asked, parts = _resource(address), urlsplit(address)
    service = f"{parts.scheme.removeprefix('dicomweb+')}://{parts.netloc}{asked['service']}"
    filters = parse_qsl(parts.query, keep_blank_values=True)
    of_series = {name: value for name, value in filters if name not in OF_INSTANCES}
    of_instances = {name: value for name, value in filters if name in OF_INSTANCES}
    client, found, failed, num_bad = connection(service), dict[str, WebInstance](), list[Found](), 0
    for study, series, num in _series(client, asked, of_series):
        try:
            listed = list(_pages(client.search_for_instances, SOP, num, (study, series), of_instances))
        except requests.HTTPError as error:
            if (_status(error) or 0) < 500:
                raise
            resource = f"studies/{study}/series/{series}"
            place = WebInstance(service, resource, downloads.spool / _hidden(service, resource))
            failed.append(Found(place, f"{parts.hostname}/{study}/{series}", reason=Reason.UNREADABLE))
            continue
        sops = [_value(one, SOP) for one in listed]
        good = [sop for sop in sops if all(UID.fullmatch(uid) for uid in (study, series, sop))]
        num_bad += len(sops) - len(good)
        for sop in good:
            resource = f"studies/{study}/series/{series}/instances/{sop}"
            found[resource] = WebInstance(service, resource, downloads.spool / _hidden(service, resource))
        downloads.progress("search", len(found), 0)
    if num_bad:
        tell(f"{shown(address)}: left out {num_bad} instances that the service lists without valid UIDs")
    return [found[resource] for resource in sorted(found)], failed


def _hidden(service: str, resource: str) -> str:
    """Return the path of an instance in the spool, which tells nothing of it."""
    name = hashlib.blake2b(f"{service}/{resource}".encode(), digest_size=20).hexdigest()
    return f"{name[:2]}/{name}"


def _series(
    client: Any, asked: dict[str, str | None], filters: dict[str, str]
) -> Iterator[tuple[str, str, int | None]]:
    """Yield study, series, and how many instances the service says it has."""
    if asked["series"]:
        filters = filters | {"SeriesInstanceUID": asked["series"]}
    for one in _pages(client.search_for_series, SERIES, None, (asked["study"],), filters, ["StudyInstanceUID"]):
        num = _value(one, NUM_INSTANCES)
        yield asked["study"] or _value(one, STUDY), _value(one, SERIES), int(num) if num.isdigit() else None


def _pages(
    search: Any, tag: str, enough: int | None, of: tuple[str | None, ...], filters: dict[str, str], fields: Any = None
) -> Iterator[dict[str, Any]]:
    """Yield every answer once. Some services cap a page below its limit, some ignore the offset."""
    seen: set[str] = set()
    offset = 0
    page: list[dict[str, Any]] = []
    while enough is None or len(seen) < enough or len(page) == PAGE:
        page = search(*of, limit=PAGE, offset=offset, search_filters=filters, fields=fields)
        fresh = [one for one in page if _value(one, tag) not in seen]
        if not fresh:
            return
        seen.update(_value(one, tag) for one in fresh)
        offset += len(page)
        yield from fresh


def _value(answer: dict[str, Any], tag: str) -> str:
    values = answer.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _fetched(found: list[WebInstance], downloads: Downloads) -> Iterator[Found]:
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, len(found), BATCH):
            batch = found[start : start + BATCH]
            yield from threads.map(lambda one: _one(one, downloads), batch)
            downloads.progress("download", start + len(batch), len(found))


def _one(place: WebInstance, downloads: Downloads) -> Found:
    host = urlsplit(place.service).hostname or ""
    _, study, _, series, _, sop = place.resource.split("/")
    name = f"{host}/{study}/{series}/{sop}.dcm"
    if known := downloads.known_bytes(name):  # 0 is one that could not be had before
        return Found(place, name, known)
    try:
        if not place.spooled.exists():
            fetch(place.service, place.resource, place.spooled)
    except requests.HTTPError as error:
        if _status(error) in REFUSALS:
            raise
        return Found(place, name, reason=Reason.UNREADABLE)
    return Found(place, name, place.spooled.stat().st_size)


@contextmanager
def _telling(where: str) -> Iterator[None]:
    try:
        yield
    except requests.HTTPError as error:
        status = _status(error) or 0
        remedy = "check path and filters" if status < 500 else "the service itself failed, its log knows why"
        if status in REFUSALS:
            remedy = "set MEDSSL_DICOMWEB_TOKEN, or _USER and _PASSWORD"
        raise MedsslError(f"{where}: answered HTTP {status}; {remedy}") from None
    except (requests.exceptions.JSONDecodeError, AttributeError, TypeError):
        raise MedsslError(f"{where}: gave no DICOM JSON, expected the root of a DICOMweb service") from None
    except requests.RequestException as error:
        what = f"cannot be reached ({type(error).__name__})"
        raise MedsslError(f"{where}: {what}; run again to go on from what was fetched") from None
    except OSError as error:
        raise MedsslError(f"{where}: instances cannot be kept ({error.strerror}); make room, run again") from None


def _status(error: requests.HTTPError) -> int | None:
    return error.response.status_code if error.response is not None else None


def _resource(address: str) -> dict[str, str | None]:
    match = RESOURCE.fullmatch(urlsplit(address).path)
    if match is None:
        raise MedsslError("a DICOMweb address ends in /studies/UID, /studies/UID/series/UID or neither")
    return match.groupdict()
