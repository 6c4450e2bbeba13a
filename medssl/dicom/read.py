"""Reading a header: from the elements of a file to typed facts, every defect to a reason."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from pydicom.datadict import tag_for_keyword

from medssl.dicom.fields import Fields, words_of
from medssl.dicom.header import PHASES, Acquisition, Header, Ids, Palette, Person, PixelFormat, Plane, Read, Values
from medssl.dicom.objects import Kind, is_image, kind_of
from medssl.dicom.parse import Parsed, PixelSpan, parse
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason

MAX_FRAME_BYTES = 1 << 30  # decoded
NAMES = [
    "PatientName",
    "OtherPatientNames",
    "ReferringPhysicianName",
    "OperatorsName",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansOfRecord",
    "RequestingPhysician",
    "InstitutionName",
    "InstitutionalDepartmentName",
    "PatientID",
    "OtherPatientIDs",
    "AccessionNumber",
    "StudyID",
    "DeviceSerialNumber",
]
PALETTES = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
KEYWORDS = [
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "AcquisitionTime",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "BodyPartExamined",
    "ViewPosition",
    "Laterality",
    "ImageLaterality",
    "ScanningSequence",
    "MRAcquisitionType",
    "EchoTime",
    "EchoNumbers",
    "TriggerTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TemporalPositionIdentifier",
    "SeriesNumber",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "BurnedInAnnotation",
]
MOSAIC_TILES = 0x0019100A  # Siemens
TAGS = frozenset(
    tag
    for keyword in [*KEYWORDS, *NAMES, *(p + part for p in PALETTES for part in ("Descriptor", "Data"))]
    if (tag := tag_for_keyword(keyword)) is not None
) | {MOSAIC_TILES}


def read_header(path: Path) -> Read:
    """Read the header of the file at ``path``; a defect comes back as a reason, never as an exception."""
    with quiet():
        return _read(path)


def _read(path: Path) -> Read:
    ids = None
    try:
        parsed = parse(path, TAGS)
        fields = Fields(parsed.dataset)
        ids = _ids(fields)
        sop_class = fields.text("SOPClassUID") or parsed.media_class
        return Read(_header(fields, parsed, _kind(fields, sop_class, parsed), ids), None, ids)
    except DicomProblem as problem:
        return Read(None, problem.reason, ids)
    except OSError as error:  # without a number from pydicom itself; EINVAL after a seek to a damaged length
        return Read(None, Reason.CORRUPT if error.errno in (None, errno.EINVAL) else Reason.UNREADABLE, ids)
    except Exception:  # damaged input makes pydicom raise nearly anything
        return Read(None, Reason.CORRUPT, ids)


def _ids(fields: Fields) -> Ids:
    study, series, sop = (fields.text(f"{level}InstanceUID") for level in ("Study", "Series", "SOP"))
    name = words_of(fields.text("PatientName"))
    return Ids(fields.text("PatientID"), fields.text("IssuerOfPatientID"), study, series, sop, name)


def _kind(fields: Fields, sop_class: str, parsed: Parsed) -> Kind:
    """Return what a usable image becomes.

    Raises:
        DicomProblem: not a usable image. A cut compressed file parses as a data set without pixels: by its class it
            is an image all the same.
    """
    if parsed.is_cut:
        raise DicomProblem(Reason.TRUNCATED)
    if not re.fullmatch(r"[0-9.]{3,64}", sop_class):
        raise DicomProblem(Reason.MISSING_UID if parsed.pixels else Reason.NOT_DICOM)
    kind = kind_of(sop_class)
    if parsed.pixels is None:
        raise DicomProblem(Reason.NO_PIXEL_DATA if is_image(sop_class) or isinstance(kind, Kind) else kind)
    if isinstance(kind, Reason):
        raise DicomProblem(Reason.UNSUPPORTED_OBJECT if kind is Reason.NO_IMAGE_OBJECT else kind)
    image_type = {value.upper() for value in fields.texts("ImageType")}
    if "MOSAIC" in image_type or _num_tiles(fields) > 1:
        raise DicomProblem(Reason.MOSAIC)
    if fields.integer("NumberOfFrames", 1) != 1:
        raise DicomProblem(Reason.MULTI_FRAME)
    if image_type & {"LOCALIZER", "SCOUT", "TOPOGRAM"}:
        raise DicomProblem(Reason.LOCALIZER)
    if fields.text("BurnedInAnnotation").upper() == "YES":
        raise DicomProblem(Reason.BURNED_IN_ANNOTATION)
    return kind


def _num_tiles(fields: Fields) -> int:
    element = fields.dataset.get(MOSAIC_TILES)
    value = element.value if element is not None else 0
    if isinstance(value, bytes):
        return int.from_bytes(value[:2], "little")
    return value if isinstance(value, int) else 0


def _header(fields: Fields, parsed: Parsed, kind: Kind, ids: Ids) -> Header:
    if not (ids.study_uid and ids.series_uid and ids.sop_uid):
        raise DicomProblem(Reason.MISSING_UID)
    if parsed.pixels is None:
        raise DicomProblem(Reason.NO_PIXEL_DATA)
    pixels = _pixel_format(fields, parsed.transfer_syntax, parsed.pixels)
    flags = {"derived"} if fields.text("ImageType").upper() == "DERIVED" else set()
    if fields.texts("PixelPaddingRangeLimit"):
        flags.add("padding_range")
    return Header(
        kind,
        ids,
        _person(fields),
        pixels,
        _plane(fields),
        _values(fields, is_signed=pixels.is_signed),
        _acquisition(fields),
        frozenset(flags),
    )


def _pixel_format(fields: Fields, syntax: str, span: PixelSpan) -> PixelFormat:
    if span.keyword != "PixelData":
        raise DicomProblem(Reason.UNSUPPORTED_PIXELS)
    photometric = fields.text("PhotometricInterpretation").upper()
    bits = fields.integer("BitsAllocated")
    stored = fields.integer("BitsStored", bits)
    pixels = PixelFormat(
        rows=fields.integer("Rows"),
        columns=fields.integer("Columns"),
        samples=fields.integer("SamplesPerPixel", 1),
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=fields.integer("HighBit", stored - 1),
        is_signed=fields.integer("PixelRepresentation", 0) == 1,
        photometric=photometric,
        planar=fields.integer("PlanarConfiguration", 0),
        transfer_syntax=syntax,
        span=span,
        palette=_palette(fields) if photometric == "PALETTE COLOR" else None,
    )
    if bits not in (8, 16, 32) or not 1 <= stored <= bits:
        raise DicomProblem(Reason.UNSUPPORTED_PIXELS if bits in (1, 64) else Reason.BAD_PIXEL_FORMAT)
    if min(pixels.rows, pixels.columns) < 1 or pixels.samples not in (1, 3) or not stored - 1 <= pixels.high_bit < bits:
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    if pixels.num_bytes > MAX_FRAME_BYTES:
        raise DicomProblem(Reason.TOO_LARGE)
    return pixels


def _palette(fields: Fields) -> Palette:
    descriptors = tuple(fields.shorts(f"{name}Descriptor", signed=False) for name in PALETTES)
    data = tuple(bytes(fields.get(f"{name}Data") or b"") for name in PALETTES)
    if any(len(d) != 3 for d in descriptors) or not all(data):
        raise DicomProblem(Reason.UNSUPPORTED_PIXELS)  # segmented tables
    return Palette(descriptors, data)


def _plane(fields: Fields) -> Plane:
    spacings = (fields.numbers(f"{prefix}Spacing", 2) for prefix in ("Pixel", "ImagerPixel", "NominalScannedPixel"))
    return Plane(
        position=fields.numbers("ImagePositionPatient", 3),
        orientation=fields.numbers("ImageOrientationPatient", 6),
        spacing_mm=next((s for s in spacings if s is not None and min(s) > 0), None),
        instance_number=int(fields.number("InstanceNumber") or 0),
    )


def _values(fields: Fields, *, is_signed: bool) -> Values:
    slope, intercept = fields.number("RescaleSlope"), fields.number("RescaleIntercept")
    width = fields.number("WindowWidth")
    center = fields.number("WindowCenter") if width is not None and width > 0 else None
    padding = fields.shorts("PixelPaddingValue", signed=is_signed)
    return Values(
        slope=slope or 1.0,  # a slope of 0 would erase the image
        intercept=intercept or 0.0,
        has_rescale=bool(slope) and intercept is not None,
        rescale_type=fields.text("RescaleType").upper(),
        window_center=center,
        window_width=width if center is not None else None,
        padding=padding[0] if padding else None,
    )


def _person(fields: Fields) -> Person:
    return Person(
        birth_date=fields.text("PatientBirthDate"),
        age=fields.text("PatientAge"),
        sex=fields.text("PatientSex"),
        institution=fields.text("InstitutionName"),
        words=words_of(*(text for keyword in NAMES for text in fields.texts(keyword))),
    )


def _acquisition(fields: Fields) -> Acquisition:
    dates = (fields.text(f"{level}Date") for level in ("Study", "Series", "Acquisition"))
    split = ("SeriesNumber", "ImageType", "EchoNumbers", "EchoTime")
    return Acquisition(
        date=next(filter(None, dates), ""),
        modality=fields.text("Modality"),
        manufacturer=fields.text("Manufacturer"),
        model=fields.text("ManufacturerModelName"),
        body_part=fields.text("BodyPartExamined"),
        view=fields.text("ViewPosition"),
        laterality=fields.text("ImageLaterality") or fields.text("Laterality"),
        scanning_sequence=fields.texts("ScanningSequence"),
        dimensions=fields.text("MRAcquisitionType"),
        split=tuple("\\".join(fields.texts(keyword)) for keyword in split),
        phase=tuple("\\".join(t for keyword in keywords for t in fields.texts(keyword)) for keywords in PHASES),
    )
