"""One header of either kind, DICOM or NIfTI."""

from __future__ import annotations

from medssl.dicom.header import Header, Ids
from medssl.dicom.read import read_header as read_dicom
from medssl.dicom.reasons import Reason
from medssl.ingest import nifti
from medssl.ingest.nifti import NiftiHeader
from medssl.ingest.sources import SourceFile

AnyHeader = Header | NiftiHeader


def read_header(file: SourceFile, modality: str | None = None) -> tuple[AnyHeader | None, Reason | None, Ids | None]:
    """Return the header of an image, else a reason; ids where they are readable.

    Args:
        file: what to read.
        modality: of NIfTI files, which do not say.
    """
    if not file.is_readable:
        return None, Reason.UNREADABLE, None
    if nifti.is_nifti(file):
        return nifti.read_header(file, modality)
    found = read_dicom(file.path)
    return found.header, found.reason, found.ids
