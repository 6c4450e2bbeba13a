"""Where the phantom's pixels lie in the body, and the few shapes its anatomy is drawn with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.keys import generator
from medssl.dicom.phantom_subject import PhantomStudy

Plane = NDArray[np.float32]  # Y X


@dataclass(frozen=True)
class Grid:
    """Body coordinates of every pixel, in mm; ``x`` towards the patient's left, ``y`` towards the feet."""

    x: Plane
    y: Plane
    spacing_mm: float
    pose: NDArray[np.float64]  # 2 x 3: body mm to pixel (column, row)

    @classmethod
    def of(cls, study: PhantomStudy, shape: tuple[int, int]) -> Grid:
        """Lay the pixels of ``shape`` (rows, columns) into the body as the study's pose has it."""
        rows, columns = shape
        spacing = study.vendor.field_mm / columns
        cos, sin = np.cos(study.rotation), np.sin(study.rotation)
        turn = np.array([[cos, -sin], [sin, cos]]) * study.magnification / spacing
        centre = np.array([(columns - 1) / 2, (rows - 1) / 2]) + np.array(study.shift_mm) / spacing
        back = np.linalg.inv(turn).astype(np.float32)
        u = np.arange(columns, dtype=np.float32)[None, :] - np.float32(centre[0])
        v = np.arange(rows, dtype=np.float32)[:, None] - np.float32(centre[1])
        x, y = back[0, 0] * u + back[0, 1] * v, back[1, 0] * u + back[1, 1] * v
        return cls(x, y, spacing, np.column_stack([turn, centre]))


def noise(key: int, shape: tuple[int, int], cells: int) -> Plane:
    """Return smooth unit-variance noise with ``cells`` bumps along an edge, by cubic B-splines on a coarse lattice."""
    down, across = _splines(shape[0], cells), _splines(shape[1], cells)
    lattice = generator("phantom noise", key).standard_normal((down.shape[1], across.shape[1]), dtype=np.float32)
    return np.asarray(down @ lattice @ across.T)


@lru_cache(maxsize=32)
def _splines(num: int, cells: int) -> Plane:
    """Return ``num`` x ``cells + 3`` weights of a uniform cubic B-spline, rows of unit energy."""
    distance = np.abs(np.linspace(0, cells, num)[:, None] - np.arange(-1, cells + 2)[None, :])
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return np.asarray(weights / np.sqrt((weights**2).sum(1, keepdims=True)), dtype=np.float32)


def step(z: NDArray[np.floating[Any]], width: float) -> Plane:
    """Rise from 0 to 1 around ``z = 0`` over about ``width`` mm."""
    return np.asarray(0.5 + 0.5 * np.tanh(z / np.float32(width)), dtype=np.float32)


def dome(r2: NDArray[np.floating[Any]]) -> Plane:
    """Return the depth profile of an ellipsoid from its squared radius: 1 at the centre, 0 from the rim on."""
    return np.asarray(np.sqrt(np.maximum(1 - r2, 0)), dtype=np.float32)


def drum(r2: NDArray[np.floating[Any]]) -> Plane:
    """Return a flatter profile with a steeper rim than ``dome``."""
    return np.sqrt(dome(r2))
