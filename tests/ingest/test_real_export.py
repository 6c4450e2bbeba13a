"""A messy export of real radiographs: every planted file ends as its ground truth says."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medssl.core.types import Outcome
from medssl.ingest.ingest import ingest
from medssl.ingest.labels import LabelFile
from medssl.pool.key import Key
from medssl.pool.pool import Pool

EXPECTED = {"image": "stored", "duplicate": "duplicate", "truncated": "quarantined", "non_image": "non_image"}


@pytest.fixture(scope="module")
def export(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "export"
    tool, images = shared / "tools" / "cxr_to_dicom.py", shared / "data" / "chest_xray_224"
    command = [sys.executable, str(tool), str(images), str(folder), "--limit", "120", "--truncated", "40"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def truth(export: Path) -> list[dict[str, str]]:
    with (export / "ground_truth.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def key() -> Key:
    return Key(b"real" * 8)


@pytest.fixture(scope="module")
def pool(export: Path, key: Key, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    pool = Pool.create(tmp_path_factory.mktemp("pool") / "pool", key)
    labels = LabelFile.read(export / "ground_truth.csv", ["finding=label"])
    report = ingest([export], pool, key, labels=labels, workers=2)
    assert report.num_files == report.count(Outcome.STORED) + 8 + 40 + 5 + 1
    assert (report.num_labels, report.num_labels_not_stored) == (120, 45)
    assert pool.verify() == []
    return pool


def test_every_planted_file_has_the_right_outcome(pool: Pool, key: Key, truth: list[dict[str, str]]) -> None:
    rows = {row["source_key"]: row for row in pool.instances.to_dicts()}
    assert len(rows) == len(truth) + 1
    for row in truth:
        found = rows[key.hmac("source", f"export/{row['path']}")]
        assert found["outcome"] == EXPECTED[row["kind"]]
        assert row["kind"] != "truncated" or found["reason"] == "truncated"
        assert row["kind"] != "non_image" or found["reason"] == "report_object"
    assert rows[key.hmac("source", "export/ground_truth.csv")]["outcome"] == "non_image"


def test_patients_and_labels_are_those_of_the_truth(pool: Pool, key: Key, truth: list[dict[str, str]]) -> None:
    images = [row for row in truth if row["kind"] == "image"]
    assert pool.catalog.volumes["patient"].n_unique() == len({row["patient_id"] for row in images})
    volumes = dict(pool.instances.drop_nulls("volume").select("source_key", "volume").iter_rows())
    labels = dict(pool.catalog.targets("finding").iter_rows())
    for row in images:
        assert labels[volumes[key.hmac("source", f"export/{row['path']}")]] == row["label"]


def test_pixels_equal_the_source_whatever_syntax_and_polarity(
    pool: Pool, key: Key, truth: list[dict[str, str]], shared: Path
) -> None:
    chosen = {row["source"]: row for row in truth if row["kind"] == "image"}
    at = {volume: i for i, volume in enumerate(pool.catalog.volumes["volume"])}
    volumes = dict(pool.instances.select("source_key", "volume").iter_rows())
    reader, seen = pool.reader(), set()
    with tarfile.open(shared / "data" / "chest_xray_224" / "images.tar") as archive:
        for name, row in list(chosen.items())[:60]:
            handle = archive.extractfile(name)
            assert handle is not None
            grey = np.asarray(Image.open(io.BytesIO(handle.read())).convert("L"))
            found = reader.read(at[volumes[key.hmac("source", f"export/{row['path']}")]]).astype(np.int64)
            assert np.array_equal((found * 255 + 2047) // 4095, grey), name
            seen.add((row["transfer_syntax"], row["photometric"]))
    assert len(seen) == 8


def test_the_catalog_describes_the_radiographs(pool: Pool) -> None:
    volumes = pool.catalog.volumes
    assert set(volumes["modality"]) == {"DX", "CR"}
    assert set(volumes["body_part"]) == {"CHEST"}
    assert set(volumes["view"]) == {"PA", "AP"}
    assert set(volumes["dtype"]) == {"uint16"}
    assert volumes["scanner"].n_unique() == 6
    assert volumes["site"].n_unique() == 2
    assert volumes.filter(pl.col("age").is_null() | pl.col("day").is_null()).height == 0
    windows = volumes.group_by("photometric").agg(pl.col("window_center").unique().sort())
    # The export mirrors a centre c of 12 bits to 4095 - c; the mirror image of a LINEAR window lies at 4096 - c.
    assert dict(windows.iter_rows()) == {"MONOCHROME1": [1901, 2001, 2049], "MONOCHROME2": [1900, 2000, 2048]}
    assert volumes["spacing_mm"].to_list()[0] == [1.5, 1.5]


def test_nothing_of_the_truth_is_in_the_pool(pool: Pool, truth: list[dict[str, str]]) -> None:
    text = "\n".join(
        str(value) for path in pool.path.rglob("*.parquet") for row in pl.read_parquet(path).rows() for value in row
    )
    raw = b"".join(path.read_bytes() for path in pool.path.rglob("*") if path.is_file()).decode("latin1")
    for row in truth:
        for secret in (row["patient_id"], row["sop_uid"], row["study_uid"], row["path"]):
            assert secret not in text
            assert secret not in raw
