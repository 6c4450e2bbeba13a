"""DICOMDIR: the files that a medium's directory refers to (DICOM PS3.10, media storage directory)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom import uid

from medssl.core.places import Place
from medssl.dicom.elements import Wanted
from medssl.dicom.fields import tag_of
from medssl.dicom.parse import parse
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason

RECORDS, FILE_ID = tag_of("DirectoryRecordSequence")[0], tag_of("ReferencedFileID")[0]
NAME = re.compile(r"(?!\.{1,2}$)[^/\\\0]+")


@dataclass(frozen=True, slots=True)
class References:
    """The parts of each path below the folder of the DICOMDIR, and how many paths lead out of it."""

    inside: frozenset[tuple[str, ...]]
    num_outside: int


def is_directory(place: Place) -> bool:
    """Return whether a DICOMDIR lies there, by its SOP class."""
    try:
        with quiet():
            found = parse(place, Wanted((), (), (), ()))
    except (DicomProblem, OSError):
        return False
    return found.media_class == str(uid.MediaStorageDirectoryStorage)


def referenced(place: Place) -> References:
    """Return what a DICOMDIR refers to.

    Raises:
        DicomProblem: it is damaged, or longer than any medium needs.
        OSError: it cannot be read.
    """
    with quiet():
        found = parse(place, Wanted((), (RECORDS,), (FILE_ID,), ()))
    if found.is_cut or RECORDS not in found.items:
        raise DicomProblem(Reason.TRUNCATED)
    paths = [found.fields.only(record).texts("ReferencedFileID") for record in found.items[RECORDS]]
    named = [path for path in paths if path]
    inside = frozenset(path for path in named if all(map(NAME.fullmatch, path)))
    return References(inside, sum(path not in inside for path in named))
