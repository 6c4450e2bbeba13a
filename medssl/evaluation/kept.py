"""Predictions that are kept: a fit that learnt from the same rows before is not asked again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from medssl import __version__
from medssl.core.config import fingerprint
from medssl.core.files import atomic
from medssl.evaluation.choosing import Telling
from medssl.evaluation.problem import Fit, Floats, Problem, Rows

DAMAGED = (OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, BadZipFile)  # zipfile raises all
FORMAT = 1  # of what is kept and how fits learn; another number, or another release, makes all of it anew


@dataclass
class Kept:
    """A ``Fit`` that keeps what it predicted: one small file, which says by its name what it was made from.

    What was killed so goes on where it was, and where labels or settings changed, what changed is computed.

    Attributes:
        fit: what learns.
        problem: what is to be predicted.
        folder: of the files.
        mark: changes with all that ``fit`` depends on beside problem, rows and seed: features, weights, settings.
        seeded: whether the seed changes what ``fit`` learns from the same rows.
        told: what the last prediction chose.
        seconds: that it took, when it was made.
    """

    fit: Fit
    problem: Problem
    folder: Path
    mark: str
    seeded: bool = True
    told: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __call__(self, train: Rows, val: Rows, test: Rows, seed: int) -> Floats:
        """Return the predictions as they were kept, else compute and keep them."""
        path = self._path(train, val, test, seed)
        kept = _read(path, (len(test), self.problem.num_outputs))
        if kept is not None:
            predictions, self.seconds, self.told = kept
            return predictions
        start = time.perf_counter()
        predictions = np.asarray(self.fit(train, val, test, seed), np.float64)
        self.seconds = time.perf_counter() - start
        self.told = dict(self.fit.told) if isinstance(self.fit, Telling) else {}
        with atomic(path) as partial, partial.open("wb") as handle:
            about = np.array(json.dumps({"seconds": self.seconds, "told": self.told}))
            np.savez(handle, predictions=predictions, about=about)
        return predictions

    def _path(self, train: Rows, val: Rows, test: Rows, seed: int) -> Path:
        known = self.problem
        about = known.truth, known.names, known.kind, known.patients, known.roles, train, val, test
        seeds = seed if self.seeded else "any"
        return self.folder / f"{fingerprint(FORMAT, __version__, self.mark, seeds, *map(_digest, about))}.npz"


def _read(path: Path, shape: tuple[int, int]) -> tuple[Floats, float, Mapping[str, Any]] | None:
    """Return what was kept; None where there is nothing, or it is damaged (the archive carries checksums)."""
    try:
        with path.open("rb") as handle, np.load(handle) as file:
            predictions, about = file["predictions"], json.loads(str(file["about"]))
    except DAMAGED:
        return None
    return (predictions, about["seconds"], about["told"]) if predictions.shape == shape else None


def _digest(value: Any) -> str:
    array = np.ascontiguousarray(value)
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()
