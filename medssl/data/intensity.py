"""Stored values to [0, 1], by modality: what they mean decides what is black and what is white."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.data.prepare_config import PrepareConfig

LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601
SAMPLED = 1 << 22  # values that percentiles are taken of, at regular steps through the whole volume


def normalise(voxels: NDArray[Any], row: Mapping[str, Any], config: PrepareConfig) -> NDArray[np.float32]:
    """Return ``C *S`` float32 in [0, 1] from one stored volume and its catalog row.

    Padding, and what is no number, becomes 0. Volumes that ingest prepared already come back as they are.
    """
    if row["axes"].startswith("C"):
        return voxels.astype(np.float32)
    if row["axes"].endswith("C"):
        white = np.iinfo(voxels.dtype).max if voxels.dtype.kind in "iu" else 1
        scaled = np.moveaxis(voxels.astype(np.float32) / np.float32(white), -1, 0)
    else:
        scaled = _grey(voxels, row, config)[None]
    if len(scaled) < config.channels:
        scaled = np.repeat(scaled, config.channels, axis=0)
    elif len(scaled) > config.channels:
        scaled = np.tensordot(LUMA, scaled, 1)[None]
    return scaled.astype(np.float32)


def picture(voxels: NDArray[Any], row: Mapping[str, Any], config: PrepareConfig) -> NDArray[np.float32]:
    """Return what a person looks at: ``Y X`` or ``Y X C`` in [0, 1], full resolution, middle slice and time of a stack.

    A slice with a place is turned upright: head or face up, the patient's right side (the face, seen sideways) left.
    """
    channels = 3 if row["axes"].endswith("C") else 1
    if row["axes"].startswith("T"):
        voxels, row = voxels[len(voxels) // 2], {**row, "axes": row["axes"][1:]}
    image = normalise(voxels, row, config.model_copy(update={"channels": channels}))  # C *S
    while image.ndim > 3:
        image = image[:, image.shape[1] // 2]
    if row["affine"] is not None:
        image = _upright(image, np.reshape(row["affine"], (4, 4)))
    return np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]


def _upright(image: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Flip ``C Y X`` so that its rows run to posterior or inferior, its columns to left or posterior (LPS)."""
    runs_on = np.array([1, 1, -1])
    for axis, direction in ((1, affine[:3, 1]), (2, affine[:3, 0])):
        along = np.abs(direction).argmax()
        if direction[along] * runs_on[along] < 0:
            image = np.flip(image, axis)
    return image


def intensity_range(tissue: NDArray[np.float32], row: Mapping[str, Any], config: PrepareConfig) -> tuple[float, float]:
    """Return what maps to 0 and 1.

    The HU window of CT; the VOI window (PS3.3 C.11.2.1.2.1 and, of LINEAR_EXACT, C.11.2.1.3.2) where the study asks
    for it; ultrasound of 8 bits as the machine showed it; else percentiles, for MR of what is not 0, so that an empty
    background does not count.
    """
    if row["units"] == "HU":
        return config.window_hu
    if _has_voi(row, config):
        centre, width = row["window_center"], row["window_width"]
        if "window_linear_exact" not in row["flags"]:
            centre, width = centre - 0.5, width - 1
        return centre - width / 2, centre + width / 2
    if row["modality"] == "US" and row["dtype"] == "uint8":
        return 0.0, 255.0
    if row["modality"] == "MR":
        tissue = tissue[tissue != 0]
    if tissue.size == 0:
        return 0.0, 1.0
    low, high = np.quantile(tissue[:: -(-tissue.size // SAMPLED)], config.percentiles)
    return float(low), float(high)


def _has_voi(row: Mapping[str, Any], config: PrepareConfig) -> bool:
    """Say whether a VOI window is asked for and applies: not to values that it expects to be looked up first."""
    if config.window != "voi" or row["units"] == "HU" or row["window_width"] is None or "modality_lut" in row["flags"]:
        return False
    narrowest = 0 if {"window_linear_exact", "window_sigmoid"} & set(row["flags"]) else 1
    return bool(row["window_width"] > narrowest)


def _grey(voxels: NDArray[Any], row: Mapping[str, Any], config: PrepareConfig) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        values = voxels.astype(np.float32)
        outside = ~np.isfinite(values)
        if row["padding"] is not None:
            outside |= voxels == row["padding"]
        values = values * np.float32(row["slope"]) + np.float32(row["intercept"])
        scaled: NDArray[np.float32]
        if "window_sigmoid" in row["flags"] and _has_voi(row, config):  # PS3.3 C.11.2.1.3.1
            centre, width = np.float32(row["window_center"]), np.float32(row["window_width"])
            scaled = 1 / (1 + np.exp(-4 * (values - centre) / width))
        else:
            low, high = intensity_range(values[~outside], row, config)
            scaled = np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
    scaled[outside] = 0
    return scaled
