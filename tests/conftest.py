"""Shared fixtures: a small study, and the place of the shared real data."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test workers on two cores
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from pathlib import Path

import pytest
from hypothesis import settings
from small_pool import STUDY

settings.register_profile("medssl", deadline=None)  # no test is timed: other jobs run beside
settings.load_profile("medssl")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared real data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("MEDSSL_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("shared data absent: set MEDSSL_SHARED to the folder that holds data/ and tools/")
    return folder


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A small study over the pool ``tmp_path/pool``, which the test makes."""
    file = tmp_path / "small.yaml"
    file.write_text(STUDY.format(pool=tmp_path / "pool", workspace=tmp_path / "workspace"))
    return file
