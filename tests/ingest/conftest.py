"""Makes the synthetic objects importable, a pool and the shared data findable."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from medssl.ingest import planning
from medssl.pool.key import Key
from medssl.pool.pool import Pool

sys.path.insert(0, str(Path(__file__).parents[1] / "dicom"))

from mixed_export import write_mixed
from stacking import Case


@pytest.fixture
def key() -> Key:
    return Key(b"k" * 32)


@pytest.fixture
def pool(tmp_path: Path, key: Key) -> Pool:
    return Pool.create(tmp_path / "pool", key)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MIN_SHARD_BYTES", 20_000)


@pytest.fixture
def mixed(source: Path) -> Path:
    """An export of 12 radiographs, one CT, a copy, a cut file, a report and a text."""
    return write_mixed(source)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data and tools."""
    found = Path(os.environ.get("MEDSSL_SHARED", Path(__file__).parents[2].parent / "shared"))
    if not found.is_dir():
        pytest.skip(f"no shared data at {found}")
    return found


@pytest.fixture
def case(source: Path, pool: Pool, key: Key) -> Case:
    return Case(source, pool, key)
