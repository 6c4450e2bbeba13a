"""Makes the synthetic objects importable, and the shared data findable."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def shared_dicom() -> Path:
    """The folder of single DICOM files from public test collections."""
    default = Path(__file__).parents[2].parent / "shared"
    found = Path(os.environ.get("MEDSSL_SHARED", default)) / "data" / "dicom_files"
    if not found.is_dir():
        pytest.skip(f"no shared data at {found}")
    return found
