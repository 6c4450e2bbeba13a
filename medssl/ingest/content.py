"""The voxels of one volume and what they mean: slices joined without loss."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.dicom.decode import Decoded
from medssl.dicom.geometry import Grid
from medssl.dicom.header import Header, Values
from medssl.ingest.stacks import Slice


@dataclass(frozen=True)
class Content:
    """Voxels with their meaning; ``digest`` identifies voxels and place; names as in the catalog."""

    array: NDArray[Any]
    digest: str
    spacing_mm: list[float] | None
    affine: list[float] | None
    units: str
    slope: float
    intercept: float
    window_center: float | None
    window_width: float | None
    padding: float | None
    photometric: str
    flags: frozenset[str]

    def columns(self) -> dict[str, Any]:
        """Return what the catalog says about the voxels."""
        names = [
            "spacing_mm",
            "affine",
            "units",
            "slope",
            "intercept",
            "window_center",
            "window_width",
            "padding",
            "photometric",
        ]
        is_colour = self.photometric not in ("MONOCHROME1", "MONOCHROME2")
        axes = "ZYX"[-(self.array.ndim - is_colour) :] + ("C" if is_colour else "")
        return {name: getattr(self, name) for name in names} | {
            "axes": axes,
            "shape": list(self.array.shape),
            "dtype": str(self.array.dtype),
        }


def picture(decoded: Decoded, header: Header) -> Content:
    """Return the content of an image that is a volume of its own."""
    plane, values = header.plane, header.values
    return Content(
        array=decoded.array,
        digest=digest_of(digest(decoded.array), plane.position, plane.orientation),
        spacing_mm=list(plane.spacing_mm) if plane.spacing_mm else None,
        affine=None,
        units=_units(header),
        slope=values.slope,
        intercept=values.intercept,
        window_center=decoded.window_center,
        window_width=decoded.window_width,
        padding=decoded.padding,
        photometric=header.pixels.photometric,
        flags=frozenset(),
    )


def stacked(slices: Sequence[Slice], grid: Grid) -> Content:
    """Return the content of ordered slices: as stored, or float32 after rescaling where slopes differ."""
    scales = {(one.header.values.slope, one.header.values.intercept) for one in slices}
    paddings = {one.decoded.padding for one in slices}
    middle, header = slices[len(slices) // 2].decoded, slices[0].header
    flags = set()
    (slope, intercept) = next(iter(scales))
    padding: float | None = next(iter(paddings))
    if len(scales) > 1 or len(paddings) > 1:
        array, padding = _rescaled([one.decoded for one in slices], [one.header.values for one in slices])
        slope, intercept = 1.0, 0.0
        flags.add("rescaled")
    else:
        array = np.stack([one.decoded.array for one in slices])
    return Content(
        array=array,
        digest=digest_of(*(one.digest for one in slices), *sorted(scales), *grid.affine),
        spacing_mm=list(grid.spacing_mm),
        affine=list(grid.affine),
        units=_units(header),
        slope=slope,
        intercept=intercept,
        window_center=middle.window_center,
        window_width=middle.window_width,
        padding=padding,
        photometric=header.pixels.photometric,
        flags=frozenset(flags),
    )


def digest(array: NDArray[Any]) -> str:
    """Return a hash of type, shape and voxels."""
    found = hashlib.blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def digest_of(*words: object) -> str:
    """Return a hash of words and numbers."""
    return hashlib.blake2b("\x1f".join(map(str, words)).encode(), digest_size=16).hexdigest()


def _rescaled(slices: Sequence[Decoded], values: Sequence[Values]) -> tuple[NDArray[np.float32], float | None]:
    """Rescale slice by slice; padding, no tissue at any slope, gets one value below all tissue."""
    array = np.stack(
        [one.array * np.float32(v.slope) + np.float32(v.intercept) for one, v in zip(slices, values, strict=True)]
    )
    outside = np.stack(
        [one.array == one.padding if one.padding is not None else np.zeros(one.array.shape, bool) for one in slices]
    )
    if not outside.any() or outside.all():
        return array.astype(np.float32), None
    padding = float(np.floor(array[~outside].min())) - 1
    array[outside] = padding
    return array.astype(np.float32), padding


def _units(header: Header) -> str:
    is_hu = header.acquisition.modality == "CT" and header.values.has_rescale
    return "HU" if is_hu and header.values.rescale_type in ("", "HU") else "stored"
