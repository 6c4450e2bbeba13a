"""A real Dask scheduler with real workers: the same pool as from local processes, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Dask, dask, dask_scheduler, dask_worker
from synthetic_dicom import ct_slice, radiograph, save

from medssl.core.errors import MedsslError
from medssl.ingest import cluster, planning
from medssl.ingest.cluster import Cluster
from medssl.ingest.ingest import ingest
from medssl.ingest.work import Work
from medssl.pool.key import Key
from medssl.pool.pool import Pool

pytest.importorskip("distributed", reason="dask is not installed: pip install 'medssl[dask]'")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    with dask(tmp_path_factory.mktemp("dask"), num_workers=2) as found:
        yield found


@pytest.fixture
def many(source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export of 60 radiographs and two CT series, planned as many small shards."""
    monkeypatch.setattr(planning, "MIN_SHARD_BYTES", 5_000)
    for i in range(60):
        elements = {"PatientID": f"MRN{i // 2}", "StudyInstanceUID": f"1.2.{i}", "SeriesInstanceUID": f"1.2.{i}.1"}
        save(radiograph(f"x{i}", **elements), source / f"p{i // 2}" / f"{i}.dcm")
    for series in ("a", "b"):
        for z in range(5):
            save(ct_slice(z + ord(series), SeriesInstanceUID=f"1.9.{ord(series)}"), source / series / str(z))
    (source / "notes.txt").write_text("nothing to see " * 20)
    return source


def square(number: int) -> int:
    return number * number


def die_at_three(number: int) -> int:
    if number == 3 and "--nthreads" in Path("/proc/self/cmdline").read_text():  # never here, where it is tried alone
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    raise ValueError(number)


def rows(pool: Pool) -> tuple[object, ...]:
    return (*pool.catalog.volumes.rows(), *pool.instances.rows(), pool.fingerprints)


def test_results_come_in_order_and_exceptions_are_raised_here(started: Dask, tmp_path: Path) -> None:
    with Cluster(started.address, tmp_path) as workers:
        assert list(workers.run(square, range(50))) == [n * n for n in range(50)]
        assert list(workers.run(square, [])) == []
        assert workers.num == 2
        with pytest.raises(ValueError, match=r"^0$"):
            list(workers.run(fail, range(4)))


def test_a_cluster_makes_the_pool_that_local_processes_make(
    started: Dask, many: Path, tmp_path: Path, key: Key
) -> None:
    here, there = (Pool.create(tmp_path / name, key) for name in ("here", "there"))
    ingest([many], here, key)
    with Cluster(started.address, there.path) as workers:
        report = ingest([many], there, key, workers=workers)
    assert report.num_volumes == 62
    assert rows(here) == rows(there)
    assert there.verify() == []


def test_a_worker_killed_in_the_middle_changes_nothing(many: Path, tmp_path: Path, key: Key) -> None:
    here, there = (Pool.create(tmp_path / name, key) for name in ("here", "there"))
    ingest([many], here, key)
    with dask(tmp_path, num_workers=2) as found:

        def kill(stage: str, done: int, total: int) -> None:
            if stage == "volumes" and done >= total // 3 and not killed:
                killed.append(found.workers[0])
                os.kill(found.workers[0], signal.SIGKILL)

        killed: list[int] = []
        with Cluster(found.address, there.path) as workers:
            ingest([many], there, key, workers=workers, progress=kill)
            assert len(workers._client.nthreads()) == 1
        assert killed
    assert rows(here) == rows(there)
    assert there.verify() == []


@pytest.mark.slow
def test_a_run_whose_workers_are_all_gone_ends_with_one_line_and_goes_on_later(
    many: Path, tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "WAIT_S", 2.0)
    monkeypatch.setattr(cluster, "POLL_S", 0.5)
    here, there = (Pool.create(tmp_path / name, key) for name in ("here", "there"))
    ingest([many], here, key)
    with dask(tmp_path, num_workers=1) as found:

        def kill(stage: str, done: int, total: int) -> None:
            if stage == "volumes" and done:
                for worker in found.workers:
                    if Path(f"/proc/{worker}").exists():
                        os.kill(worker, signal.SIGKILL)

        said = "all workers are gone since 2 s; what is done is kept"
        with pytest.raises(MedsslError, match=said), Cluster(found.address, there.path) as workers:
            ingest([many], there, key, workers=workers, progress=kill)
    assert there.instances.height == 0
    done = list((Work.beside(there.path).folder / "built").glob("*.json"))
    assert done
    before = {path: path.stat().st_mtime_ns for path in done}
    seen: dict[Path, int] = {}

    def look(stage: str, done: int, total: int) -> None:
        seen.update((path, path.stat().st_mtime_ns) for path in before if path.exists())

    ingest([many], there, key, progress=look)
    assert seen == before
    assert rows(here) == rows(there)


@pytest.mark.slow
def test_a_scheduler_that_goes_away_ends_the_run_with_one_line(
    many: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    with dask(tmp_path, num_workers=1) as found, Cluster(found.address, pool.path) as workers:

        def kill(stage: str, done: int, total: int) -> None:
            if stage == "headers":
                os.kill(found.scheduler, signal.SIGKILL)

        begun = time.monotonic()
        with pytest.raises(MedsslError, match="the scheduler is gone"):
            ingest([many], pool, key, workers=workers, progress=kill)
        assert time.monotonic() - begun < 60


@pytest.mark.slow
def test_a_task_that_kills_its_workers_is_tried_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
    with dask(tmp_path, num_workers=3) as found, Cluster(found.address, tmp_path) as workers:
        assert list(workers.run(die_at_three, range(6))) == [0, 1, 2, 3, 4, 5]
        assert len(workers._client.nthreads()) == 1


@pytest.mark.slow
def test_workers_unlike_this_process_are_refused(
    started: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(MedsslError, match="another medssl or other libraries"):
        patch.setattr(cluster, "code_version", lambda: "another")
        with Cluster(started.address, tmp_path):
            pass
    with dask_scheduler(tmp_path) as (address, _):
        with monkeypatch.context() as patch, pytest.raises(MedsslError, match="no workers; start `dask worker"):
            patch.setattr(cluster, "WAIT_S", 0.5)
            with Cluster(address, tmp_path):
                pass
        with (
            dask_worker(address, tmp_path, "wide", "--nthreads", "2"),
            pytest.raises(MedsslError, match="2 threads; start workers with --nthreads 1"),
            Cluster(address, tmp_path),
        ):
            pass
    with pytest.raises(MedsslError, match="no Dask scheduler there"), Cluster("tcp://127.0.0.1:9", tmp_path):
        pass


def test_workers_that_do_not_see_the_disk_are_refused(
    started: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_look", look_away)
    with pytest.raises(MedsslError, match="does not see"), Cluster(started.address, tmp_path):
        pass


def look_away(token: str) -> tuple[str, bool]:
    return cluster._look(token + ".elsewhere")
