"""What one run of ingest did, in figures."""

from __future__ import annotations

from dataclasses import dataclass

from medssl.core.types import Outcome
from medssl.pool.info import OutcomeCount


@dataclass(frozen=True)
class QuarantinedFile:
    """A file that needs a look. Its path may name a patient: for the operator's terminal only, never a log."""

    path: str
    reason: str


@dataclass(frozen=True)
class IngestReport:
    """One run: ``outcomes`` count the new files; ``num_known`` others were in the pool before.

    Volumes are those added, studies and patients those they belong to.
    """

    outcomes: tuple[OutcomeCount, ...]
    quarantined: tuple[QuarantinedFile, ...]
    num_files: int
    num_known: int
    num_volumes: int
    num_studies: int
    num_patients: int
    num_labels: int
    num_labels_not_stored: int  # rows whose file, series, study or patient left no volume
    num_bytes: int  # of the new files
    seconds: float

    def count(self, outcome: Outcome) -> int:
        """Return how many new files ended with ``outcome``."""
        return sum(c.files for c in self.outcomes if c.outcome is outcome)
