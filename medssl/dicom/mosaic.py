"""Siemens mosaics: the slices of one volume as tiles of one picture, put back to where each of them lies.

The position in the header is the corner that the picture would have if it were one big slice around the same centre;
the private CSA header says how many tiles are slices and which way they go.

Source: https://nipy.org/nibabel/dicom/dicom_mosaic.html
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medssl.dicom.fields import Fields
from medssl.dicom.frames import phase_of, plane_of, shifted, values_of
from medssl.dicom.header import Frame, PixelFormat, Plane
from medssl.dicom.reasons import DicomProblem, Reason

PARALLEL = 0.999  # cosine between the normal that the header names and that of the rows and columns
MAX_TILES = 1024


def num_tiles(fields: Fields) -> int:
    """Return how many slices a Siemens picture holds; 0 for one that is no mosaic.

    Raises:
        DicomProblem: it calls itself a mosaic and does not say of how many.
    """
    is_siemens = fields.text("SiemensBlock").upper().startswith("SIEMENS")
    is_siemens |= "SIEMENS" in fields.text("Manufacturer").upper()
    num = fields.number("SiemensTiles") if is_siemens else None
    if "MOSAIC" not in {value.upper() for value in fields.texts("ImageType")} and (num is None or num <= 1):
        return 0
    num = num or (_csa(fields).get("NumberOfImagesInMosaic") or [0])[0]
    if not 1 <= num <= MAX_TILES:
        raise DicomProblem(Reason.MOSAIC)
    return int(num)


def tiles(fields: Fields, num: int, pixels: PixelFormat) -> tuple[Frame, ...]:
    """Return a frame for each tile that is a slice.

    Args:
        fields: of the picture.
        num: of slices.
        pixels: with the number of tiles a side.

    Raises:
        DicomProblem: the picture cannot be cut into so many tiles, or its header does not say where they lie.
    """
    plane = plane_of(fields, 0)
    csa = _csa(fields)
    spacing = fields.number("SpacingBetweenSlices") or next(iter(csa.get("SpacingBetweenSlices") or []), None)
    normal = fields.numbers("SiemensNormal", 3) or csa.get("SliceNormalVector")
    if plane.position is None or plane.orientation is None or plane.spacing_mm is None:
        raise DicomProblem(Reason.MOSAIC)
    if not spacing or not normal or len(normal) != 3 or pixels.rows % pixels.tiles or pixels.columns % pixels.tiles:
        raise DicomProblem(Reason.MOSAIC)
    row, column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    along = float(np.cross(row, column) @ np.array(normal, float))
    if not PARALLEL < abs(along) < 2 - PARALLEL:
        raise DicomProblem(Reason.MOSAIC)
    margin = (1 - 1 / pixels.tiles) / 2  # of the picture, on each side of the tile in its centre
    between_rows, between_columns = plane.spacing_mm
    corner = np.array(plane.position) + margin * (
        row * pixels.columns * between_columns + column * pixels.rows * between_rows
    )
    first = Plane(tuple(float(v) for v in corner), plane.orientation, plane.spacing_mm)
    step = math.copysign(abs(spacing), along)
    values, phase = values_of(fields, is_signed=pixels.is_signed), phase_of(fields)
    return tuple(Frame(index, shifted(first, index * step), values, phase) for index in range(num))


def _csa(fields: Fields) -> dict[str, list[Any]]:
    """Return the items of the private header by name; empty where it is absent or damaged."""
    try:
        from nibabel.nicom import csareader  # which warns when it is imported

        tags = csareader.read(fields.raw("SiemensCSA")[1])["tags"]
        return {name: tags[name]["items"] for name in tags}
    except Exception:  # of any kind: it has no length of its own, and no check
        return {}
