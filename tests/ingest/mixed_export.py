"""A small export of everything, and what one run of ingest is compared with another by."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from pydicom import uid
from synthetic_dicom import ct_slice, dataset, radiograph, save

from medssl.ingest.report import IngestReport
from medssl.pool.pool import Pool

SYNTAXES = (None, uid.ImplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless)


def write_mixed(source: Path) -> Path:
    """Write 12 radiographs, one CT, a copy, a cut file, a report and a text."""
    for i in range(12):
        elements = {"PatientID": f"MRN{i // 2}", "StudyInstanceUID": f"1.2.{i}", "SeriesInstanceUID": f"1.2.{i}.1"}
        path = save(radiograph(f"x{i}", **elements), source / f"p{i // 2}" / f"{i}.dcm", SYNTAXES[i % 4])
    (source / "copy_of_last.dcm").write_bytes(path.read_bytes())
    for z in range(4):
        save(ct_slice(z), source / "ct" / str(9 - z))
    cut = save(radiograph("cut"), source / "cut.dcm", uid.RLELossless)
    cut.write_bytes(cut.read_bytes()[:-300])
    save(dataset(uid.BasicTextSRStorage, "report"), source / "report.dcm")
    (source / "notes.txt").write_text("for Quillfeather\n" * 20)
    return source


def counts(report: IngestReport) -> dict[str, int]:
    """Return how many files ended with each outcome."""
    found: Counter[str] = Counter()
    for count in report.outcomes:
        found[count.outcome] += count.files
    return dict(found)


def shard_bytes(pool: Pool) -> dict[str, str]:
    """Return the digest of every shard."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(pool.shards.glob("*"))}


def tables(pool: Pool) -> tuple[object, ...]:
    """Return all rows and the fingerprints."""
    return (*pool.catalog.volumes.rows(), *pool.instances.rows(), pool.fingerprints)
