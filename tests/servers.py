"""Real servers for tests, on free ports of the loopback: S3 (moto), Orthanc with DICOMweb, Dask; skipped if absent."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ORTHANC = "Orthanc"
ORTHANC_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
DASK = [sys.executable, "-m", "dask"]
READY_S = 60.0


@contextmanager
def s3() -> Iterator[str]:
    """Run an S3 server that takes any credentials; yield its address."""
    pytest.importorskip("moto.server")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, f"{address}/moto-api/data.json"):
        yield address


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc; ``user`` and ``password`` are blank where it asks for none."""

    port: int
    user: str = ""
    password: str = ""

    @property
    def address(self) -> str:
        """What to give to ingest."""
        return f"dicomweb+http://127.0.0.1:{self.port}/dicom-web"

    def upload(self, *files: bytes) -> None:
        """Put objects into it."""
        for data in files:
            self.ask("/instances", data)

    def ask(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        """Return what its REST API answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        if self.user:
            token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: bytes = answer.read()
        return found


@contextmanager
def orthanc(folder: Path, user: str = "", password: str = "", port: int | None = None) -> Iterator[Orthanc]:
    """Run an empty Orthanc with DICOMweb whose data lie in ``folder``."""
    program = shutil.which(ORTHANC) or shutil.which(ORTHANC, path="/usr/sbin")
    if program is None or not ORTHANC_PLUGIN.exists():
        pytest.skip("Orthanc absent: apt-get install orthanc orthanc-dicomweb")
    server = Orthanc(port or free_port(), user, password)
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": server.port,
        "RemoteAccessAllowed": False,
        "DicomServerEnabled": False,
        "MaximumStorageCacheSize": 0,  # what is gone from its disk is gone
        "Plugins": [str(ORTHANC_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "AuthenticationEnabled": bool(user),
        "RegisteredUsers": {user: password} if user else {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with _running([program, str(folder / "orthanc.json")], f"http://127.0.0.1:{server.port}/system"):
        yield server


@dataclass(frozen=True)
class Dask:
    """A scheduler and its workers, by process id."""

    address: str
    scheduler: int
    workers: list[int]


@contextmanager
def dask(folder: Path, num_workers: int) -> Iterator[Dask]:
    """Run a scheduler and workers of one thread each; any of them may be killed."""
    with ExitStack() as stack:
        address, scheduler = stack.enter_context(dask_scheduler(folder))
        workers = [stack.enter_context(dask_worker(address, folder, f"w{i}")) for i in range(num_workers)]
        yield Dask(address, scheduler, workers)


@contextmanager
def dask_scheduler(folder: Path) -> Iterator[tuple[str, int]]:
    """Run a scheduler; yield its address and process id."""
    pytest.importorskip("distributed")
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show"]
    with _started([*DASK, "scheduler", *options], folder, lambda: _listens(port)) as process:
        yield f"tcp://127.0.0.1:{port}", process


@contextmanager
def dask_worker(address: str, folder: Path, name: str, *options: str) -> Iterator[int]:
    """Run a worker that gives up a minute after its scheduler; yield its process id."""
    port = free_port()
    usual = ["--name", name, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", f"127.0.0.1:{port}"]
    usual += ["--memory-limit", "1GiB", "--local-directory", str(folder / name), "--death-timeout", "60"]
    with _started([*DASK, "worker", address, *usual, *options], folder, lambda: _listens(port)) as process:
        yield process


def free_port() -> int:
    """Return a port of the loopback that nobody listens to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def _running(command: list[str], ready: str) -> Iterator[None]:
    with _started(command, Path.cwd(), lambda: _answers(ready)):
        yield


@contextmanager
def _started(command: list[str], folder: Path, is_ready: Callable[[], bool]) -> Iterator[int]:
    """Run a server in a process group of its own, from when it is ready until the block ends."""
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # tests are importable there too
        start_new_session=True,
    )
    try:
        end = time.monotonic() + READY_S
        while not is_ready():
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{' '.join(command[:4])} does not answer")
            time.sleep(0.05)
        yield server.pid
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError as error:
        with error:
            return error.code == 401
    except OSError:
        return False
    return True
