"""What one run of ingest did, in figures."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from medssl.core.errors import MedsslError
from medssl.core.files import atomic
from medssl.core.types import Outcome
from medssl.dicom.reasons import Reason
from medssl.ingest.index import Entries
from medssl.pool.info import OutcomeCount

LIST = ("reason", "path")
NO_IMAGES = (Outcome.NON_IMAGE, Outcome.LABEL)


@dataclass(frozen=True)
class QuarantinedFile:
    """A file that needs a look. Its path may name a patient: for the operator's terminal only, never a log."""

    path: str
    reason: str


@dataclass(frozen=True)
class IngestReport:
    """One run: ``outcomes`` count the new files; ``num_known`` others were in the pool before.

    ``num_changed`` of those are not as they were then; ``changed`` are the paths of the first of them, for the
    operator's terminal only. Volumes are those added, studies and patients those they belong to.
    """

    outcomes: tuple[OutcomeCount, ...]
    quarantined: tuple[QuarantinedFile, ...]
    num_files: int
    num_volumes: int
    num_studies: int
    num_patients: int
    num_bytes: int  # of the new files
    num_known: int = 0
    num_changed: int = 0
    changed: tuple[str, ...] = ()
    num_labels: int = 0
    num_labels_not_stored: int = 0  # rows whose file, series, study or patient left no volume
    seconds: float = 0.0

    def count(self, outcome: Outcome) -> int:
        """Return how many new files ended with ``outcome``."""
        return sum(c.files for c in self.outcomes if c.outcome == outcome)


def reported(files: pl.DataFrame, fates: pl.DataFrame, volumes: pl.DataFrame, entries: Entries) -> IngestReport:
    """Count what became of the new files.

    Args:
        files: a row a file, in the order of their paths.
        fates: what became of each.
        volumes: the rows that were added.
        entries: the files themselves, which have paths.
    """
    counts = fates.group_by("outcome", "reason").len().sort("outcome", "reason", nulls_last=False)
    return IngestReport(
        outcomes=tuple(OutcomeCount(*row) for row in counts.iter_rows()),
        quarantined=tuple(_quarantined(files, fates, entries)),
        num_files=files.height,
        num_volumes=volumes.height,
        num_studies=volumes["study"].n_unique(),
        num_patients=volumes["patient"].n_unique(),
        num_bytes=int(files["bytes"].sum()),
    )


def expect_images(files: pl.DataFrame, where: str) -> None:
    """Refuse sources in which nothing even calls itself an image.

    Raises:
        MedsslError: so it is; ``where`` names them.
    """
    has_ids = pl.col("sop").is_not_null() | pl.col("series").is_not_null()
    is_other = pl.col("reason").cast(pl.String).is_in([str(r) for r in Reason if r.outcome in NO_IMAGES])
    if files.filter(pl.col("kind").is_not_null() | (has_ids & ~is_other)).is_empty():
        counts = files["reason"].cast(pl.String).value_counts().drop_nulls().sort("reason")
        found = ", ".join(f"{num} {reason}" for reason, num in counts.iter_rows())
        hint = "; --follow-links reads what links lead to" if Reason.LINK_OUTSIDE in found else ""
        raise MedsslError(
            f"no image among {files.height} files below {where} ({found}); "
            f"expected radiographs, CT or MR as DICOM or NIfTI{hint}"
        )


def check_list(path: Path, pool: Path) -> None:
    """Refuse a list of quarantined files that would lie inside the pool.

    Raises:
        MedsslError: it would.
    """
    if path.resolve().is_relative_to(pool.resolve()):
        raise MedsslError(f"{path}: paths may name patients: no list of them belongs into the pool; name another place")


def write_list(path: Path, files: Iterable[QuarantinedFile]) -> None:
    """Write reason and path of every quarantined file as a CSV (mode 0600).

    Raises:
        MedsslError: it cannot be written.
    """
    try:
        with atomic(path) as partial:
            handle = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                csv.writer(file, lineterminator="\n").writerows([LIST, *((one.reason, one.path) for one in files)])
    except OSError as error:
        raise MedsslError(f"{path}: cannot write the list ({error.strerror}); name another path") from None


def _quarantined(files: pl.DataFrame, fates: pl.DataFrame, entries: Entries) -> list[QuarantinedFile]:
    lost = fates.filter(pl.col("outcome") == Outcome.QUARANTINED).select("source_key", pl.col("reason").alias("why"))
    in_order = files.join(lost, on="source_key", maintain_order="left")
    found = []
    for (chunk,), rows in in_order.group_by("chunk", maintain_order=True):
        named = entries.of(entries.chunks[int(str(chunk))].name, rows["place"])
        found += [QuarantinedFile(e.file.relative, why) for e, why in zip(named, rows["why"], strict=True)]
    return found
