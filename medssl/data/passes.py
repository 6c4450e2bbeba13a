"""Prepared volumes in catalog order, as a network looks at them: a forward pass at a time, larger ones by windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medssl.data.crops import windows
from medssl.data.prepared import Prepared

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pass:
    """What one forward pass sees: ``images`` ``B C *S``, their ``rows`` and the ``keys`` of their windows, ``B``."""

    images: Tensor
    rows: Ints
    keys: Ints


def passes(data: Prepared, rows: Ints, size: int) -> Iterator[Pass]:
    """Cut ``rows`` into batches of ``size`` volumes, or windows where volumes are larger than the geometry."""
    if not len(rows):
        return
    if not data.cropped:
        for part in np.split(rows, range(size, len(rows), size)):
            yield Pass(data.seen(part), part, data.keys[part])
        return
    places = [
        (int(row), number, box)
        for row in rows
        for number, box in enumerate(windows(tuple(data.shapes[row].tolist()), data.geometry.shape))
    ]
    for start in range(0, len(places), size):
        found, number, boxes = zip(*places[start : start + size], strict=True)
        row = np.array(found)
        keys = data.keys[row] + np.array(number)  # the first window has the volume's own key
        yield Pass(data.seen(row, [(slice(None), *box) for box in boxes], keys), row, keys)
