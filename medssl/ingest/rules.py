"""What the operator allows, for all files of one run; whatever was allowed is flagged on the volumes it concerns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BurnedIn = Literal["quarantine", "mask", "accept"]


@dataclass(frozen=True)
class Rules:
    """Choices of ``medssl ingest``.

    ``allow_gaps`` resamples series with missing or uneven slices, and records where nothing was. ``burned_in`` is for
    images of classes that write text into pixels (ultrasound, secondary capture, angiography), or say that they do.
    """

    allow_gaps: bool = False
    burned_in: BurnedIn = "quarantine"
