"""Preparations that kill the worker of a large volume, or ask it for more memory than there is."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.pool.frames import Codec

LARGE = 10  # planes


class Deadly:
    """Kills its process as the kernel does where memory ends."""

    codec: Codec = "none"

    @property
    def settings(self) -> dict[str, Any]:
        return {"test": "deadly"}

    def takes(self, axes: str) -> bool:
        return True

    def __call__(self, voxels: NDArray[Any], row: Mapping[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
        if len(voxels) > LARGE and row["axes"] == "ZYX":
            self.large()
        return voxels, {}

    def large(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Greedy(Deadly):
    """Asks for memory until there is none."""

    def large(self) -> None:
        np.empty(1 << 60, np.uint8)
