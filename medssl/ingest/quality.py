"""What can be seen of a volume's quality without knowing what it shows: a few words, and a perceptual hash.

The words say what to look at, never what to throw away. They come from a bounded sample, so that they cost a small part
of decoding: evenly spaced values of the whole volume, and a few whole planes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from medssl.dicom.text import LUMA, find_text
from medssl.ingest.likeness import perceptual_hash

SAMPLED = 1 << 16  # values of the whole volume; a share of 0.1 % is then known to a tenth of it
PLANES = 5  # looked at, evenly spaced
BLANK = 0.999  # of all values are one: a plate exposed to nothing, an empty field with a marker in it
SATURATED = 0.05  # of the tissue has the top value; none of 5,216 real radiographs comes near, 99 % have below 0.05 %
MIN_LEVELS = 16  # between the 1st and the 99th percentile; below 4 bits of grey a shape is seen, no texture
MIN_CORRELATION = 0.4  # of neighbouring pixels; 0 in noise, above 0.9 in images that show something
TEXT_PIXELS = 1024  # a side, at most, in which text is looked for; that costs about as much as decoding
MIN_SIDE = 32  # pixels of a plane: two by two patches of a ViT
# Axial slices of a body are surrounded by air. Where tissue fills more than a tenth of the edge of the field, anatomy
# was cut off by it (a table or a sheet crosses less). No other plane or projection ends in air by nature: not judged.
CUT = 0.1
AIR_HU = -300.0  # above is tissue
AIR_MR = 0.1  # of the 99th percentile; below is the noise of the air
PROJECTIONS = frozenset(["CR", "DX", "MG", "RG", "PX", "IO", "XA", "RF", "US", "OT", "SC", "ES", "OP", "XC"])
GEOMETRY = frozenset(["incomplete_series", "gantry_tilt", "gaps_resampled", "t_instance_number"])
NOTHING_TO_SEE = frozenset(["constant", "blank", "noise_only"])  # without a perceptual hash


def columns(voxels: NDArray[Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the catalog's ``quality`` and ``phash`` of a volume.

    Args:
        voxels: as they are stored.
        row: the volume's other columns.
    """
    axes, padding = row["axes"], row["padding"]
    sample = _sample(voxels)
    tissue = sample if padding is None else sample[sample != padding]
    planes = _planes(voxels, axes)
    words = {_emptiness(voxels, tissue)} | _greys(tissue) if tissue.size else {"blank"}
    if not words & NOTHING_TO_SEE and _correlation(planes) < MIN_CORRELATION:
        words.add("noise_only")
    if min(planes[0].shape) < MIN_SIDE:
        words.add("tiny")
    if _is_cropped(planes, tissue, row):
        words.add("cropped")
    if row["modality"] in PROJECTIONS and "Z" not in axes and find_text(planes[len(planes) // 2], TEXT_PIXELS):
        words.add("possible_text")
    words |= GEOMETRY & set(row["flags"])
    hashed = None if words & NOTHING_TO_SEE else perceptual_hash(planes[len(planes) // 2])
    return {"quality": sorted(words - {""}), "phash": hashed}


def _sample(voxels: NDArray[Any]) -> NDArray[Any]:
    """Return values at regular steps through the whole volume, a step that never stays in one column."""
    step = max(1, voxels.size // SAMPLED)
    while step > 1 and gcd(step, voxels.shape[-1] * voxels.shape[-2]) > 1:
        step += 1
    found = voxels.reshape(-1)[::step]
    return found[np.isfinite(found)] if found.dtype.kind == "f" else found


def _planes(voxels: NDArray[Any], axes: str) -> list[NDArray[Any]]:
    """Return grey planes ``Y X`` from the first to the last place, ends left out; of the middle moment."""
    if axes.startswith("T") and "Z" in axes:
        voxels = voxels[len(voxels) // 2]
    stack = voxels if axes.strip("C") not in ("YX",) else voxels[None]
    places = np.linspace(0, len(stack) - 1, PLANES + 2)[1:-1].round().astype(int)
    planes = [stack[place] for place in np.unique(places)]
    if axes.endswith("C"):
        planes = [plane[..., :3] @ np.array(LUMA, np.float32) for plane in planes]
    return [np.nan_to_num(plane, posinf=0, neginf=0) if plane.dtype.kind == "f" else plane for plane in planes]


def _emptiness(voxels: NDArray[Any], tissue: NDArray[Any]) -> str:
    counts = np.unique(tissue, return_counts=True)[1]
    if len(counts) == 1 and voxels.min() == voxels.max():
        return "constant"
    return "blank" if counts.max() > BLANK * tissue.size else ""


def _greys(tissue: NDArray[Any]) -> set[str]:
    low, high = np.percentile(tissue, [1, 99])
    words = set()
    if np.unique(tissue[(tissue >= low) & (tissue <= high)]).size < MIN_LEVELS:
        words.add("low_contrast")
    elif (tissue == tissue.max()).mean() > SATURATED:
        words.add("saturated")
    return words


def _correlation(planes: list[NDArray[Any]]) -> float:
    """Return the correlation of horizontal or vertical neighbours in the smoothest plane."""
    found = [0.0]
    for plane in planes:
        step = -(-plane.shape[0] // 128)
        rows = plane[: plane.shape[0] - 1 : step].astype(np.float64)
        below = plane[1::step][: len(rows)].astype(np.float64)
        for a, b in ((rows[:, :-1], rows[:, 1:]), (rows, below)):
            spread = float(a.std() * b.std())
            found.append(float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 0 else 0.0)
    return max(found)


def _is_cropped(planes: list[NDArray[Any]], tissue: NDArray[Any], row: Mapping[str, Any]) -> bool:
    """Say whether tissue fills the edge of axial slices: of the measured field, where padding surrounds it."""
    if row["affine"] is None or not tissue.size or not (row["units"] == "HU" or row["modality"] == "MR"):
        return False
    normal = np.reshape(row["affine"], (4, 4))[:3, 2]
    if np.abs(normal).argmax() != 2:
        return False
    if row["units"] == "HU":
        air = (AIR_HU - row["intercept"]) / row["slope"]
    else:
        air = AIR_MR * float(np.percentile(tissue, 99))
    shares = []
    for plane in planes:
        measured = plane != row["padding"] if row["padding"] is not None else np.ones(plane.shape, bool)
        edge = measured & ~binary_erosion(measured)
        shares.append(float((plane[edge] > air).mean()) if edge.any() else 0.0)
    return float(np.median(shares)) > CUT
