"""A real Orthanc, ingested over DICOMweb: the pool of the folder it was filled from, also after a kill."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from pydicom import dcmread, uid
from servers import Orthanc, free_port, orthanc
from synthetic_dicom import ct_slice, encoded, radiograph, save
from test_archives import NOWHERE, content

from medssl.core.errors import MedsslError
from medssl.dicom.reasons import Reason
from medssl.ingest import dicomweb, wado
from medssl.ingest.dicomweb import Downloads
from medssl.ingest.ingest import ingest
from medssl.ingest.sources import walk
from medssl.pool.key import Key
from medssl.pool.pool import Pool

SYNTAXES = (None, uid.JPEG2000Lossless, uid.RLELossless)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies: a CT of five slices in three syntaxes, and three radiographs."""
    folder = tmp_path_factory.mktemp("dicomweb") / "export"
    for z in range(5):
        save(ct_slice(z), folder / "ct" / f"{z}.dcm", SYNTAXES[z % 3])
    for i in range(3):
        elements = {"SeriesInstanceUID": f"1.2.9.{i}", "StudyInstanceUID": "1.2.9"}
        save(radiograph(f"x{i}", **elements), folder / "dx" / f"{i}", SYNTAXES[i])
    return folder


@pytest.fixture(scope="module")
def server(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as found:
        found.upload(*(path.read_bytes() for path in sorted(export.rglob("*")) if path.is_file()))
        yield found


@pytest.fixture(autouse=True)
def quick_and_apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(wado, "RETRIES", wado.RETRIES.new(total=1, backoff_factor=0.01))
    wado.connection.cache_clear()
    yield
    wado.connection.cache_clear()


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path / "spool")


def requests_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by every address asked for from now on."""
    made: list[str] = []
    plain = wado._Adapter.send
    monkeypatch.setattr(wado._Adapter, "send", lambda s, r, **k: made.append(str(r.url)) or plain(s, r, **k))
    return made


def test_a_service_gives_the_pool_of_the_folder(server: Orthanc, export: Path, tmp_path: Path, key: Key) -> None:
    plain, remote = (Pool.create(tmp_path / name, key) for name in ("plain", "remote"))
    ingest([export], plain, key)
    report = ingest([server.address], remote, key)
    assert report.num_files == 8
    assert content(remote) == content(plain)
    assert sorted(remote.instances["bytes"]) == sorted(plain.instances["bytes"])
    assert sorted(remote.instances["sop"]) == sorted(plain.instances["sop"])
    assert not [path for path in tmp_path.iterdir() if "spool" in path.name or path.name.endswith(".ingest")]


def test_what_the_pool_knows_is_not_fetched_again(
    server: Orthanc, pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest([server.address], pool, key)
    made = requests_made(monkeypatch)
    assert ingest([server.address], pool, key).num_files == 0
    assert not [address for address in made if "/instances/" in address]


def test_files_come_byte_by_byte_as_they_are_stored_there(
    server: Orthanc, export: Path, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = walk([server.address], NOWHERE, downloads)
    stored = {str(dcmread(p).SOPInstanceUID): p.read_bytes() for p in export.rglob("*") if p.is_file()}
    assert len(files) == len(stored) == 8
    for file in files:
        host, _, _, name = file.relative.split("/")
        with file.place.open() as handle:
            assert (host, handle.read()) == ("127.0.0.1", stored[name.removesuffix(".dcm")])
        assert file.num_bytes == len(stored[name.removesuffix(".dcm")])
        assert file.is_unchanged()
    assert stat.S_IMODE(downloads.spool.stat().st_mode) == 0o700
    on_disk = [str(path) for path in downloads.spool.rglob("*")]
    assert not [path for path in on_disk if any(sop in path for sop in stored)]
    made = requests_made(monkeypatch)
    assert walk([server.address], NOWHERE, downloads) == files
    assert not [address for address in made if "/instances/" in address]


def test_studies_series_and_filters_narrow_it_and_pages_are_all_read(
    server: Orthanc, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def num(rest: str) -> int:
        return len(walk([server.address + rest], NOWHERE, downloads))

    ct = str(ct_slice(0).SeriesInstanceUID), str(ct_slice(0).StudyInstanceUID)
    assert num("?Modality=CT") == 5
    assert num("/studies/1.2.9") == 3
    assert num("/studies/1.2.9/series/1.2.9.1") == 1
    assert num(f"/studies/{ct[1]}/series/{ct[0]}/") == 5
    assert num("/studies/1.2.9?Modality=DX&StudyDate=20170101-20171231") == 3
    assert num(f"?SOPInstanceUID={ct_slice(2).SOPInstanceUID}") == 1
    monkeypatch.setattr(dicomweb, "PAGE", 2)
    assert num("") == 8
    with pytest.raises(MedsslError, match="no files"):
        num("?Modality=MG")


def test_credentials_come_from_the_environment(
    export: Path, tmp_path: Path, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    with orthanc(tmp_path / "orthanc", "alice", "hush-hush") as server:
        server.upload((export / "ct" / "1.dcm").read_bytes())
        with pytest.raises(MedsslError, match=r"HTTP 401; set MEDSSL_DICOMWEB_TOKEN"):
            walk([server.address], NOWHERE, downloads)
        monkeypatch.setenv("MEDSSL_DICOMWEB_USER", "alice")
        monkeypatch.setenv("MEDSSL_DICOMWEB_PASSWORD", "wrong")
        wado.connection.cache_clear()
        with pytest.raises(MedsslError, match="401") as caught:
            walk([server.address], NOWHERE, downloads)
        assert "wrong" not in str(caught.value)
        monkeypatch.setenv("MEDSSL_DICOMWEB_PASSWORD", "hush-hush")
        wado.connection.cache_clear()
        assert len(walk([server.address], NOWHERE, downloads)) == 1
        for name in ("USER", "PASSWORD"):
            monkeypatch.delenv(f"MEDSSL_DICOMWEB_{name}")
        monkeypatch.setenv("MEDSSL_DICOMWEB_HEADERS", "X-Extra: 1\nAuthorization: Basic YWxpY2U6aHVzaC1odXNo")
        wado.connection.cache_clear()
        assert len(walk([server.address], NOWHERE, downloads)) == 1
    monkeypatch.setenv("MEDSSL_DICOMWEB_TOKEN", "t0ken")
    sent = wado._session().prepare_request(requests.Request("GET", "http://localhost/"))
    assert sent.headers["Authorization"] == "Bearer t0ken"


def test_errors_are_one_line_without_uids_or_filters(
    server: Orthanc, downloads: Downloads, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = f"dicomweb+http://127.0.0.1:{free_port()}/dicom-web/studies/1.2.3?PatientName=Quillfeather"
    for address, words in {
        gone: "cannot be reached",
        server.address.replace("dicom-web", "nothing") + "/studies/1.2.3": "HTTP 404",
        server.address.replace("dicom-web", "system") + "/studies/1.2.3": "HTTP 4",
        server.address.replace("://", "://me:hush@"): "must not hold a user",
    }.items():
        with pytest.raises(MedsslError, match=words) as caught:
            walk([address], NOWHERE, downloads)
        assert not {"1.2.3", "Quillfeather", "hush"} & set(re.split(r"[/?=:@ ]", str(caught.value)))
        assert "\n" not in str(caught.value)
    captured = capfd.readouterr()
    assert "1.2.3" not in captured.err + captured.out


def test_an_instance_that_the_service_fails_to_give_costs_that_instance(
    export: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    with orthanc(tmp_path / "orthanc") as server:
        server.upload(*((export / "dx" / name).read_bytes() for name in "012"))
        lost = max((tmp_path / "orthanc" / "db").rglob("*-*-*-*-*"), key=lambda path: path.stat().st_size)
        kept = lost.read_bytes()

        def lose(stage: str, done: int, total: int) -> None:
            if stage == "search":
                lost.unlink(missing_ok=True)

        report = ingest([server.address], pool, key, progress=lose)
        assert [q.reason for q in report.quarantined] == [Reason.UNREADABLE]
        assert (report.num_files, report.num_volumes) == (3, 2)
        with pytest.raises(MedsslError, match="HTTP 500; the service itself failed"):
            ingest([server.address], pool, key)
        lost.write_bytes(kept)
        assert ingest([server.address], pool, key).num_volumes == 1


def test_a_series_that_the_service_fails_to_list_has_a_row(
    server: Orthanc, pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = wado.connection(server.address.removeprefix("dicomweb+"))
    plain = client.search_for_instances

    def search(study: str, series: str, **options: object) -> object:
        if series == "1.2.9.1":
            answer = requests.Response()
            answer.status_code = 502
            raise requests.HTTPError(response=answer)
        return plain(study, series, **options)

    monkeypatch.setattr(client, "search_for_instances", search)
    report = ingest([server.address], pool, key)
    assert [(q.path, q.reason) for q in report.quarantined] == [("127.0.0.1/1.2.9/1.2.9.1", Reason.UNREADABLE)]
    assert report.num_files == 8


FETCH = """
import sys
from pathlib import Path
from medssl.ingest.dicomweb import Downloads
from medssl.ingest.sources import walk
walk([sys.argv[1]], Path("/nowhere"), Downloads(Path(sys.argv[2])))
"""


def test_a_killed_download_goes_on_without_fetching_anything_twice(
    tmp_path: Path, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    with orthanc(tmp_path / "orthanc") as server:
        server.upload(*(encoded(radiograph(f"k{i}", SeriesInstanceUID="1.2.7")) for i in range(150)))
        fetching = subprocess.Popen([sys.executable, "-c", FETCH, server.address, str(downloads.spool)])
        while len(whole(downloads)) < 20 and fetching.poll() is None:
            time.sleep(0.005)
        os.kill(fetching.pid, signal.SIGKILL)
        assert fetching.wait() == -signal.SIGKILL
        before = len(whole(downloads))
        assert 20 <= before < 150
        made = requests_made(monkeypatch)
        assert len(walk([server.address], NOWHERE, downloads)) == 150
        assert len([address for address in made if "/instances/" in address]) == 150 - before


def whole(downloads: Downloads) -> list[Path]:
    return [path for path in downloads.spool.rglob("*") if path.is_file() and not path.name.endswith(".partial")]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_the_one_part_of_an_answer_is_found_however_it_is_cut(size: int) -> None:
    body = b"DICM\r\n--x\r\n\r\n-" * 9
    answer = b"--xyz\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n--xyz--\r\n"
    chunks = [answer[i : i + size] for i in range(0, len(answer), size)]
    kind = 'multipart/related; type="application/dicom"; boundary="xyz"'
    assert b"".join(wado.only_part(kind, iter(chunks))) == body
    assert b"".join(wado.only_part("application/dicom", iter(chunks))) == answer
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        b"".join(wado.only_part(kind, iter(chunks[: -(12 // size + 1)])))
