"""A chest radiograph that never was: attenuation of invented anatomy, scatter, noise and a vendor's processing."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medssl.core.keys import generator
from medssl.dicom.phantom_anatomy import Tissue, tissue
from medssl.dicom.phantom_grid import Plane
from medssl.dicom.phantom_subject import PhantomPatient, PhantomStudy

SOFT, LUNG, BONE = 0.0190, 0.0050, 0.0330  # effective attenuation a mm near 120 kV; bone in excess of what it displaces
GLYPHS = {
    "L": ("1000", "1000", "1000", "1000", "1000", "1000", "1111"),
    "R": ("1110", "1001", "1001", "1110", "1100", "1010", "1001"),
}


def radiograph(patient: PhantomPatient, study: PhantomStudy, shape: tuple[int, int] = (256, 256)) -> Plane:
    """Return the displayed image of one study, ``Y X`` in [0, 1], bone bright.

    Args:
        patient: whose chest it is.
        study: pose, vendor and opacities.
        shape: rows and columns; the field's width is the vendor's, pixels are square.
    """
    rng = generator("phantom exposure", study.key)
    open_field = _collimator(study, shape)
    exposure = _detect(tissue(patient, study, shape), study, open_field, rng)
    log = -np.log(exposure)
    log = log + study.vendor.sharpen * (log - gaussian_filter(log, 0.012 * shape[1], truncate=2))
    image = _display(log, study, open_field)
    image = np.where(open_field > 0.5, image, np.float32(study.vendor.shutter) + 0.02 * image)
    return np.clip(_stamp(image, study), 0, 1).astype(np.float32)


def _detect(path: Tissue, study: PhantomStudy, open_field: Plane, rng: np.random.Generator) -> Plane:
    """Transmit, scatter and count: relative exposure of the detector with quantum noise."""
    direct = np.exp(-(SOFT * path.soft + LUNG * path.lung + BONE * path.bone)) * open_field
    coarse = np.minimum(direct[::4, ::4], np.float32(0.25))
    passed = np.float32(0.35)  # what the grid lets through
    scatter = passed * (_spread(direct.shape[0]) @ coarse @ _spread(direct.shape[1]).T)
    expected = direct + scatter + np.float32(2e-4)
    grain = rng.standard_normal(direct.shape, dtype=np.float32)
    if study.vendor.grain_px:
        grain = gaussian_filter(grain, study.vendor.grain_px) * np.float32(2 * np.sqrt(np.pi) * study.vendor.grain_px)
    noisy = expected + np.sqrt(expected / np.float32(study.vendor.quanta * study.dose)) * grain
    return np.asarray(np.maximum(noisy, 0.2 * expected))


@lru_cache(maxsize=8)
def _spread(num: int) -> NDArray[np.float32]:
    """Return ``num`` x ``num / 4`` Gaussian weights that take every fourth sample to its far-reaching scatter."""
    offset = (np.arange(num)[:, None] - np.arange(0, num, 4)[None, :]) / (0.07 * num)
    weights = np.exp(-(offset**2) / 2)
    return np.asarray(weights / weights.sum(1).max(), dtype=np.float32)


def _display(log: Plane, study: PhantomStudy, open_field: Plane) -> Plane:
    """Map log exposure to display values by the vendor's curve, its speed set so that the body has the aimed mean."""
    sample, inside = log[::4, ::4], open_field[::4, ::4] > 0.5
    values = sample[inside & (sample > 0.7)]  # the body alone: air around it must not set the speed
    low, high = np.percentile(values, [10, 90])
    scale = np.float32(study.vendor.contrast / max(high - low, 0.5))
    start, end = low - 1.0, high + 1.0
    for _ in range(12):
        middle = 0.5 * (start + end)
        mean = (_curve(values, middle, scale, study.vendor.toe)).mean()
        start, end = (middle, end) if mean > study.brightness else (start, middle)
    return _curve(log, 0.5 * (start + end), scale, study.vendor.toe)


def _curve(log: NDArray[np.float32], middle: float, scale: np.float32, toe: float) -> NDArray[np.float32]:
    """The S-shaped response of film."""
    return np.asarray((0.5 + 0.5 * np.tanh(0.5 * scale * (log - np.float32(middle)))) ** np.float32(toe))


def _collimator(study: PhantomStudy, shape: tuple[int, int]) -> Plane:
    """Return 1 inside the collimated field, a leak of 0.01 outside."""
    left, right, top, bottom = study.collimation
    x, y = (np.arange(shape[1]) + 0.5) / shape[1], (np.arange(shape[0]) + 0.5) / shape[0]
    inside = ((y > top) & (y < 1 - bottom))[:, None] & ((x > left) & (x < 1 - right))[None, :]
    return np.where(inside, np.float32(1), np.float32(0.01))


def _stamp(image: Plane, study: PhantomStudy) -> Plane:
    """Draw the side marker: lead, hence bright, on the named side of the patient."""
    glyph = np.array([[float(dot) for dot in row] for row in GLYPHS[study.marker]], dtype=np.float32)
    size = max(round(study.vendor.marker_mm / study.vendor.field_mm * image.shape[1] / 7), 1)
    glyph = glyph.repeat(size, 0).repeat(size, 1)
    row = round(study.marker_at[1] * image.shape[0])
    inset = round(study.marker_at[0] * image.shape[1])
    # The patient's left is the image's right.
    column = image.shape[1] - inset - glyph.shape[1] if study.marker == "L" else inset
    spot = image[row : row + glyph.shape[0], column : column + glyph.shape[1]]
    spot[:] = np.maximum(spot, 0.96 * glyph[: spot.shape[0], : spot.shape[1]])
    return image
