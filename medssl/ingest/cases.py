"""Whose NIfTI files are, where no name says ``sub-``: decided once, from all names, so that nobody is two patients.

``BraTS_001/BraTS_001_t1.nii.gz`` and ``p1/t1.nii.gz`` beside ``p2/t1.nii.gz`` lie in case folders;
``imagesTr/case_001.nii.gz`` is a case by itself. Where names leave it open, files go to one patient rather than to two.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from medssl.dicom.deidentify import is_placeholder
from medssl.ingest.nifti import ENTITY, is_label_map, is_nifti, stem_of, with_modalities
from medssl.ingest.sources import SourceFile

MAX_SEQUENCES = 16  # of one case: more names than this, in fewer folders, are the cases, and the folders their kinds
NUMBERED = re.compile(r"[\W_]*\d{3,5}")  # images/images_001: a collection, not the scans of one case


def with_cases(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return all files, those of a case folder with its name as ``case``, and with what ``dataset.json`` files say.

    A folder is one if its name begins a name in it; the patient is then called by that name, wherever it lies. So is a
    folder that shares a file name with others, except where its own name recurs (``p1/anat``, ``p2/anat``): then it is
    the folder above. This patient is called by the path below the source.
    """
    asked = [f for f in files if is_nifti(f) and not is_label_map(f) and not ENTITY.search(f.relative)]
    parents = {file.relative: PurePosixPath(file.relative).parent for file in asked}
    folders = {above for parent in parents.values() for above in (parent, *parent.parents) if above.name}
    with_folders = {folder.parent for folder in folders}
    closed = {folder for folder in folders if len(folder.parts) > 1 or folder not in with_folders}
    named = {p for file in asked if (p := parents[file.relative]) in closed and _begins(p.name, stem_of(file))}
    left = [file for file in asked if not named & {parents[file.relative], *parents[file.relative].parents}]
    recurring = {name for name, num in Counter(folder.name for folder in folders).items() if num > 1}
    shared = {_above(folder, recurring) for folder in _sharing(left, parents)} & closed
    cases: dict[str, str] = {}
    for name, parent in parents.items():
        line = [parent, *parent.parents]
        if mine := [folder for folder in line if folder in named]:
            cases[name] = mine[0].name
        elif mine := [folder for folder in line if folder in shared]:
            cases[name] = "/".join(mine[-1].parts[1:] or mine[-1].parts)
    found = (replace(file, case=cases[file.relative]) if file.relative in cases else file for file in files)
    return with_modalities(list(found))


def _begins(folder: str, stem: str) -> bool:
    rest = stem[len(folder) :]
    if not stem.startswith(folder) or rest[:1].isalnum():
        return False
    is_named_after_nobody = not re.search(r"\d", folder) and re.fullmatch(r"[\W_]*\d+", rest)
    return not (NUMBERED.fullmatch(rest) or is_named_after_nobody)


def _sharing(files: Iterable[SourceFile], parents: dict[str, PurePosixPath]) -> set[PurePosixPath]:
    """Return the folders that share a file name, unless these names are those of the cases."""
    holders: dict[str, set[PurePosixPath]] = defaultdict(set)
    for file in files:
        if not is_placeholder(stem_of(file)):
            holders[stem_of(file)].add(parents[file.relative])
    several = [found for found in holders.values() if len(found) > 1]
    folders = {folder for found in several for folder in found}
    return set() if len(several) > max(len(folders), MAX_SEQUENCES) else folders


def _above(folder: PurePosixPath, recurring: set[str]) -> PurePosixPath:
    """Return the nearest folder, from ``folder`` on up to that below the source, whose name is not ``recurring``."""
    while folder.name in recurring and len(folder.parts) > 2:
        folder = folder.parent
    return folder
