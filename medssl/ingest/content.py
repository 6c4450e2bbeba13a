"""The voxels of one volume and what they mean: filled slice by slice, without loss."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.dicom.burned_in import MASKED
from medssl.dicom.decode import Decoded
from medssl.dicom.geometry import SPACING_TOLERANCE, Grid, plane_affine
from medssl.dicom.header import WINDOW_FLAGS, Frame, Header, Values
from medssl.dicom.reasons import DicomProblem, Reason

Index = tuple[int, ...]


DIGITS = 32  # of a digest


@dataclass(frozen=True)
class Content:
    """Voxels with their meaning; ``digest`` identifies voxels and place; names as in the catalog.

    ``has_time`` says whether the first axis of ``array`` is time.
    """

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
    has_time: bool = False
    times: list[float] | None = None
    slices_mm: list[float] | None = None

    def columns(self) -> dict[str, Any]:
        """Return what the catalog says about the voxels."""
        others = ("array", "digest", "flags", "has_time")
        is_colour = self.photometric not in ("MONOCHROME1", "MONOCHROME2")
        space = "ZYX"[-(self.array.ndim - is_colour - self.has_time) :]
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in others} | {
            "axes": "T" * self.has_time + space + "C" * is_colour,
            "shape": list(self.array.shape),
            "dtype": str(self.array.dtype),
        }


class Canvas:
    """The array of one volume, made when its first slice comes and filled one slice after the other.

    Slices are kept as stored where all have one slope, intercept and padding; else, and where they are to be resampled,
    as float32 after rescaling, padding (no tissue at any slope) as one value below all tissue.
    """

    def __init__(self, frames: Sequence[Frame], shape: Index, grid: Grid | None) -> None:
        """Prepare for ``frames`` in an array ``*shape Y X [C]``, ``shape`` being ``T Z`` with a grid, else ``T``."""
        self.shape, self.grid = shape, grid
        self.middle = (0, shape[1] // 2) if grid is not None else (shape[0] // 2,)  # its window is that of all
        self.scales = sorted({(frame.values.slope, frame.values.intercept) for frame in frames})
        paddings = {frame.values.padding for frame in frames}
        self.is_rescaled = len(self.scales) > 1 or len(paddings) > 1 or bool(grid and grid.slices_mm)
        self.digests: dict[Index, str] = {}
        self.seen: dict[Index, Decoded] = {}  # the first slice and the middle one
        self.is_masked = False

    def put(self, index: Index, decoded: Decoded, values: Values) -> None:
        """Fill in the slice at ``index``.

        Raises:
            DicomProblem: it is of another kind than the slices before.
        """
        if not self.seen:
            self.is_rescaled &= decoded.array.ndim == 2  # colours have no slope
            kind = np.dtype(np.float32) if self.is_rescaled else decoded.array.dtype
            self.array = np.empty((*self.shape, *decoded.array.shape), kind)
        if not self.seen or index == self.middle:
            self.seen[index] = decoded
        first = next(iter(self.seen.values()))
        is_alike = (decoded.array.dtype, decoded.array.shape) == (first.array.dtype, first.array.shape)
        if not is_alike or (decoded.padding != first.padding and not self.is_rescaled):
            raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
        self.is_masked |= decoded.is_masked
        self.digests[index] = digest(decoded.array)
        if not self.is_rescaled:
            self.array[index] = decoded.array
            return
        self.array[index] = decoded.array * values.slope + values.intercept
        if decoded.padding is not None:
            self.array[index][decoded.array == decoded.padding] = np.nan

    def content(self, header: Header, times: Sequence[float] | None = None) -> Content:
        """Return the filled volume, of which the first frame of ``header`` is the first."""
        array, grid, middle, plane = self.array, self.grid, self.seen[self.middle], header.frames[0].plane
        slope, intercept = self.scales[0]
        padding: float | None = middle.padding
        if self.is_rescaled:
            array = _resampled(array, grid) if grid and grid.slices_mm else array
            slope, intercept, padding = 1.0, 0.0, _with_padding(array)
        place = [*grid.affine, *grid.slices_mm] if grid else [*(plane.position or ()), *(plane.orientation or ())]
        affine = (grid.affine if grid else plane_affine(plane)) if plane.in_patient else None
        flags = {"rescaled": self.is_rescaled, MASKED: self.is_masked, "volume_frame": not plane.in_patient}
        flags |= _window_flags(middle)
        has_time = self.shape[0] > 1
        return Content(
            array=array if has_time else array[0],
            digest=digest_of(*(self.digests[index] for index in sorted(self.digests)), *self.scales, *place),
            spacing_mm=list(grid.spacing_mm) if grid else list(plane.spacing_mm) if plane.spacing_mm else None,
            affine=list(affine) if affine else None,
            units=_units(header),
            slope=slope,
            intercept=intercept,
            window_center=middle.window_center,
            window_width=middle.window_width,
            padding=padding,
            photometric=header.pixels.photometric,
            flags=frozenset(flag for flag, is_set in flags.items() if is_set),
            has_time=has_time,
            times=list(times) if times is not None else None,
            slices_mm=list(grid.slices_mm) if grid and grid.slices_mm else None,
        )


def picture(decoded: Decoded, header: Header) -> Content:
    """Return the content of an image that is a volume of its own."""
    plane, values = header.frames[0].plane, header.frames[0].values
    flags = {MASKED: decoded.is_masked, **_window_flags(decoded)}
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
        flags=frozenset(flag for flag, is_set in flags.items() if is_set),
    )


def digest(array: NDArray[Any]) -> str:
    """Return a hash of type, shape and voxels."""
    found = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())  # in hardware, twice as fast as BLAKE2
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:DIGITS]


def digest_of(*words: object) -> str:
    """Return a hash of words and numbers."""
    return hashlib.blake2b("\x1f".join(map(str, words)).encode(), digest_size=DIGITS // 2).hexdigest()


def _window_flags(decoded: Decoded) -> dict[str, bool]:
    return {flag: decoded.window_function == function for function, flag in WINDOW_FLAGS.items()}


def _with_padding(array: NDArray[np.float32]) -> float | None:
    """Put one value below all tissue where there is none, and return it."""
    lowest = np.fmin.reduce(array, axis=None)
    if np.isnan(lowest):
        return None
    padding, found = float(np.floor(lowest)) - 1, False
    for part in array:
        outside = np.isnan(part)
        if outside.any():
            part[outside] = padding
            found = True
    return padding if found else None


def _resampled(array: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Interpolate ``T N Y X [C]`` at the planes of ``grid``, linearly between neighbours; beside padding is padding."""
    at = np.array(grid.slices_mm) / grid.spacing_mm[0]
    found = np.empty((len(array), grid.num_planes, *array.shape[2:]), np.float32)
    for plane in range(grid.num_planes):
        nearest = int(np.abs(at - plane).argmin())
        if abs(at[nearest] - plane) <= SPACING_TOLERANCE:  # a slice that is there is not touched
            found[:, plane] = array[:, nearest]
            continue
        above = int(np.searchsorted(at, plane))
        weight = np.float32((plane - at[above - 1]) / (at[above] - at[above - 1]))
        found[:, plane] = array[:, above - 1] * (1 - weight) + array[:, above] * weight
    return found


def _units(header: Header) -> str:
    values = header.frames[0].values
    is_hu = header.acquisition.modality == "CT" and values.has_rescale
    return "HU" if is_hu and values.rescale_type in ("", "HU") else "stored"
