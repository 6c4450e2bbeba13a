"""A pool: refused when it is not one, extended whole or not at all, the same whatever the order of ingestion."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from small_pools import KEY, add, filled, holds, ingest, label, labels

from medssl.core.errors import LabelError, PoolError
from medssl.pool.catalog import INSTANCES, VOLUMES, empty
from medssl.pool.key import Key
from medssl.pool.pool import Pool

OTHER = Key(b"o" * 32)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return filled(tmp_path / "pool", [[0, 1, 2], [3, 4]])


def test_an_empty_pool_opens_and_reads(tmp_path: Path) -> None:
    Pool.create(tmp_path / "pool", KEY)
    pool = Pool.open(tmp_path / "pool", KEY)
    assert len(pool.catalog) == len(pool.reader()) == pool.instances.height == pool.next_shard() == 0
    assert pool.verify() == []
    assert pool.info().volumes == 0


def test_a_pool_lies_on_disk_as_documented(pool: Pool) -> None:
    pool.add_labels(labels(label("ab", "yes")))
    files = {str(path.relative_to(pool.path)) for path in pool.path.rglob("*") if path.is_file()}
    tables = {"catalog/volumes.parquet", "catalog/instances.parquet", "catalog/labels/00000.parquet"}
    assert files == {"pool.json", ".lock", "shards/00000.tar", "shards/00001.tar"} | tables
    written = json.loads((pool.path / "pool.json").read_text())
    assert written["counts"] == {"volumes": 5, "instances": 5, "label_parts": 1, "masks": 0, "removed_files": 0}
    assert written["key"] == KEY.fingerprint
    assert written["settings"]["roles"] == {"dev": 0.7, "val": 0.1, "test": 0.2}
    assert KEY.secret not in (pool.path / "pool.json").read_bytes()


def test_appended_volumes_are_read_back_by_every_handle(pool: Pool) -> None:
    assert pool.next_shard() == 2
    add(pool, [[5, 6, 7]])
    assert holds(pool, range(8))
    assert holds(Pool.open(pool.path), range(8))
    assert pool.next_shard() == 3
    assert pool.instances.height == 8


def test_a_handle_opened_before_another_writer_appended_extends_what_is_there_now(pool: Pool) -> None:
    older = Pool.open(pool.path)
    add(pool, [[5]])
    add(older, [[6]])
    assert holds(Pool.open(pool.path), range(7))


def test_the_fingerprint_depends_on_voxels_alone_not_on_shards_or_order(tmp_path: Path) -> None:
    one = filled(tmp_path / "one", [[0, 1, 2], [3, 4]])
    two = filled(tmp_path / "two", [[4, 0], [2], [1]])
    add(two, [[3]])
    assert one.fingerprints == two.fingerprints
    assert filled(tmp_path / "less", [[0, 1, 2, 3]]).fingerprints.images != one.fingerprints.images


@pytest.mark.parametrize("name", ["absent", "folder", "file"])
def test_what_is_no_pool_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(PoolError, match=r"not a pool \(no pool.json\)") as error:
        Pool.open(tmp_path / name)
    assert "\n" not in str(error.value)
    assert "medssl ingest" in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("[]", "not written by medssl"),
        ('{"version": 1}', "not written by medssl"),
        ('{"format": "medssl pool", "version": 2}', "format version 2, this medssl reads version 1"),
        ('{"format": "medssl pool", "version": 1}', "key is missing or wrong"),
    ],
)
def test_an_unreadable_or_foreign_pool_file_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pool.json").write_text(text)
    with pytest.raises(PoolError, match=says) as error:
        Pool.open(tmp_path)
    assert "\n" not in str(error.value)


def test_another_key_is_refused_and_named_by_its_fingerprint(pool: Pool) -> None:
    assert holds(Pool.open(pool.path, KEY), range(5))
    with pytest.raises(PoolError, match=f"{KEY.fingerprint}, got {OTHER.fingerprint}"):
        Pool.open(pool.path, OTHER)
    with pytest.raises(PoolError, match="made with the key"):
        pool.role_of("ab", OTHER)


def test_a_pool_is_not_made_over_anything(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    for path in (pool.path, tmp_path / "full", tmp_path / "full" / "letter.txt"):
        with pytest.raises(PoolError, match="expected a new or empty folder"):
            Pool.create(path, KEY)


def test_repeated_volumes_and_files_are_refused_and_nothing_is_added(pool: Pool) -> None:
    volumes, instances = ingest(pool, [[5]])
    again, again_instances = pool.catalog.volumes.head(1), pool.instances.head(1)
    for bad in ((pl.concat([volumes, again]), instances), (volumes, pl.concat([instances, again_instances]))):
        with pytest.raises(PoolError, match=r"nothing was added; .*repeated"):
            pool.append(*bad)
    assert holds(Pool.open(pool.path), range(5))
    pool.append(volumes, instances)
    assert holds(Pool.open(pool.path), range(6))


def test_rows_that_break_a_promise_are_refused(pool: Pool) -> None:
    volumes, instances = ingest(pool, [[6]])
    known = pl.lit(pool.catalog.volumes["patient"][0]).alias("patient")
    role_there = pl.lit("test" if pool.catalog.volumes["role"][0] != "test" else "dev").alias("role")
    cases = [
        (volumes.with_columns(known, role_there), instances, "1 patients in two roles"),
        (volumes.with_columns(pl.lit("train").alias("role")), instances, "unknown role"),
        (volumes, empty(INSTANCES), "volumes have no stored instance"),
        (empty(VOLUMES), instances, "stored instances point to no volume"),
        (volumes, instances.with_columns(pl.lit("lost").alias("outcome")), "unknown outcome"),
        (volumes.with_columns(pl.lit("1.2.840.1").alias("volume")), instances, "no keyed hash"),
        (volumes.with_columns(pl.lit(None, pl.String).alias("sha256")), instances, "without a value in sha256"),
        (volumes.with_columns(pl.lit(7, pl.Int32).alias("shard")), instances, "00007.tar: missing or too short"),
        (volumes.with_columns(pl.lit(1 << 40).alias("length")), instances, "00002.tar: missing or too short"),
    ]
    for bad_volumes, bad_instances, says in cases:
        with pytest.raises(PoolError, match=says):
            pool.append(bad_volumes, bad_instances)
    assert holds(Pool.open(pool.path), range(5))


def test_tables_of_another_schema_are_refused_by_column(pool: Pool) -> None:
    volumes, instances = ingest(pool, [[5]])
    with pytest.raises(PoolError, match=r"missing columns \['age'\], unknown columns \['years'\]"):
        pool.append(volumes.rename({"age": "years"}), instances)
    with pytest.raises(PoolError, match="column 'bytes' holds String, expected Int64"):
        pool.append(volumes, instances.cast({"bytes": pl.String}))
    pool.append(volumes.select(sorted(VOLUMES)).with_columns(pl.lit(None).alias("site")), instances)
    assert holds(pool, range(6))


CRASH = """
import os, sys
sys.path.insert(0, sys.argv[4])
from pathlib import Path
from small_pools import add, label, labels
from medssl.pool.pool import Pool
pool, calls, replace = Pool.open(Path(sys.argv[1])), [], os.replace
def crash(source, target):
    calls.append(target)
    if len(calls) == int(sys.argv[3]): os._exit(9)
    replace(source, target)
os.replace = crash
add(pool, [[5], [6]]) if sys.argv[2] == "append" else pool.add_labels(labels(label("cd", "no")))
"""


@pytest.mark.parametrize(
    ("doing", "stage"), [*(("append", stage) for stage in range(1, 6)), ("labels", 1), ("labels", 2)]
)
def test_a_crash_before_any_rename_leaves_the_old_pool_and_the_next_try_succeeds(
    pool: Pool, doing: str, stage: int
) -> None:
    pool.add_labels(labels(label("ab", "yes")))
    before = Pool.open(pool.path).fingerprints
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", CRASH, pool.path, doing, str(stage), here])
    assert done.returncode == 9
    left = Pool.open(pool.path)
    assert holds(left, range(5))
    assert left.catalog.labels.height == 1
    assert left.fingerprints == before
    assert {problem.text.split(";")[0] for problem in left.verify()} <= {"no volume is in it"}
    add(left, [[5], [6]])
    assert left.add_labels(labels(label("cd", "no"))) == 1
    assert left.verify() == []
    assert holds(Pool.open(pool.path), range(7))


def test_what_killed_writers_left_is_removed_and_what_others_are_writing_is_not(pool: Pool) -> None:
    left, living = pool.shards / ".00005.tar.1.partial", pool.shards / ".00006.tar.2.partial"
    for path, age in ((left, 2 * 3600), (living, 60)):
        path.write_text("half")
        os.utime(path, (time.time() - age,) * 2)
    with pool.writing():
        assert not left.exists()
        assert living.exists()


def test_a_second_writer_is_refused_in_one_line_and_readers_are_not(pool: Pool) -> None:
    with pool.writing(), pool.writing():
        other = Pool.open(pool.path)
        assert holds(other, range(5))
        with pytest.raises(PoolError, match="another process is writing to this pool"):
            other.append(empty(VOLUMES), empty(INSTANCES))
        with pytest.raises(PoolError, match="another process is writing to this pool"):
            other.add_labels(labels(label("ab", "yes")))
    assert other.add_labels(labels(label("ab", "yes"))) == 1


def test_labels_are_appended_in_parts_and_exact_repeats_left_out(pool: Pool) -> None:
    name = pool.catalog.volumes["volume"][0]
    first = labels(label(name, "yes"), label(name, "yes"), label(name, "yes", annotator="a"))
    assert pool.add_labels(first) == 2
    part = pool.path / "catalog/labels/00000.parquet"
    before = part.read_bytes()
    assert pool.add_labels(first) == 0
    later = labels(label(name, "yes", time="2025-01-01T00:00:00Z"), label(name, "no", time="2025-01-01T00:00:00Z"))
    assert Pool.open(pool.path).add_labels(later) == 1
    assert part.read_bytes() == before
    found = Pool.open(pool.path).catalog
    assert found.labels["value"].to_list() == ["yes", "yes", "no"]
    assert found.targets("finding").rows() == [(name, "no")]


def test_labels_change_their_own_fingerprint_alone_and_the_clock_does_not(tmp_path: Path) -> None:
    one, two = (filled(tmp_path / name, [[0, 1]]) for name in ("one", "two"))
    unlabelled = one.fingerprints
    one.add_labels(labels(label("ab", "yes"), label("cd", "no")))
    two.add_labels(labels(label("cd", "no", time="2025-05-05T00:00:00Z")))
    assert two.fingerprints.labels != one.fingerprints.labels != unlabelled.labels
    two.add_labels(labels(label("ab", "yes", time="2026-05-05T00:00:00Z")))
    assert one.fingerprints == two.fingerprints
    assert one.fingerprints.images == unlabelled.images


def test_a_label_of_an_unknown_level_is_refused_by_row(pool: Pool) -> None:
    with pytest.raises(LabelError, match="row 1 has an unknown level"):
        pool.add_labels(labels(label("ab", "yes"), label("cd", "yes", level="person")))
    assert pool.catalog.labels.height == 0


def test_a_pool_can_be_pickled(pool: Pool) -> None:
    assert holds(pickle.loads(pickle.dumps(pool)), range(5))


def test_info_counts_what_the_pool_holds(pool: Pool) -> None:
    dropped = pl.DataFrame(
        [{"source_key": "f", "bytes": 3, "outcome": "excluded", "reason": "scout"}], schema=INSTANCES
    )
    pool.append(empty(VOLUMES), dropped)
    volumes = pool.catalog.volumes
    pool.add_labels(labels(*(label(v, "yes" if i else "no") for i, v in enumerate(volumes["volume"]))))
    info = pool.info()
    assert (info.patients, info.studies, info.volumes, info.files, info.input_bytes) == (3, 3, 5, 6, 53)
    assert info.stored_bytes == sum(path.stat().st_size for path in (pool.path / "shards").iterdir())
    assert [(o.outcome, o.reason, o.files) for o in info.outcomes] == [("excluded", "scout", 1), ("stored", None, 5)]
    assert [(s.scanner, s.volumes) for s in info.scanners] == [("Maker 0", 3), ("Maker 1", 2)]
    for amount in info.amounts:
        part = volumes.filter(pl.col("role") == amount.role, pl.col("modality") == amount.modality)
        assert (amount.patients, amount.volumes) == (part["patient"].n_unique(), part.height)
    assert sum(amount.volumes for amount in info.amounts) == sum(found.volumes for found in info.labels) == 5
    assert {(found.task, found.value) for found in info.labels} == {("finding", "no"), ("finding", "yes")}
    assert info.fingerprints == pool.fingerprints
