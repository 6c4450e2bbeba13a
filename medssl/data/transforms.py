"""The deterministic chain of MONAI transforms: orient, cut the air away, resample, fit; where voxels lie stays known.

A catalog's affine takes the voxel (x, y, z) to LPS mm, while arrays are ``C Z Y X`` and MONAI takes array indices to
RAS mm. So its columns are reversed and its first two rows negated on the way in, and again on the way out. Axes
"SAR" of an array are z to the head, y to the front, x to the right: RAS in the order (x, y, z).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from medssl.core.keys import generator
from medssl.data.prepare_config import PrepareConfig

if TYPE_CHECKING:
    from monai.data import MetaTensor

MAX_SHEAR_DEGREES = 0.5  # of axes that count as orthogonal, as where volumes are flagged "gantry_tilt"
TISSUE = 0.1  # of the prepared range: above air in CT from -1000 to 1000 HU and above the noise of MR
MARGIN = 2  # voxels of air left around tissue
NUM_POINTS = 32
RAS_ARRAY = {"axcodes": "SAR", "labels": (("L", "R"), ("P", "A"), ("I", "S"))}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Placed:
    """A prepared array ``C *S`` in [0, 1] and its place in the catalog's words; ``flags`` say what was unknown."""

    array: NDArray[np.float16]
    spacing_mm: list[float] | None
    affine: list[float] | None
    flags: frozenset[str]


def place(image: NDArray[np.float32], row: Mapping[str, Any], config: PrepareConfig) -> Placed:
    """Return ``image`` (``C *S`` in [0, 1]) as ``config`` asks, from the spacing and affine of its catalog row.

    A volume whose axes are not orthogonal (a tilted gantry) is resampled to a grid that is, first; air is outside. A
    volume without a usable affine keeps its orientation (flag ``unoriented``); without spacing, also its sampling
    (flag ``unknown_spacing``, where a spacing is asked for).
    """
    from monai.data import MetaTensor
    from monai.transforms import Orientation

    ndim = image.ndim - 1
    affine = array_affine(row["affine"]) if ndim == 3 else None
    spacing = row["spacing_mm"]
    known = np.eye(4)
    if affine is not None:
        known = affine
    elif spacing is not None:
        known[range(ndim), range(ndim)] = spacing
    placed = MetaTensor(torch.from_numpy(np.ascontiguousarray(image)), affine=torch.from_numpy(known))
    if affine is not None:
        placed = Orientation(**RAS_ARRAY)(_straight(placed))
    if config.foreground:
        placed = _without_air(placed)
    is_scaled = affine is not None or spacing is not None
    if config.spacing_mm is not None and is_scaled:
        placed = _respaced(placed, config.spacing_mm)
    placed = _fitted(placed, config)
    flags = {"unoriented"} if ndim == 3 and affine is None else set()
    flags |= {"unknown_spacing"} if config.spacing_mm is not None and not is_scaled else set()
    found = placed.affine.numpy()
    return Placed(
        array=placed.as_tensor().numpy().astype(np.float16),
        spacing_mm=_spacing(found, ndim).tolist() if is_scaled else None,
        affine=None if affine is None else catalog_affine(found),
        flags=frozenset(flags),
    )


def array_affine(affine: list[float] | None) -> NDArray[np.float64] | None:
    """Return the map from array index (z, y, x) to RAS mm; None without a catalog affine that can be inverted."""
    if affine is None:
        return None
    found: NDArray[np.float64] = (LPS_TO_RAS @ np.reshape(affine, (4, 4)))[:, [2, 1, 0, 3]]
    lengths = np.linalg.norm(found[:3, :3], axis=0)
    if not np.isfinite(found).all() or not lengths.all():
        return None
    return found if abs(np.linalg.det(found[:3, :3] / lengths)) > 1e-3 else None


def catalog_affine(affine: NDArray[np.float64]) -> list[float]:
    """Return 16 numbers, voxel (x, y, z) to LPS mm, of a map from array index (z, y, x) to RAS mm."""
    return [float(v) for v in (LPS_TO_RAS @ affine[:, [2, 1, 0, 3]]).ravel()]


def tissue_points(image: NDArray[np.float16], volume: str) -> NDArray[np.int32]:
    """Return ``NUM_POINTS ndim`` voxels of tissue of ``image`` (``C *S``), one drawn from each equal part of it.

    The same for the same volume; its middle where there is no tissue.
    """
    shape = image.shape[1:]
    tissue = np.flatnonzero((image > TISSUE).any(0))
    if not tissue.size:
        tissue = np.ravel_multi_index([[n // 2] for n in shape], shape)
    drawn = np.arange(NUM_POINTS) + generator("foreground", volume).random(NUM_POINTS)
    chosen = tissue[(drawn / NUM_POINTS * tissue.size).astype(np.int64)]
    return np.stack(np.unravel_index(chosen, shape), axis=1).astype(np.int32)


def _straight(image: MetaTensor) -> MetaTensor:
    """Resample ``C Z Y X`` whose axes lean to a grid that keeps rows, and planes where it can, and holds all of it."""
    from monai.transforms import SpatialResample

    axes = image.affine.numpy()[:3, :3]
    directions = axes / np.linalg.norm(axes, axis=0)
    if np.abs(directions.T @ directions - np.eye(3)).max() <= np.sin(np.radians(MAX_SHEAR_DEGREES)):
        return image
    right, upper = np.linalg.qr(axes[:, ::-1])  # x first: it stays; y within the planes; z becomes their normal
    grid = (right * upper.diagonal())[:, ::-1]  # in mm, for a step along z, y, x
    steps = np.linalg.solve(grid, axes)  # in voxels of the grid, for a step along the leaning axes
    ends = steps * (np.array(image.shape[1:]) - 1)  # how far each axis reaches
    low, high = np.floor(np.minimum(ends, 0).sum(1) + 1e-3), np.ceil(np.maximum(ends, 0).sum(1) - 1e-3)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid, image.affine.numpy()[:3, 3] + grid @ low
    size = tuple(int(n) + 1 for n in high - low)
    resampled: MetaTensor = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=np.float32)(
        image, dst_affine=torch.from_numpy(affine), spatial_size=size
    )
    return resampled


def _without_air(image: MetaTensor) -> MetaTensor:
    from monai.transforms import CropForeground

    if not (image > TISSUE).any():
        return image
    cropped: MetaTensor = CropForeground(lambda x: x > TISSUE, margin=MARGIN, allow_smaller=True)(image)
    return cropped


def _respaced(image: MetaTensor, spacing_mm: tuple[float, ...]) -> MetaTensor:
    """Resample linearly; axes that get coarser are smoothed first, so that no detail folds into false structure."""
    from monai.data import MetaTensor
    from monai.transforms import Spacing
    from scipy.ndimage import gaussian_filter

    factors = np.divide(spacing_mm, _spacing(image.affine.numpy(), len(spacing_mm)))
    if factors.max() > 1:
        sigma = (0.0, *np.maximum(factors - 1, 0) / 2)
        smooth = gaussian_filter(image.as_tensor().numpy(), sigma, mode="nearest", truncate=3.0)
        image = MetaTensor(torch.from_numpy(smooth), affine=image.affine)
    resampled: MetaTensor = Spacing(spacing_mm, mode="bilinear", padding_mode="border", dtype=np.float32)(image)
    return resampled


def _fitted(image: MetaTensor, config: PrepareConfig) -> MetaTensor:
    from monai.transforms import ResizeWithPadOrCrop, SpatialPad

    shape, size = config.shape, tuple(image.shape[1:])
    if config.fit == "crop":
        padded: MetaTensor = SpatialPad(shape)(image)
        return padded
    if config.fit == "stretch":
        return _resized(image, shape)
    spacing = _spacing(image.affine.numpy(), len(shape))
    extent = size * (spacing / spacing.max())  # proportions as they are in the patient
    scale = min(np.divide(shape, extent))
    target = tuple(min(max(1, round(n * scale)), limit) for n, limit in zip(extent.tolist(), shape, strict=True))
    centred: MetaTensor = ResizeWithPadOrCrop(shape)(_resized(image, target))
    return centred


def _resized(image: MetaTensor, shape: tuple[int, ...]) -> MetaTensor:
    """Average over areas along axes that shrink, interpolate linearly along those that grow."""
    from monai.transforms import Resize

    shrunk = tuple(np.minimum(shape, image.shape[1:]).tolist())
    if shrunk != tuple(image.shape[1:]):
        image = Resize(shrunk, mode="area")(image)
    if shape != shrunk:
        image = Resize(shape, mode=("linear", "bilinear", "trilinear")[len(shape) - 1])(image)
    return image


def _spacing(affine: NDArray[np.float64], ndim: int) -> NDArray[np.float64]:
    """Return the mm between neighbours along each array axis."""
    found: NDArray[np.float64] = np.linalg.norm(affine[:ndim, :ndim], axis=0)
    return found
