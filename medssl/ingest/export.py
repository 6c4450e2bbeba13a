"""NIfTI files of a pool's volumes: voxels as stored, in RAS+, under pseudonyms, nothing about anybody inside."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import polars as pl
from numpy.typing import NDArray

from medssl.core.errors import PoolError
from medssl.core.files import atomic, read_json, write_json
from medssl.pool.pool import Pool
from medssl.pool.reader import VolumeReader

MARK = "export.json"  # in a folder that an export may write into
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
AS_IS = "uint8 int8 uint16 int16 uint32 int32 uint64 int64 float32 float64 complex64 complex128"  # NIfTI has these
MAX_NIFTI_1 = 2**15 - 1  # voxels an axis
SECONDS = {"t_seconds": 1.0, "t_trigger_ms": 1e-3}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def export_nifti(pool: Pool, volumes: pl.DataFrame, out: Path) -> Iterator[tuple[Path, bool]]:
    """Write ``out/<patient>/<study>/<volume>.nii.gz`` for rows of the catalog, each file whole or not at all.

    Yields:
        each file, and whether it is new: those of an earlier export are left as they are.

    Raises:
        PoolError: ``out`` holds what is no export of this pool.
    """
    _claim(pool, out)
    reader = VolumeReader(pool.shards, volumes)
    for index, row in enumerate(volumes.iter_rows(named=True)):
        path = out / row["patient"] / row["study"] / f"{row['volume']}.nii.gz"
        if path.exists():  # its name says what is in it, and it was written whole
            yield path, False
            continue
        image = nifti_image(reader.read(index), row)
        with (
            atomic(path) as partial,
            partial.open("wb") as file,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as zipped,
        ):
            image.to_stream(zipped)
        yield path, True


def nifti_image(voxels: NDArray[Any], row: Mapping[str, Any]) -> Any:
    """Return a nibabel image, its axes turned to RAS+ where the place is known.

    Stored values keep their type beside slope and intercept, where NIfTI has it; 8-bit colours are RGB24, others the
    fifth axis. Without an affine only the spacing is set, and both codes say that the place is unknown.
    """
    affine = None if row["affine"] is None else LPS_TO_RAS @ np.reshape(row["affine"], (4, 4))
    array = _ordered(voxels, row["axes"])
    kind = nibabel.Nifti1Image if max(array.shape) <= MAX_NIFTI_1 else nibabel.Nifti2Image
    image = kind(array, affine, dtype=array.dtype)
    if affine is not None:
        image = nibabel.as_closest_canonical(image)
        image.set_sform(image.affine, code=1)
        image.set_qform(image.affine, code=0 if "gantry_tilt" in row["flags"] else 1)  # which cannot lean
    header, unit = image.header, "unknown"
    zooms = list(header.get_zooms())
    if affine is None and row["spacing_mm"] is not None:
        zooms[: len(row["spacing_mm"])] = row["spacing_mm"][::-1]
    if row["axes"].startswith("T") and (step_s := _step_s(row)) is not None:
        zooms[3], unit = step_s, "sec"
    header.set_zooms(zooms)
    header.set_xyzt_units("mm", unit)
    if array.dtype != RGB:
        header.set_slope_inter(row["slope"], row["intercept"])
    return image


def _claim(pool: Pool, out: Path) -> None:
    about = {"format": "medssl NIfTI export", "key": pool.manifest.key}
    mark = out / MARK
    if mark.is_file():
        if read_json(mark) != about:
            raise PoolError(f"{out}: holds the export of a pool with another key; name another folder")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PoolError(f"{out}: cannot export there, expected a new or empty folder, or an earlier export")
    write_json(mark, about)


def _ordered(voxels: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return ``X Y Z [T] [C]``."""
    if axes.endswith("C") and voxels.dtype == np.uint8:
        voxels, axes = np.ascontiguousarray(voxels).view(RGB)[..., 0], axes[:-1]
    elif str(voxels.dtype) not in AS_IS.split():
        voxels = voxels.astype(np.uint8 if voxels.dtype == np.bool_ else np.float32)
    missing = [axis for axis in "XYZTC" if axis not in axes]
    found: NDArray[Any] = voxels.reshape((*voxels.shape, *(1 for _ in missing)))
    found = found.transpose([(axes + "".join(missing)).index(axis) for axis in "XYZTC"])
    extent = [*found.shape[:3], *(n for n in found.shape[3:4] if n > 1 or found.shape[4] > 1)]
    extent += [n for n in found.shape[4:] if n > 1]
    return found.reshape(extent)


def _step_s(row: Mapping[str, Any]) -> float | None:
    """Return the seconds between time points, where they are known and even."""
    unit = next((SECONDS[flag] for flag in row["flags"] if flag in SECONDS), None)
    if unit is None or row["times"] is None:
        return None
    steps = np.diff(row["times"]) * unit
    return float(steps.mean()) if np.ptp(steps) <= 0.01 * abs(steps.mean()) else None
