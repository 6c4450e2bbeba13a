"""Ingest that is killed, stopped or starved at any point, and goes on to the pool that an undisturbed run makes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from synthetic_dicom import ct_slice, radiograph, save

from medssl.core.errors import MedsslError, PoolError
from medssl.ingest import index, planning
from medssl.ingest.ingest import ingest
from medssl.ingest.work import Work
from medssl.pool.key import Key
from medssl.pool.pool import Pool

KEY = Key(b"k" * 32)
SEED = int(os.environ.get("MEDSSL_KILL_SEED", "20261121"))
CONTEXT = multiprocessing.get_context("spawn")
TOUCHING = {"open": 0, "os.rename": 1, "os.link": 1, "os.remove": 0, "os.mkdir": 0, "shutil.rmtree": 0}


def small() -> None:
    """Make chunks and shards small, so that few files are many tasks."""
    index.CHUNK, index.MAX_CHUNK, planning.MIN_SHARD_BYTES = 4, 8, 8_000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((index, "CHUNK"), (index, "MAX_CHUNK"), (planning, "MIN_SHARD_BYTES")):
        monkeypatch.setattr(module, name, getattr(module, name))
    small()


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 24 radiographs, two CT series, a copy, a cut file and a text."""
    folder = tmp_path_factory.mktemp("made") / "export"
    for i in range(24):
        elements = {"PatientID": f"MRN{i // 2}", "StudyInstanceUID": f"1.2.{i}", "SeriesInstanceUID": f"1.2.{i}.1"}
        path = save(radiograph(f"x{i}", **elements), folder / f"p{i // 2}" / f"{i}.dcm")
    (folder / "copy.dcm").write_bytes(path.read_bytes())
    for series in range(2):
        for z in range(4):
            save(ct_slice(z + 10 * series, SeriesInstanceUID=f"1.9.{series}"), folder / f"ct{series}" / str(z))
    cut = save(radiograph("cut"), folder / "cut.dcm")
    cut.write_bytes(cut.read_bytes()[:-300])
    (folder / "notes.txt").write_text("for nobody\n" * 20)
    return folder


@pytest.fixture(scope="module")
def whole(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Return the pool of a run that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((index, "CHUNK"), (index, "MAX_CHUNK"), (planning, "MIN_SHARD_BYTES")):
            patch.setattr(module, name, getattr(module, name))
        small()
        pool = Pool.create(tmp_path_factory.mktemp("whole") / "pool", KEY)
        ingest([export], pool, KEY)
    return Pool.open(pool.path)


def content(pool: Pool) -> tuple[object, ...]:
    shards = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(pool.shards.glob("*"))}
    return shards, pool.catalog.volumes.rows(), pool.instances.rows(), pool.fingerprints


def expect_same(path: Path, whole: Pool) -> None:
    """Expect the pool of an undisturbed run, and nothing beside it."""
    assert content(Pool.open(path, KEY)) == content(whole)
    assert Pool.open(path).verify() == []
    assert not Work.beside(path).folder.exists()
    assert not [p for p in path.rglob("*") if p.name.endswith(".partial")]


def _watched(export: Path, path: Path, workers: int, last: int, count: Path) -> None:
    """Ingest; when pool or work folder is touched for the ``last`` time, kill the whole process group."""
    os.setsid()
    small()
    seen, places = 0, (str(path), str(Work.beside(path).folder))

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if event in TOUCHING and str(args[TOUCHING[event]]).startswith(places):
            seen += 1
            if seen == last:
                os.killpg(0, signal.SIGKILL)

    pool = Pool.open(path, KEY)
    sys.addaudithook(hook)
    ingest([export], pool, KEY, workers=workers)
    count.write_text(str(seen))


def killed(export: Path, path: Path, last: int, workers: int = 1) -> int:
    """Run ingest in a process group of its own; return the number of touches, 0 if it was killed."""
    count = path.with_name("count")
    count.unlink(missing_ok=True)
    process = CONTEXT.Process(target=_watched, args=(export, path, workers, last, count))
    process.start()
    process.join(120)
    assert process.exitcode == (0 if count.exists() else -signal.SIGKILL)
    return int(count.read_text()) if count.exists() else 0


def expect_whole_after_a_kill(export: Path, folder: Path, whole: Pool, last: int, workers: int = 1) -> None:
    folder.mkdir()
    pool = Pool.create(folder / "pool", KEY)
    assert killed(export, pool.path, last, workers) == 0
    assert Pool.open(pool.path, KEY).instances.height in (0, whole.instances.height)
    ingest([export], Pool.open(pool.path, KEY), KEY)
    expect_same(pool.path, whole)


def touches(export: Path, folder: Path) -> int:
    """Return how often an undisturbed run touches pool and work folder."""
    folder.mkdir()
    return killed(export, Pool.create(folder / "pool", KEY).path, last=0)


def test_killed_at_three_points_and_resumed_equals_never_killed(export: Path, whole: Pool, tmp_path: Path) -> None:
    total = touches(export, tmp_path / "counting")
    for last in (total // 4, total // 2, total - 20):  # while it indexes, builds, commits
        expect_whole_after_a_kill(export, tmp_path / str(last), whole, last)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(24))
def test_killed_anywhere_and_resumed_equals_never_killed(part: int, export: Path, whole: Pool, tmp_path: Path) -> None:
    total = touches(export, tmp_path / "counting")
    last = random.Random(SEED + part).randint(part * total // 24 + 1, (part + 1) * total // 24)
    expect_whole_after_a_kill(export, tmp_path / "killed", whole, last)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_killed_with_its_workers_and_resumed_equals_never_killed(
    part: int, export: Path, whole: Pool, tmp_path: Path
) -> None:
    (tmp_path / "counting").mkdir()
    total = killed(export, Pool.create(tmp_path / "count" / "pool", KEY).path, last=0, workers=2)
    last = random.Random(SEED + part).randint(part * total // 6 + 1, (part + 1) * total // 6)
    expect_whole_after_a_kill(export, tmp_path / "killed", whole, last, workers=2)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_gets_there(export: Path, whole: Pool, tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool", KEY)
    num_kills = 0
    while not killed(export, pool.path, last=50 * (num_kills + 1)):
        num_kills += 1
    assert num_kills > 2
    expect_same(pool.path, whole)


def test_what_was_done_is_not_done_again(export: Path, whole: Pool, tmp_path: Path) -> None:
    total = touches(export, tmp_path / "counting")
    pool = Pool.create(tmp_path / "pool", KEY)
    assert killed(export, pool.path, last=total - 20) == 0
    work = Work.beside(pool.path).folder
    done = {path: path.stat().st_mtime_ns for part in ("headers", "built") for path in (work / part).rglob("*")}
    assert len(done) > 20
    kept: dict[Path, int] = {}

    def look(stage: str, done_: int, total_: int) -> None:
        kept.update((path, path.stat().st_mtime_ns) for path in done if path.is_file())

    ingest([export], Pool.open(pool.path, KEY), KEY, progress=look)
    assert kept == {path: time_ for path, time_ in done.items() if path in kept}
    assert len(kept) > 10
    expect_same(pool.path, whole)


def test_the_work_folder_is_private_says_what_it_is_and_lies_outside_the_pool(export: Path, tmp_path: Path) -> None:
    pool, seen = Pool.create(tmp_path / "pool", KEY), []

    def look(stage: str, done: int, total: int) -> None:
        folder = tmp_path / "pool.ingest"
        text = (folder / "README.txt").read_text()
        seen.append((stat.S_IMODE(folder.stat().st_mode), "original identifiers" in text))

    ingest([export], pool, KEY, progress=look)
    assert set(seen) == {(0o700, True)}
    assert not (tmp_path / "pool.ingest").exists()


def test_a_work_folder_that_others_can_open_is_refused(export: Path, tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool", KEY)
    (tmp_path / "pool.ingest").mkdir(mode=0o755)
    with pytest.raises(MedsslError, match=r"pool\.ingest: expected a folder that nobody but you can open"):
        ingest([export], pool, KEY)
    ingest([export], pool, KEY, fresh=True)


def test_stale_work_of_other_sources_is_neither_used_nor_kept(export: Path, whole: Pool, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save(radiograph("else", PatientID="MRN99"), other / "a.dcm")
    pool = Pool.create(tmp_path / "pool", KEY)
    assert killed(other, pool.path, last=14) == 0
    assert any((Work.beside(pool.path).folder / "headers").iterdir())
    ingest([export], Pool.open(pool.path, KEY), KEY)
    expect_same(pool.path, whole)


def test_a_file_that_changed_while_the_run_was_down_is_read_again(export: Path, tmp_path: Path) -> None:
    source = tmp_path / "export"
    shutil.copytree(export, source)
    total = touches(source, tmp_path / "counting")
    pool = Pool.create(tmp_path / "pool", KEY)
    assert killed(source, pool.path, last=total - 20) == 0
    save(radiograph("another"), source / "p0" / "0.dcm")
    (source / "p1" / "2.dcm").unlink()
    report = ingest([source], Pool.open(pool.path, KEY), KEY)
    fresh = Pool.create(tmp_path / "fresh", KEY)
    ingest([source], fresh, KEY)
    assert report.num_files == fresh.instances.height
    expect_same(pool.path, fresh)


@pytest.fixture
def limited() -> Iterator[None]:
    """Give back the right to write long files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


STARVED = [
    ("listing", 2_000, "cannot write there"),
    ("headers", 3_000, "write shards"),
    ("volumes", 1_000, "write there"),
]


@pytest.mark.parametrize(("stage", "most", "problem"), STARVED)
def test_files_that_cannot_be_written_are_one_line_and_the_run_goes_on_later(
    stage: str, most: int, problem: str, export: Path, whole: Pool, tmp_path: Path, limited: None
) -> None:
    pool = Pool.create(tmp_path / "pool", KEY)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(seen: str, done: int, total: int) -> None:
        if seen == stage and 0 < done == total:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))

    with pytest.raises(MedsslError, match=problem) as error:
        ingest([export], pool, KEY, progress=fill)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    expect_mendable(str(error.value), pool, export, whole)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(("stage", "_most", "problem"), STARVED)
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    stage: str, _most: int, problem: str, workers: int, export: Path, whole: Pool, disk: Path
) -> None:
    pool, ballast = Pool.create(disk / "pool", KEY), disk / "ballast"

    def fill(seen: str, done: int, total: int) -> None:
        if seen == stage and 0 < done == total:
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(b"x" * 4096)

    with pytest.raises(MedsslError, match=problem) as error:
        ingest([export], pool, KEY, workers=workers, progress=fill)
    ballast.unlink()
    expect_mendable(str(error.value), pool, export, whole)


def expect_mendable(error: str, pool: Pool, export: Path, whole: Pool) -> None:
    """Expect one line, an untouched pool, and that the same run is whole when there is room."""
    assert "\n" not in error
    assert "nothing was added; make room and run it again to go on" in error
    assert Pool.open(pool.path, KEY).instances.height == 0
    assert list(pool.shards.glob("*")) == []
    ingest([export], Pool.open(pool.path, KEY), KEY)
    expect_same(pool.path, whole)


def test_files_that_vanish_grow_or_become_unreadable_meanwhile_get_a_row(export: Path, tmp_path: Path) -> None:
    source = tmp_path / "export"
    shutil.copytree(export, source)

    def meddle(stage: str, done: int, total: int) -> None:
        if stage == "listing" and done:
            (source / "p0" / "0.dcm").unlink()
            with (source / "p0" / "1.dcm").open("ab") as file:
                file.write(b"\0" * 10)
            (source / "cut.dcm").write_bytes((source / "copy.dcm").read_bytes()[:500])
        if stage == "headers" and 0 < done == total:
            (source / "p1" / "2.dcm").unlink()
            with (source / "p1" / "3.dcm").open("ab") as file:
                file.write(b"\0" * 10)

    pool = Pool.create(tmp_path / "pool", KEY)
    report = ingest([source], pool, KEY, progress=meddle)
    reasons = {file.path: file.reason for file in report.quarantined}
    assert {name: reasons[f"export/{name}"] for name in ("p0/0.dcm", "p0/1.dcm", "cut.dcm", "p1/3.dcm")} == {
        "p0/0.dcm": "source_changed",
        "p0/1.dcm": "source_changed",
        "cut.dcm": "source_changed",
        "p1/3.dcm": "source_changed",
    }
    assert reasons["export/p1/2.dcm"] in ("source_changed", "unreadable")
    assert pool.instances.height == report.num_files == 35
    assert pool.verify() == []


def test_a_second_ingest_into_the_same_pool_is_refused_and_harms_nothing(
    export: Path, whole: Pool, tmp_path: Path
) -> None:
    pool, refused = Pool.create(tmp_path / "pool", KEY), []

    def again(stage: str, done: int, total: int) -> None:
        if stage == "headers" and not refused:
            with pytest.raises(PoolError, match="another process is writing to this pool") as error:
                ingest([export], Pool.open(pool.path, KEY), KEY, fresh=True)
            refused.append(str(error.value))

    ingest([export], pool, KEY, progress=again)
    assert "\n" not in refused[0]
    expect_same(pool.path, whole)


def _stopped(export: Path, folder: Path, last: int, how: int) -> None:
    """Run the command line; when the work folder is touched for the ``last`` time, send this process a signal."""
    from medssl import cli

    os.chdir(folder)
    small()
    seen = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if event in TOUCHING and str(args[TOUCHING[event]]).startswith(str(folder / "pool")):
            seen += 1
            if seen == last:
                os.kill(os.getpid(), how)

    sys.addaudithook(hook)
    sys.argv = ["medssl", "ingest", str(export), "--pool", str(folder / "pool"), "--key", str(folder / "key"), "--json"]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        cli.main()


TERM, INTERRUPT = (signal.SIGTERM, 75, "preempted"), (signal.SIGINT, 130, "failed")


@pytest.mark.parametrize(
    ("told", "last"),
    [
        (TERM, 45),
        pytest.param(INTERRUPT, 15, marks=pytest.mark.slow),
        *(pytest.param(t, n, marks=pytest.mark.slow) for t in (TERM, INTERRUPT) for n in (25, 90)),
    ],
)
def test_a_run_that_is_told_to_stop_says_so_and_goes_on_later(
    told: tuple[int, int, str], last: int, export: Path, whole: Pool, tmp_path: Path
) -> None:
    how, code, status = told
    (tmp_path / "key").write_bytes(KEY.secret)
    process = CONTEXT.Process(target=_stopped, args=(export, tmp_path, last, how))
    process.start()
    process.join(120)
    err = (tmp_path / "err").read_text()
    assert process.exitcode == code, err
    assert "Traceback" not in err
    (run,) = (tmp_path / "workspace" / "runs").iterdir()
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert lines[-1]["type"] == "finish"
    assert lines[-1]["status"] == status
    assert lines[0]["params"]["rules"] == {"allow_gaps": False, "burned_in": "quarantine", "follow_links": False}
    assert Pool.open(tmp_path / "pool").instances.height == 0
    ingest([export], Pool.open(tmp_path / "pool", KEY), KEY)
    expect_same(tmp_path / "pool", whole)


def test_identifiers_of_the_work_folder_never_reach_the_pool(export: Path, tmp_path: Path) -> None:
    total = touches(export, tmp_path / "counting")
    pool = Pool.create(tmp_path / "pool", KEY)
    assert killed(export, pool.path, last=total // 2) == 0
    work = b"".join(path.read_bytes() for path in Work.beside(pool.path).folder.rglob("*") if path.is_file())
    assert b"MRN" in work  # the positive control
    assert b"MRN" not in b"".join(path.read_bytes() for path in pool.path.rglob("*") if path.is_file())
