"""Removal: nothing of a patient stays, whenever it is killed the pool is the old one or the new one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import blosc2
import numpy as np
import polars as pl
import pytest
from kills import killed_before
from small_pools import KEY, add, filled, holds, label, labels, voxels

from medssl.core.errors import CorruptShard, PoolError
from medssl.core.files import write_json
from medssl.pool import masks
from medssl.pool.pool import Pool
from medssl.pool.store import Store

PATIENT = KEY.hmac("patient", "1")  # of volumes 2 and 3
SHARDS = [[0, 1, 2], [3, 4], [5, 6, 7]]
LEFT = [0, 1, 4, 5, 6, 7]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Eight volumes of four patients, whose second one is in two shards, with labels of each level."""
    pool = filled(tmp_path / "pool", SHARDS)
    with pool.writing():
        lost = {"source_key": "f" * 32, "bytes": 5, "outcome": "quarantined", "reason": "truncated", "patient": PATIENT}
        pool.append(pool.catalog.volumes[:0], pl.DataFrame([lost], schema=pool.instances.schema))
    rows = [label(KEY.hmac("volume", str(n)), "a") for n in (2, 4)]
    rows += [label(KEY.hmac("study", str(n)), "b", level="study") for n in (1, 2)]
    rows += [label(KEY.hmac("series", "3"), "c", level="series"), label(PATIENT, "d", level="patient")]
    pool.add_labels(labels(*rows))
    return Pool.open(pool.path)


def prepared(pool: Pool, name: str) -> Path:
    """Make a store of all volumes, as preparation does."""
    folder = pool.path / "prepared" / name

    def write(shards: Path) -> pl.DataFrame:
        for path in pool.shards.glob("*.tar"):
            (shards / path.name).write_bytes(path.read_bytes())
        return pool.catalog.volumes

    Store.build(folder, write)
    return folder


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file below ``folder``, and every frame in it decoded."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        yield path.name, data
        start = data.find(b"b2frame")
        while path.suffix == ".tar" and start >= 0:
            header = data[start - 2 :]
            length = int.from_bytes(header[16:24], "big")
            yield path.name, blosc2.ndarray_from_cframe(header[:length])[()].tobytes()
            start = data.find(b"b2frame", start + 1)


def traces(folder: Path) -> set[str]:
    """Return which files hold pseudonyms or voxels of the patient, raw or decoded."""
    words = [PATIENT.encode(), *(KEY.hmac(level, n).encode() for level, n in (("study", "1"), ("volume", "2")))]
    frames = [np.ascontiguousarray(voxels(n)).tobytes() for n in (2, 3)]
    found = set()
    for name, data in contents(folder):
        decoded = str(pl.read_parquet(data).to_dicts()).encode() if name.endswith(".parquet") else data
        if any(word in data or word in decoded for word in words) or any(frame in data for frame in frames):
            found.add(name)
    return found


def test_the_search_finds_a_patient_who_was_not_removed(pool: Pool) -> None:
    assert traces(pool.path) >= {"00000.tar", "00001.tar", "volumes.parquet", "instances.parquet", "00000.parquet"}


def test_nothing_of_a_removed_patient_stays_and_everything_of_the_others(pool: Pool) -> None:
    prepared(pool, "abc")
    write_json(pool.path / "prepared" / "sources.json", {})
    (pool.path / "prepared" / ".def.partial").mkdir()
    removed = pool.remove([PATIENT])
    assert (removed.patients, removed.volumes, removed.files, removed.labels) == (1, 2, 3, 4)
    assert (removed.shards, removed.stores, removed.studies) == (2, 1, (KEY.hmac("study", "1"),))
    after = Pool.open(pool.path)
    assert traces(pool.path) == set()
    assert after.verify() == []
    assert after.catalog.labels["value"].to_list() == ["a", "b"]
    assert after.manifest.counts.removed_files == 3
    reader = after.reader()
    by_name = {KEY.hmac("volume", str(n)): voxels(n) for n in LEFT}
    assert after.catalog.volumes["volume"].to_list() == sorted(by_name)
    for row, name in enumerate(after.catalog.volumes["volume"]):
        assert np.array_equal(reader.read(row), by_name[name])
    assert sorted(p.name for p in after.shards.glob("*.tar")) == ["00002.tar", "00003.tar", "00004.tar"]
    assert not list((pool.path / "prepared").glob("abc"))


def test_masks_of_the_patient_go_and_others_stay(pool: Pool) -> None:
    rows = [
        {"mask": name, "volume": KEY.hmac("volume", n), "patient": KEY.hmac("patient", p), "study": "s"}
        | masks.write(masks.path_of(pool.path, name), np.ones((1, 2, 3, 4), np.uint8))
        for name, n, p in (("a" * 32, "2", "1"), ("b" * 32, "4", "2"))
    ]
    nothing = pool.catalog.volumes[:0], pool.instances[:0]
    pool.append(*nothing, pl.DataFrame(rows, schema=masks.MASKS))
    pool.remove([PATIENT])
    left = Pool.open(pool.path).masks
    assert left["mask"].to_list() == ["b" * 32]
    assert [path.stem for path in (pool.path / "masks").iterdir()] == ["b" * 32]
    assert masks.read(pool.path, "b" * 32, left["sha256"][0]).sum() == 24
    assert Pool.open(pool.path).verify() == []
    path = masks.path_of(pool.path, "b" * 32)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "differ from their checksum" in str(Pool.open(pool.path).verify()[0])
    path.rename(path.with_name("other.b2nd"))
    assert [str(p).partition(": ")[2] for p in Pool.open(pool.path).verify()] == [
        "missing",
        "no mask of the catalog is in it",
    ]


def test_the_fingerprint_is_that_of_a_pool_that_never_held_the_patient(pool: Pool, tmp_path: Path) -> None:
    pool.remove([PATIENT])
    other = filled(tmp_path / "other", [[0, 1], [4, 5, 6, 7]])
    assert Pool.open(pool.path).fingerprints.images == other.fingerprints.images


def test_a_removed_patient_can_come_again(pool: Pool) -> None:
    pool.remove([PATIENT])
    again = Pool.open(pool.path)
    add(again, [[2, 3]])
    assert holds(Pool.open(pool.path), range(8))
    assert Pool.open(pool.path).verify() == []


def test_all_patients_can_go(pool: Pool) -> None:
    pool.remove(sorted(set(pool.catalog.volumes["patient"])))
    after = Pool.open(pool.path)
    assert (len(after.catalog), after.instances.height, list(after.shards.iterdir())) == (0, 0, [])
    assert after.verify() == []


def test_an_unknown_patient_removes_nothing_and_is_not_named(pool: Pool) -> None:
    before = pool.fingerprints
    with pytest.raises(PoolError, match=r"1 of 2 patients are not in it; nothing was removed") as caught:
        pool.remove([PATIENT, "0" * 32])
    assert "0" * 32 not in str(caught.value)
    assert Pool.open(pool.path).fingerprints == before
    assert holds(Pool.open(pool.path), range(8))


def test_a_damaged_neighbour_stops_the_removal(pool: Pool) -> None:
    row = pool.catalog.volumes.filter(pl.col("volume") == KEY.hmac("volume", "4")).row(0, named=True)
    path = pool.shards / f"{row['shard']:05d}.tar"
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["length"] // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptShard, match=f"{row['volume']}.*nothing was removed"):
        pool.remove([PATIENT])
    assert Pool.open(pool.path).fingerprints == pool.fingerprints


def test_a_copy_of_a_remote_pool_is_refused(pool: Pool) -> None:
    write_json(pool.path / "remote.json", {"url": "file:///a", "fingerprints": {}, "shards": {}})
    with pytest.raises(PoolError, match="remove patients there"):
        pool.remove([PATIENT])


def removed_until(step: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Remove the patient, but die before the ``step``-th change of a name on the disk; return whether it died."""
    names = ("replace", "rename", "unlink", "mkdir", "rmdir")
    return killed_before(step, lambda: Pool.open(path).remove([PATIENT]), monkeypatch, names)


def test_killed_at_every_step_the_pool_is_the_old_or_the_new_one_and_the_next_writer_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_old, step, died = [], 0, True
    while died:
        pool = filled(tmp_path / str(step), SHARDS)
        prepared(pool, "abc")
        died = removed_until(step, pool.path, monkeypatch)
        found = Pool.open(pool.path)
        was_old.append(found.fingerprints == pool.fingerprints)
        if was_old[-1]:
            assert holds(found, range(8))
            found.remove([PATIENT])
        else:
            assert sorted(found.catalog.volumes["volume"]) == sorted(KEY.hmac("volume", str(n)) for n in LEFT)
            assert all(found.reader().read(row).size for row in range(len(LEFT)))
            with found.writing():  # finishes what is left
                pass
        assert traces(pool.path) == set()
        assert Pool.open(pool.path).verify() == []
        step += 1
    num_old = sum(was_old)
    assert was_old == [True] * num_old + [False] * (step - num_old)  # one step commits
    assert num_old > 5
    assert step - num_old > 8


def test_a_removal_that_was_killed_after_its_commit_is_named_by_verify(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = 0
    while Pool.open(pool.path).fingerprints == pool.fingerprints:
        removed_until(step, pool.path, monkeypatch)
        step += 1
    assert "an interrupted change left files to delete" in str(Pool.open(pool.path).verify()[0])


CODE = """
import os, signal, sys
from pathlib import Path
from medssl.pool.pool import Pool
replace, left = os.replace, int(sys.argv[3])
def dying(*args):
    global left
    left -= 1
    os.kill(os.getpid(), signal.SIGKILL) if left < 0 else replace(*args)
os.replace = dying
Pool.open(Path(sys.argv[1])).remove([sys.argv[2]])
"""


@pytest.mark.parametrize("step", [6, 7])
def test_a_real_kill_before_and_after_the_commit(pool: Pool, step: int) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, str(pool.path), PATIENT, str(step)], check=False)
    assert done.returncode == -signal.SIGKILL
    found = Pool.open(pool.path)
    assert len(found.catalog) == (8 if step == 6 else 6)
    if step == 6:
        found.remove([PATIENT])
    with found.writing():
        pass
    assert traces(pool.path) == set()
    assert Pool.open(pool.path).verify() == []
