"""What the operator allows, for all files of one run; whatever was allowed is flagged on the volumes it concerns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medssl.dicom.reasons import Reason

BurnedIn = Literal["quarantine", "mask", "accept"]
GAPS = frozenset({Reason.MISSING_SLICES, Reason.UNEVEN_SPACING})
TEXT = frozenset({Reason.BURNED_IN_ANNOTATION, Reason.BURNED_IN_RISK})


@dataclass(frozen=True)
class Rules:
    """Choices of ``medssl ingest``.

    ``allow_gaps`` resamples series with missing or uneven slices, and records where nothing was. ``burned_in`` is for
    images of classes that write text into pixels (ultrasound, secondary capture, angiography), or say that they do.
    ``follow_links`` reads what links lead to outside the source that they are in.
    """

    allow_gaps: bool = False
    burned_in: BurnedIn = "quarantine"
    follow_links: bool = False

    @property
    def lifted(self) -> frozenset[Reason]:
        """The reasons that no file gets under these rules: one that has such a reason was looked at under others."""
        found = set(GAPS) if self.allow_gaps else set()
        found |= TEXT if self.burned_in != "quarantine" else set()
        found |= {Reason.LINK_OUTSIDE} if self.follow_links else set()
        return frozenset(found)
