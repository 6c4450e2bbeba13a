"""NIfTI files: one file is one volume, stored as it is; its name or folder says whose it is, for its header does not.

After the NIfTI-1 standard, through nibabel. The layouts of the Medical Segmentation Decathlon, nnU-Net and BIDS are
known: folders of label maps, channels of one case, ``sub-`` and ``ses-``, and the modality that ``dataset.json`` names.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from medssl.core.places import LocalFile, Place
from medssl.dicom import vocabulary
from medssl.dicom.deidentify import Described, Pseudonyms, is_placeholder
from medssl.dicom.geometry import MAX_SHEAR_DEGREES
from medssl.dicom.header import Ids
from medssl.dicom.pixels import MAX_VOXEL_BYTES
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.ingest.content import Content, digest, digest_of
from medssl.ingest.sources import SourceFile

SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
LABEL_FOLDER = re.compile(r"labels?(tr|ts)?", re.IGNORECASE)
LABEL_NAME = re.compile(r"(^|[-_.])(d?seg|segmentation|probseg|masks?|labels?|roi)$", re.IGNORECASE)
CHANNEL = re.compile(r"_(\d{4})$")
ENTITY = re.compile(r"(?:^|[/_])((?:sub|ses)-[A-Za-z0-9]+)(?=[/_.]|$)")
MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PET": "PT"}  # of dataset.json
ABOUT = "dataset.json"
MM_A_UNIT = {"meter": 1000.0, "micron": 0.001}
SECONDS_A_UNIT = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEADER_BYTES = 540  # of the longer kind of header
SAMPLE_BYTES = 1 << 16  # of a file, to tell it from others
MAX_ABOUT_BYTES = 1 << 20  # of a dataset.json
MAX_EXTRA_BYTES = 16 << 20  # around the voxels: extensions before them, padding after
DAMAGES = (
    DicomProblem,
    WrapStructError,
    ImageFileError,
    HeaderDataError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """What ingest needs of one file; raw identifiers, from its name, live here, and in memory only."""

    ids: Ids
    num_bytes: int
    modality: str
    flags: frozenset[str]

    def describe(self, pseudonyms: Pseudonyms) -> Described:
        """Return everything that may leave the header."""
        ids = self.ids
        nothing = dict.fromkeys(
            ["sequence", "body_part", "view", "laterality", "site", "scanner", "sex", "age", "day"], None
        )  # fmt: skip
        return Described(
            patient=pseudonyms.patient(ids.patient_id, ids.issuer, ids.study_uid),
            study=pseudonyms.uid("study", ids.study_uid),
            series=pseudonyms.uid("series", ids.series_uid),
            modality=vocabulary.known(self.modality, vocabulary.MODALITIES),
            flags=self.flags | ({"placeholder_patient"} if is_placeholder(ids.patient_id) else set()),
            **nothing,
        )

    def load(self, file: SourceFile) -> Content:
        """Return the voxels as stored, ``[T] [Z] Y X``, with slope and intercept beside them.

        Array order is the file's own, seen from its slowest axis, so nothing is turned; the affine goes RAS to LPS.

        Raises:
            DicomProblem: the file is cut or damaged.
        """
        try:
            with _opened(file) as handle:  # to the end, where gzip keeps its checksum, but not for ever
                data = handle.read(self.num_bytes + MAX_EXTRA_BYTES)
                if handle.read(1):
                    raise DicomProblem(Reason.TOO_LARGE)
            image = _kind(data).from_bytes(data)
            stored = np.asanyarray(image.dataobj.get_unscaled())
        except DAMAGES as error:
            raise DicomProblem(_reason(error)) from None
        has_time = stored.ndim > 3 and stored.shape[3] > 1
        array = stored.reshape(stored.shape[: 3 + has_time]).T
        space = array.ndim - has_time
        if space == 3 and array.shape[-3] == 1:
            array, space = array.squeeze(-3), 2
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        scale, slope, intercept = _mm_a_unit(image.header), float(image.dataobj.slope), float(image.dataobj.inter)
        is_placed = space == 3 and (image.header["sform_code"] > 0 or image.header["qform_code"] > 0)
        affine = [float(v) for v in (RAS_TO_LPS @ np.diag([scale, scale, scale, 1.0]) @ image.affine).ravel()]
        spacing = [abs(float(v)) * scale for v in image.header.get_zooms()[:space][::-1]]
        is_tilted = False
        if is_placed:
            spacing, is_tilted = _steps(np.reshape(affine, (4, 4))[:3, 2::-1])
        times = _times(image.header) if has_time else None
        return Content(
            array=array,
            digest=digest_of(digest(array), slope, intercept, *affine),
            spacing_mm=spacing if all(spacing) else None,
            affine=affine if is_placed else None,
            units="HU" if self.modality == "CT" else "stored",
            slope=slope,
            intercept=intercept,
            window_center=None,
            window_width=None,
            padding=None,
            photometric="MONOCHROME2",
            flags=frozenset(
                ({"t_index" if times is None else "t_seconds"} if has_time else set())
                | ({"gantry_tilt"} if is_tilted else set())
            ),
            has_time=has_time,
            times=times,
        )


def _steps(axes: NDArray[Any]) -> tuple[list[float], bool]:
    """Return mm from plane to plane, row to row, column to column, and whether the planes are sheared.

    ``axes``: mm of a step along each, ``3 ZYX`` in columns. The first is measured along the normal of the planes.
    """
    lengths = np.linalg.norm(axes, axis=0)
    normal = np.cross(axes[:, 2], axes[:, 1])
    area = np.linalg.norm(normal)
    across = abs(float(axes[:, 0] @ normal)) / area if area else 0.0
    lean = np.degrees(np.arccos(min(1.0, across / lengths[0]))) if lengths[0] else 0.0
    return [across, *lengths[1:].tolist()], bool(lean > MAX_SHEAR_DEGREES)


def is_nifti(file: SourceFile) -> bool:
    """Return whether a file calls itself one."""
    name = file.relative.rpartition("/")[2]
    return bool(SUFFIX.search(name)) and not name.startswith("._")  # macOS leaves such files in archives


def is_label_map(file: SourceFile) -> bool:
    """Return whether a file lies in a folder of label maps, or is called one (``…_seg``, BIDS' ``…_dseg``)."""
    *folders, name = file.relative.split("/")
    return any(map(LABEL_FOLDER.fullmatch, folders)) or bool(LABEL_NAME.search(SUFFIX.sub("", name)))


def stem_of(file: SourceFile) -> str:
    """Return the name of a file without suffix and channel."""
    return CHANNEL.sub("", SUFFIX.sub("", file.relative.rpartition("/")[2]))


def read_header(file: SourceFile, modality: str | None) -> tuple[NiftiHeader | None, Reason | None, Ids]:
    """Return the header of a file, or the reason why it is no image; its ids in any case."""
    ids = _ids(file, b"")
    if is_label_map(file):
        return None, Reason.LABEL_MAP, ids
    try:
        with _opened(file) as handle:
            head = handle.read(HEADER_BYTES)
        header = _kind(head).header_class.from_fileobj(io.BytesIO(head))
        ids = _ids(file, head + _sample(file))
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
    except DAMAGES as error:
        return None, _reason(error) if file.num_bytes else Reason.EMPTY, ids
    if prod(shape[4:]) > 1:
        return None, Reason.TIME_AXIS, ids
    if dtype.kind not in "iuf" or dtype.char == "g" or len(shape) < 2 or not prod(shape):
        return None, Reason.UNSUPPORTED_PIXELS, ids
    if prod(shape) * dtype.itemsize > MAX_VOXEL_BYTES:
        return None, Reason.TOO_LARGE, ids
    named = modality or file.modality
    named_by = "patient_from_folder_name" if file.case is not None else "patient_from_file_name"
    flags = {named_by} | (set() if named else {"assumed_modality"})
    return NiftiHeader(ids, prod(shape) * dtype.itemsize, named or "MR", frozenset(flags)), None, ids


def _ids(file: SourceFile, head: bytes) -> Ids:
    """Return the ids that a path gives, and as UID of the series what is in the file: moved, it is still the same."""
    entities = dict.fromkeys(ENTITY.findall(file.relative))
    subject = next((e for e in entities if e.startswith("sub-")), file.case or stem_of(file))
    session = next((e for e in entities if e.startswith("ses-")), "")
    study = f"{subject} {session}" if file.case is not None or not is_placeholder(subject) else file.relative
    content = hashlib.blake2b(head or file.relative.encode(), digest_size=16).hexdigest()
    return Ids(subject, "", study, content, content, frozenset())


def _reason(error: Exception) -> Reason:
    if isinstance(error, DicomProblem):
        return error.reason
    if isinstance(error, OSError) and error.errno is not None:
        return Reason.UNREADABLE
    is_cut = isinstance(error, EOFError | WrapStructError) or "bytes" in str(
        error
    )  # nibabel: expected so many bytes, got so many
    return Reason.TRUNCATED if is_cut else Reason.CORRUPT


def _kind(data: bytes) -> Any:
    return nibabel.Nifti2Image if nibabel.Nifti2Header.may_contain_header(data) else nibabel.Nifti1Image


@contextmanager
def _opened(file: SourceFile) -> Iterator[Any]:
    with file.place.open() as handle:
        yield gzip.GzipFile(fileobj=handle) if file.relative.lower().endswith(".gz") else handle


def _sample(file: SourceFile) -> bytes:
    """Return bytes of the middle of a file, and its last ones: of a gzip file checksum and length of what is in it."""
    with file.place.open() as handle:
        handle.seek(file.num_bytes // 2)
        middle = handle.read(SAMPLE_BYTES)
        handle.seek(max(0, file.num_bytes - 8))
        return middle + handle.read()


def _times(header: Any) -> list[float] | None:
    """Return the seconds of each time point; None where the fourth axis is no time, or of unknown step."""
    step, unit = float(header["pixdim"][4]), SECONDS_A_UNIT.get(header.get_xyzt_units()[1])
    return [round(t * step * unit, 6) for t in range(header.get_data_shape()[3])] if unit and step > 0 else None


def _mm_a_unit(header: Any) -> float:
    return MM_A_UNIT.get(header.get_xyzt_units()[0], 1.0)


def with_modalities(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return all files, NIfTI files with the modality that a ``dataset.json`` above or beside them names.

    It may lie anywhere, in an archive too; above a source on a disk as well.
    """
    there = {file.relative: file.place for file in files if file.relative.endswith(f"/{ABOUT}")}
    channels: dict[tuple[PurePosixPath, Path | None], Mapping[str, Any]] = {}

    def said(file: SourceFile) -> str | None:
        folder = PurePosixPath(file.relative).parent
        path = file.place.path.parent if isinstance(file.place, LocalFile) else None
        if (folder, path) not in channels:
            near = [there.get(f"{where}/{ABOUT}") for where in (folder.parent, folder)]
            near += [LocalFile(where / ABOUT) for where in (path.parent, path)] if path is not None else []
            channels[folder, path] = next((found for place in near if place and (found := _channels(place))), {})
        channel = CHANNEL.search(SUFFIX.sub("", file.relative))
        return MODALITIES.get(str(channels[folder, path].get(str(int(channel[1]) if channel else 0), "")).upper())

    return [replace(file, modality=said(file)) if is_nifti(file) else file for file in files]


def _channels(place: Place) -> dict[str, Any]:
    try:
        with place.open() as handle:
            about = json.loads(handle.read(MAX_ABOUT_BYTES))
        found = about.get("modality") or about.get("channel_names") or {}
    except (DicomProblem, OSError, ValueError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
