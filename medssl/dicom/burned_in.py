"""Text in the pixels: which images carry a risk of it, and what becomes of them.

Source: DICOM PS3.15, E.3.1 (Clean Pixel Data Option): a header that says NO proves nothing, so kinds of objects that
write names into pixels are treated as if they had.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.dicom.decode import Decoded
from medssl.dicom.header import Header, Region
from medssl.dicom.objects import Kind
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.dicom.text import find_text

RISKS = {"burned_in_annotation": Reason.BURNED_IN_ANNOTATION, "burned_in_risk": Reason.BURNED_IN_RISK}
MASKED = "pixels_masked"  # the flag of what was blanked


def refused(flags: Collection[str], policy: str) -> bool:
    """Return whether an image with these flags carries a risk.

    Raises:
        DicomProblem: it does, and ``policy`` is quarantine.
    """
    risks = [reason for flag, reason in RISKS.items() if flag in flags]
    if risks and policy == "quarantine":
        raise DicomProblem(risks[0])
    return bool(risks)


def cleaned(decoded: Decoded, header: Header, policy: str) -> Decoded:
    """Return a frame that may be stored under ``policy`` (quarantine, mask or accept).

    ``mask`` blanks what is outside the ultrasound regions, and rows of text that a detector finds; it looks at every
    image but slices, whose kinds write no text. It is no proof that none is left: docs/deidentification.md.

    Raises:
        DicomProblem: it may not.
    """
    is_risky = refused(header.flags, policy)
    if policy != "mask" or (header.kind is Kind.SLICE and not is_risky):
        return decoded
    shown = masked(decoded.array, header.regions, decoded.padding)
    return replace(decoded, array=shown, is_masked=not np.array_equal(shown, decoded.array))


def masked(array: NDArray[Any], regions: Sequence[Region] = (), padding: int | None = None) -> NDArray[Any]:
    """Return ``Y X`` or ``Y X 3`` without what is outside ``regions``, if there are any, and without rows of text.

    What is blanked becomes padding, else black, which of signed values is the lowest.
    """
    shown = array.copy()
    nothing: Any = 0 if array.ndim == 3 or array.dtype.kind == "u" else array.min()
    if padding is not None:
        limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else np.finfo(array.dtype)
        nothing = np.clip(padding, limits.min, limits.max)
    if regions:
        outside = np.ones(array.shape[:2], bool)
        for r in regions:
            outside[max(r.first_row, 0) : r.last_row + 1, max(r.first_column, 0) : r.last_column + 1] = False
        shown[outside] = nothing
    for box in find_text(shown):
        shown[box] = nothing
    return shown
