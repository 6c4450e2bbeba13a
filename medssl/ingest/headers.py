"""One header of either kind: of a DICOM object, or of a file that is a volume of its own."""

from __future__ import annotations

from typing import Protocol

from medssl.dicom.deidentify import Described, Pseudonyms
from medssl.dicom.header import Header, Ids
from medssl.dicom.read import read_header as read_dicom
from medssl.dicom.reasons import Reason
from medssl.ingest import nifti, raster
from medssl.ingest.archives import kind_of
from medssl.ingest.content import Content
from medssl.ingest.members import Part, ZipMember
from medssl.ingest.sources import SourceFile


class FileHeader(Protocol):
    """What ingest needs of a file that is no DICOM object; raw identifiers live in ``ids``, and in memory only."""

    @property
    def ids(self) -> Ids:
        """Whose it is."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the decoded voxels."""

    def describe(self, pseudonyms: Pseudonyms) -> Described:
        """Return everything that may leave the header."""

    def load(self, file: SourceFile) -> Content:
        """Return the voxels of ``file``, whose header this is.

        Raises:
            DicomProblem: the file is cut or damaged.
        """


AnyHeader = Header | FileHeader


def read_header(file: SourceFile, modality: str | None = None) -> tuple[AnyHeader | None, Reason | None, Ids | None]:
    """Return the header of an image, else a reason; ids where they are readable.

    Args:
        file: what to read.
        modality: of NIfTI files, which do not say.
    """
    if file.reason is not None:
        return None, file.reason, None
    if nifti.is_nifti(file):
        return nifti.read_header(file, modality)
    try:
        if file.about is not None and raster.is_raster(file):  # DICOM and others keep their own header
            return raster.read_header(file, file.about)
        found = read_dicom(file.place)
        return found.header, _nested(file, found.reason), found.ids
    except OSError:
        return None, Reason.UNREADABLE, None


def _nested(file: SourceFile, reason: Reason | None) -> Reason | None:
    """Tell an archive inside an archive from other files."""
    if reason not in (Reason.ARCHIVE, Reason.NOT_DICOM) or not isinstance(file.place, ZipMember | Part):
        return reason
    is_nested = reason is Reason.ARCHIVE or kind_of(file.place) is not None
    return Reason.NESTED_ARCHIVE if is_nested else reason
