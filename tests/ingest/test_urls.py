"""Addresses of file systems: what lies in a bucket is ingested as from a folder, and read in parts."""

from __future__ import annotations

import os
import pickle
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from servers import s3
from synthetic_dicom import ct_slice, radiograph, save
from test_archives import NOWHERE, content, packed_zip
from test_every_source import medssl

from medssl.core.errors import MedsslError
from medssl.ingest.headers import read_header
from medssl.ingest.ingest import ingest
from medssl.ingest.sources import walk
from medssl.pool.key import Key
from medssl.pool.pool import Pool


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3() as address:
        yield address


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """An S3 file system with an empty bucket; its credentials are in the environment."""
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST"), timeout=10).close()
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "ENDPOINT_URL": server}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir("bucket")
    yield files
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def export(source: Path) -> Path:
    for z in range(4):
        save(ct_slice(z), source / "ct" / f"{9 - z}.dcm")
    save(radiograph("x"), source / "p\u00fc 1" / "IM1")
    (source / "notes.txt").write_text("no image " * 40)
    return source


def test_a_bucket_gives_the_volumes_of_the_folder(
    bucket: fsspec.AbstractFileSystem, export: Path, tmp_path: Path, key: Key
) -> None:
    bucket.put(str(export), "bucket/2024/", recursive=True)
    pools = [Pool.create(tmp_path / name, key) for name in ("plain", "remote")]
    ingest([export], pools[0], key)
    report = ingest(["s3://bucket/2024/export"], pools[1], key)
    assert report.num_files == 6
    assert content(pools[1]) == content(pools[0])
    local, remote = (pool.instances.drop("mark") for pool in pools)
    assert remote.equals(local)
    assert ingest(["s3://bucket/2024/export"], pools[1], key).num_files == 0
    done = medssl(tmp_path, "s3://bucket/2024/export", "--workers", "2", "--pool", "two")
    assert done.returncode == 0, done.stderr
    assert sorted(content(Pool.open(tmp_path / "two")).values()) == sorted(content(pools[0]).values())


def test_an_archive_in_a_bucket_is_read_where_it_lies(
    bucket: fsspec.AbstractFileSystem, export: Path, tmp_path: Path, key: Key
) -> None:
    bucket.put(str(packed_zip(export, tmp_path / "a.zip")), "bucket/a.zip")
    plain, remote = (Pool.create(tmp_path / name, key) for name in ("plain", "remote"))
    ingest([export], plain, key)
    ingest(["s3://bucket/a.zip"], remote, key)
    assert content(remote) == content(plain)


def test_a_header_costs_a_part_of_the_file_and_a_changed_object_is_noticed(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.ones((1500, 1500), np.uint16)
    bucket.pipe_file("bucket/a", save(radiograph("big", array), tmp_path / "a").read_bytes())
    (file,) = walk(["s3://bucket"], NOWHERE)
    assert (file.relative, file.num_bytes > 4_000_000) == ("bucket/a", True)
    fetched: list[int] = []
    from s3fs.core import S3File

    plain = S3File._fetch_range
    monkeypatch.setattr(S3File, "_fetch_range", lambda s, a, b: fetched.append(b - a) or plain(s, a, b))
    header, reason, _ = read_header(pickle.loads(pickle.dumps(file)))
    assert (reason, header is not None) == (None, True)
    assert sum(fetched) < 200_000
    assert file.is_unchanged()
    bucket.pipe_file("bucket/a", save(radiograph("other", array + 1), tmp_path / "b").read_bytes())
    assert not file.is_unchanged()


def test_an_object_that_is_gone_is_unreadable(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    bucket.pipe_file("bucket/a", b"x" * 300)
    (file,) = walk(["s3://bucket/a"], NOWHERE)
    bucket.rm("bucket/a")
    assert read_header(file)[1] == "unreadable"


def test_what_is_wrong_with_an_address_is_one_line_without_secrets(bucket: fsspec.AbstractFileSystem) -> None:
    for address, words in {
        "s3://bucket/nothing": "no files there",
        "s3://none/nothing": "cannot be listed|no files there",
        "s3://me:hush@bucket/x": "must not hold a user",
        "strange://a/b": "cannot be listed",
    }.items():
        with pytest.raises(MedsslError, match=words) as caught:
            walk([address], NOWHERE)
        assert "hush" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow  # s3fs tries again and again
def test_a_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(MedsslError, match="cannot be listed"):
        walk(["s3://bucket/x"], NOWHERE)


def test_other_file_systems_and_local_addresses_work_alike(export: Path, tmp_path: Path, key: Key) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(export), "/memory/export", recursive=True)
    plain = [file.relative for file in walk([export], NOWHERE)]
    assert [file.relative for file in walk(["memory://memory/export"], NOWHERE)] == plain
    assert [file.relative for file in walk([f"file://{export}"], NOWHERE)] == plain
    pools = [Pool.create(tmp_path / name, key) for name in ("plain", "memory")]
    ingest([export], pools[0], key)
    ingest(["memory://memory/export"], pools[1], key)
    assert content(pools[1]) == content(pools[0])
    memory.rm("/memory", recursive=True)


def test_keys_that_lead_upwards_are_contained(bucket: fsspec.AbstractFileSystem) -> None:
    for name in ("a//b", "c/../../d", "e\\f"):
        bucket.call_s3("put_object", Bucket="bucket", Key=f"in/{name}", Body=b"x")
    bucket.call_s3("put_object", Bucket="bucket", Key="in/folder/", Body=b"")
    assert [file.relative for file in walk(["s3://bucket/in"], NOWHERE)] == ["in/a/b", "in/c/%2E%2E/%2E%2E/d", "in/e/f"]
    assert "AWS_SECRET_ACCESS_KEY" in os.environ
