"""NIfTI files: one file is one volume, stored as it is; its name or folder says whose it is, for its header does not.

After the NIfTI-1 standard, through nibabel. The layouts of the Medical Segmentation Decathlon, nnU-Net and BIDS are
known: folders of label maps, channels of one case, ``sub-`` and ``ses-``, and the modality that ``dataset.json`` names.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medssl.dicom import vocabulary
from medssl.dicom.deidentify import Described, Pseudonyms, is_placeholder
from medssl.dicom.header import Ids
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.ingest.content import Content, digest, digest_of
from medssl.ingest.sources import SourceFile

SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
LABEL_FOLDER = re.compile(r"labels?(tr|ts)?", re.IGNORECASE)
CHANNEL = re.compile(r"_(\d{4})$")
ENTITY = re.compile(r"(?:^|[/_])((?:sub|ses)-[A-Za-z0-9]+)(?=[/_.]|$)")
MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PET": "PT"}  # of dataset.json
MM_A_UNIT = {"meter": 1000.0, "micron": 0.001}
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEADER_BYTES = 540  # of the longer kind of header
SAMPLE_BYTES = 1 << 16  # of a file, to tell it from others
DAMAGES = (ImageFileError, HeaderDataError, EOFError, OSError, ValueError, OverflowError, zlib.error)


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """What ingest needs of one file; raw identifiers, from its name, live here, and in memory only."""

    ids: Ids
    num_bytes: int
    modality: str
    flags: frozenset[str]


def is_nifti(file: SourceFile) -> bool:
    """Return whether a file calls itself one."""
    name = file.relative.rpartition("/")[2]
    return bool(SUFFIX.search(name)) and not name.startswith("._")  # macOS leaves such files in archives


def is_label_map(file: SourceFile) -> bool:
    """Return whether a file lies in a folder of label maps."""
    return any(LABEL_FOLDER.fullmatch(part) for part in file.relative.split("/")[:-1])


def stem_of(file: SourceFile) -> str:
    """Return the name of a file without suffix and channel."""
    return CHANNEL.sub("", SUFFIX.sub("", file.relative.rpartition("/")[2]))


def read_header(file: SourceFile, modality: str | None) -> tuple[NiftiHeader | None, Reason | None, Ids]:
    """Return the header of a file, or the reason why it is no image; its ids in any case."""
    ids = _ids(file, b"")
    if is_label_map(file):
        return None, Reason.LABEL_MAP, ids
    try:
        header = nibabel.load(file.path).header
        with _opened(file.path) as handle:
            ids = _ids(file, handle.read(HEADER_BYTES) + _sample(file.path))
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
    except DAMAGES as error:
        return None, _reason(error) if file.num_bytes else Reason.EMPTY, ids
    if prod(shape[3:]) > 1:
        return None, Reason.TIME_AXIS, ids
    if dtype.kind not in "iuf" or dtype.char == "g" or len(shape) < 2 or not prod(shape):
        return None, Reason.UNSUPPORTED_PIXELS, ids
    named = modality or _named_modality(file)
    named_by = "patient_from_folder_name" if file.case is not None else "patient_from_file_name"
    flags = {named_by} | (set() if named else {"assumed_modality"})
    return NiftiHeader(ids, prod(shape) * dtype.itemsize, named or "MR", frozenset(flags)), None, ids


def describe(header: NiftiHeader, pseudonyms: Pseudonyms) -> Described:
    """Return everything of ``header`` that may leave it."""
    ids = header.ids
    nothing = dict.fromkeys(
        ["sequence", "body_part", "view", "laterality", "site", "scanner", "sex", "age", "day"], None
    )  # fmt: skip
    return Described(
        patient=pseudonyms.patient(ids.patient_id, ids.issuer, ids.study_uid),
        study=pseudonyms.uid("study", ids.study_uid),
        series=pseudonyms.uid("series", ids.series_uid),
        modality=vocabulary.known(header.modality, vocabulary.MODALITIES),
        flags=header.flags | ({"placeholder_patient"} if is_placeholder(ids.patient_id) else set()),
        **nothing,
    )


def load(file: SourceFile, header: NiftiHeader) -> Content:
    """Return the voxels as stored, ``Z Y X`` or ``Y X``, with slope and intercept beside them.

    Array order is the file's own, seen from its slowest axis, so nothing is turned; the affine goes from RAS to LPS.

    Raises:
        DicomProblem: the file is cut or damaged.
    """
    try:
        with _opened(file.path) as handle:
            data = handle.read()  # to the end, where gzip keeps its checksum
        kind = nibabel.Nifti2Image if nibabel.Nifti2Header.may_contain_header(data) else nibabel.Nifti1Image
        image = kind.from_bytes(data)
        stored = np.asanyarray(image.dataobj.get_unscaled())
    except DAMAGES as error:
        raise DicomProblem(_reason(error)) from None
    array = stored.reshape(stored.shape[:3]).T
    array = array[0] if array.ndim == 3 and len(array) == 1 else array
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    scale, slope, intercept = _mm_a_unit(image.header), float(image.dataobj.slope), float(image.dataobj.inter)
    is_placed = array.ndim == 3 and (image.header["sform_code"] > 0 or image.header["qform_code"] > 0)
    affine = [float(v) for v in (RAS_TO_LPS @ np.diag([scale, scale, scale, 1.0]) @ image.affine).ravel()]
    spacing = [abs(float(v)) * scale for v in image.header.get_zooms()[: array.ndim][::-1]]
    if is_placed:
        spacing = np.linalg.norm(np.reshape(affine, (4, 4))[:3, 2::-1], axis=0).tolist()
    return Content(
        array=array,
        digest=digest_of(digest(array), slope, intercept, *affine),
        spacing_mm=spacing if all(spacing) else None,
        affine=affine if is_placed else None,
        units="HU" if header.modality == "CT" else "stored",
        slope=slope,
        intercept=intercept,
        window_center=None,
        window_width=None,
        padding=None,
        photometric="MONOCHROME2",
        flags=frozenset(),
    )


def _ids(file: SourceFile, head: bytes) -> Ids:
    """Return the ids that a path gives, and as UID of the series what is in the file: moved, it is still the same."""
    entities = dict.fromkeys(ENTITY.findall(file.relative))
    subject = next((e for e in entities if e.startswith("sub-")), file.case or stem_of(file))
    session = next((e for e in entities if e.startswith("ses-")), "")
    study = f"{subject} {session}" if file.case is not None or not is_placeholder(subject) else file.relative
    content = hashlib.blake2b(head or file.relative.encode(), digest_size=16).hexdigest()
    return Ids(subject, "", study, content, content, frozenset())


def _reason(error: Exception) -> Reason:
    if isinstance(error, OSError) and error.errno is not None:
        return Reason.UNREADABLE
    is_cut = isinstance(error, EOFError) or "bytes" in str(error)  # nibabel: expected so many bytes, got so many
    return Reason.TRUNCATED if is_cut else Reason.CORRUPT


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _sample(path: Path) -> bytes:
    """Return bytes of the middle of a file, and its last ones: of a gzip file checksum and length of what is in it."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(size // 2)
        middle = handle.read(SAMPLE_BYTES)
        handle.seek(max(0, size - 8))
        return middle + handle.read()


def _mm_a_unit(header: Any) -> float:
    return MM_A_UNIT.get(header.get_xyzt_units()[0], 1.0)


def _named_modality(file: SourceFile) -> str | None:
    """Return the modality that ``dataset.json`` beside or above the images names for this channel."""
    channel = CHANNEL.search(SUFFIX.sub("", file.path.name))
    known = _channels(file.path.parent.parent) or _channels(file.path.parent)
    return MODALITIES.get(str(known.get(str(int(channel[1]) if channel else 0), "")).upper())


@lru_cache(maxsize=256)
def _channels(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        found = about.get("modality") or about.get("channel_names") or {}
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}
