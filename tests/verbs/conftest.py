"""A small study over a pool that nobody has labelled, or everybody has, and the key that both were made with."""

from __future__ import annotations

from pathlib import Path

import pytest
from journeys import FAST
from small_pool import KEY, make_pool

from medssl.study import Study, load_study


@pytest.fixture
def study(study_file: Path, tmp_path: Path) -> Study:
    make_pool(tmp_path / "pool", labelled=False)
    return load_study(study_file, FAST)


@pytest.fixture
def labelled_study(study_file: Path, tmp_path: Path) -> Study:
    make_pool(tmp_path / "pool")
    return load_study(study_file, FAST)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(KEY.secret)
    return tmp_path / "key"
