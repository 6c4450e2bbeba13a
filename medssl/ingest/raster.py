"""Raster images (PNG, JPEG, TIFF, BMP) that a table names: one file is one flat volume, its pixels and nothing else.

Read by pillow, as stored: 8 or 16 bit, grey or colour. Neither EXIF nor text enters the pool; EXIF's orientation is
carried out.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medssl.dicom.deidentify import MAX_AGE_YEARS, Described, Pseudonyms, is_placeholder
from medssl.dicom.header import Ids
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.ingest.content import Content, digest, digest_of
from medssl.ingest.images import About, ImageTable
from medssl.ingest.nifti import is_nifti
from medssl.ingest.sources import SourceFile
from medssl.ingest.table import complain

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"BM")
MAX_PIXELS = 128 << 20
MAX_FILE_BYTES = 512 << 20
SAMPLE_BYTES = 1 << 16  # of a file, to tell it from others
RISKS = frozenset(["ES", "OT", "RF", "SC", "US", "XA", "XC"])  # kinds that often hold text in their pixels
ORIENTATION = 0x0112  # of EXIF
WHITE_IS_ZERO, PHOTOMETRIC = 0, 262  # of TIFF


@dataclass(frozen=True, slots=True)
class RasterHeader:
    """What ingest needs of one image; raw identifiers, from the table or the file's name, live here only."""

    ids: Ids
    num_bytes: int
    about: About
    flags: frozenset[str]

    def describe(self, pseudonyms: Pseudonyms) -> Described:
        """Return everything that may leave the header."""
        ids, about = self.ids, self.about
        return Described(
            patient=pseudonyms.patient(ids.patient_id, ids.issuer, ids.study_uid),
            study=pseudonyms.uid("study", ids.study_uid),
            series=pseudonyms.uid("series", ids.series_uid),
            modality=about.modality,
            sequence=None,
            body_part=about.body_part,
            view=about.view,
            laterality=about.laterality,
            site=None,
            scanner=None,
            sex=about.sex,
            age=None if about.age is None else min(about.age, MAX_AGE_YEARS),
            day=None,
            flags=self.flags | ({"placeholder_patient"} if is_placeholder(ids.patient_id) else set()),
        )

    def load(self, file: SourceFile) -> Content:
        """Return the pixels, ``Y X`` or ``Y X C`` (RGB), upright.

        Raises:
            DicomProblem: the file is cut, damaged, or of a kind of pixels that no volume has.
        """
        with file.place.open() as handle:
            data = handle.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise DicomProblem(Reason.TOO_LARGE)
        try:
            with quiet(), _opened(io.BytesIO(data)) as image:
                array = _upright(_pixels(image, data), image.getexif().get(ORIENTATION, 1))
        except DicomProblem:
            raise
        except Exception as error:  # damaged input makes pillow raise nearly anything
            raise DicomProblem(_reason(error)) from None
        spacing = list(self.about.spacing_mm) if self.about.spacing_mm else None
        return Content(
            array=array,
            digest=digest_of(digest(array), *(spacing or [])),
            spacing_mm=spacing,
            affine=None,
            units="stored",
            slope=1.0,
            intercept=0.0,
            window_center=None,
            window_width=None,
            padding=None,
            photometric="RGB" if array.ndim == 3 else "MONOCHROME2",
            flags=frozenset(),
        )


def with_images(files: Sequence[SourceFile], table: ImageTable) -> list[SourceFile]:
    """Return all files, those that a table names with what it says.

    Raises:
        LabelError: a row names no file, several, or one that is not for such a table.
    """
    named: dict[str, list[int]] = defaultdict(list)
    for i, file in enumerate(files):
        for name in {file.relative, file.below} & table.rows.keys():
            named[name].append(i)
    numbers = {name: number for name, (number, _) in table.rows.items()}
    complain(table.path, "that name no file of the sources", [numbers[n] for n in numbers if n not in named])
    complain(table.path, "that name several files", [numbers[n] for n, found in named.items() if len(found) > 1])
    complain(table.path, "that name NIfTI files", [numbers[n] for n, (i, *_) in named.items() if is_nifti(files[i])])
    given = {i: table.rows[name][1] for name, (i, *_) in named.items()}
    return [replace(file, about=given[i]) if i in given else file for i, file in enumerate(files)]


def is_raster(file: SourceFile) -> bool:
    """Return whether a file is an image of these kinds, by its first bytes.

    Raises:
        OSError: it cannot be read.
    """
    with file.place.open() as handle:
        head = handle.read(132)
    return head.startswith(MAGIC) and head[128:] != b"DICM"


def read_header(file: SourceFile, about: About) -> tuple[RasterHeader | None, Reason | None, Ids]:
    """Return the header of an image, or the reason why it cannot be used; its ids in any case."""
    ids = _ids(file, about, b"")
    try:
        with file.place.open() as handle, quiet():
            ids = _ids(file, about, _sample(handle, file.num_bytes))
            handle.seek(0)
            with _opened(handle) as image:
                num_bytes = image.width * image.height * (3 if _is_colour(image) else 1) * _bytes_a_value(image)
                if _has_pages(image):
                    return None, Reason.MULTI_PAGE, ids
    except DicomProblem as problem:
        return None, problem.reason, ids
    except Exception as error:
        return None, _reason(error), ids
    flags = set() if about.patient else {"patient_from_file_name"}
    flags |= {"burned_in_risk"} if about.modality in RISKS else set()
    return RasterHeader(ids, num_bytes, about, frozenset(flags)), None, ids


def _ids(file: SourceFile, about: About, sample: bytes) -> Ids:
    """Return the ids that table and path give, and as UID of the series what is in the file: moved, it is the same."""
    patient = about.patient or file.relative.rpartition("/")[2].rpartition(".")[0]
    study = f"{patient} {about.study}" if about.study or not is_placeholder(patient) else file.relative
    content = hashlib.blake2b(sample or file.relative.encode(), digest_size=16).hexdigest()
    return Ids(patient, "", study, content, content, frozenset())


def _sample(handle: Any, num_bytes: int) -> bytes:
    parts = [str(num_bytes).encode()]
    for at in (0, num_bytes // 2, max(0, num_bytes - SAMPLE_BYTES)):
        handle.seek(at)
        parts.append(handle.read(SAMPLE_BYTES))
    return b"".join(parts)


def _opened(handle: Any) -> Image.Image:
    image = Image.open(handle, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise DicomProblem(Reason.TOO_LARGE)
    return image


def _reason(error: Exception) -> Reason:
    if isinstance(error, Image.DecompressionBombError):
        return Reason.TOO_LARGE
    if isinstance(error, OSError) and error.errno is not None:
        return Reason.UNREADABLE
    return Reason.TRUNCATED if "truncated" in str(error).lower() else Reason.CORRUPT


def _has_pages(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _is_colour(image: Image.Image) -> bool:
    return image.mode not in ("1", "L", "LA", "F", "I") and not image.mode.startswith("I;")


def _bytes_a_value(image: Image.Image) -> int:
    if image.mode in ("F", "I"):
        return 4
    return 2 if image.mode.startswith("I;") or _is_deep_colour(image) else 1


def _is_deep_colour(image: Image.Image) -> bool:
    """Return whether an image has 16 bits a colour, of which pillow keeps the higher 8."""
    return _is_colour(image) and any(";16" in str(tile.args) for tile in _tiles(image))


def _tiles(image: Image.Image) -> list[Any]:
    return list(getattr(image, "tile", ()))


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _pixels(image: Image.Image, data: bytes) -> NDArray[Any]:
    if _is_deep_colour(image):
        return _opaque(_deep_colour(data))
    is_inverted = _tags(image).get(PHOTOMETRIC) == WHITE_IS_ZERO
    image.load()
    if image.mode in ("P", "PA") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode == "YCbCr":
        image = image.convert("RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        raise DicomProblem(Reason.UNSUPPORTED_PIXELS)
    array = np.asarray(image)
    if is_inverted and image.mode.startswith("I;16"):  # pillow turns 8 bits only
        array = np.subtract(array.dtype.type(0xFFFF), array)
    return _opaque(array)


def _deep_colour(data: bytes) -> NDArray[Any]:
    """Return 16-bit colours: read in the wrong byte order, the higher 8 bits are those that were the lower ones."""
    with _opened(io.BytesIO(data)) as image:
        high = np.asarray(image).astype(np.uint16)
    with _opened(io.BytesIO(data)) as image:
        turned = [tile._replace(args=_turned(tile.args)) for tile in _tiles(image)]
        image.tile = turned  # type: ignore[attr-defined]
        low = np.asarray(image)
    found: NDArray[Any] = high << 8 | low
    return found


def _turned(args: Any) -> Any:
    """Return the arguments of pillow's decoder in the other byte order."""
    mode, *rest = (args,) if isinstance(args, str) else args
    native = "L" if sys.byteorder == "little" else "B"
    base, _, order = mode.replace(";16N", f";16{native}").partition(";16")
    if base not in ("RGB", "RGBA") or order not in ("L", "B"):
        raise DicomProblem(Reason.UNSUPPORTED_PIXELS)
    mode = f"{base};16{'B' if order == 'L' else 'L'}"
    return mode if isinstance(args, str) else (mode, *rest)


def _opaque(array: NDArray[Any]) -> NDArray[Any]:
    """Return grey or RGB; an alpha channel must not hide anything."""
    if array.ndim == 3 and array.shape[2] in (2, 4):
        if array[..., -1].min() < np.iinfo(array.dtype).max:
            raise DicomProblem(Reason.UNSUPPORTED_PIXELS)
        array = array[..., :-1]
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn and mirror as EXIF says."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    array = np.flip(array, flips)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))
