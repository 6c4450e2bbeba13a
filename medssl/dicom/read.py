"""Reading a header: from the elements of a file to typed facts, every defect to a reason."""

from __future__ import annotations

import errno
import re
from dataclasses import replace

from medssl.core.places import Place
from medssl.dicom import frames, mosaic
from medssl.dicom.elements import first
from medssl.dicom.fields import Fields, words_of
from medssl.dicom.header import Acquisition, Frame, Header, Ids, Person, PixelFormat, Read
from medssl.dicom.objects import Kind, is_image, is_risky, kind_of
from medssl.dicom.parse import Parsed, parse
from medssl.dicom.pixels import pixel_format
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.dicom.vocabulary import VIEW_CODES
from medssl.dicom.wanted import NAMES, WANTED

SCREENS = {"SCREEN SAVE", "SCREENSAVE", "SCREEN CAPTURE"}


def read_header(place: Place) -> Read:
    """Read the header of the file at ``place``; a defect comes back as a reason, never as an exception."""
    with quiet():
        return _read(place)


def _read(place: Place) -> Read:
    ids = None
    try:
        parsed = parse(place, WANTED)
        ids = _ids(parsed.fields)
        sop_class = parsed.fields.text("SOPClassUID") or parsed.media_class
        kind = _kind(parsed, sop_class)
        return Read(_header(parsed, kind, sop_class, ids), None, ids)
    except DicomProblem as problem:
        return Read(None, problem.reason, ids)
    except OSError as error:  # EINVAL after a seek to a damaged length
        return Read(None, Reason.CORRUPT if error.errno in (None, errno.EINVAL) else Reason.UNREADABLE, ids)
    except Exception:  # nothing else is known to happen; if it does, it costs this file only
        return Read(None, Reason.CORRUPT, ids)


def _ids(fields: Fields) -> Ids:
    study, series, sop = (fields.text(f"{level}InstanceUID") for level in ("Study", "Series", "SOP"))
    name = words_of(fields.text("PatientName"))
    return Ids(fields.text("PatientID"), fields.text("IssuerOfPatientID"), study, series, sop, name)


def _kind(parsed: Parsed, sop_class: str) -> Kind:
    """Return what a usable image of this class becomes.

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
    image_type = {value.upper() for value in parsed.fields.texts("ImageType")}
    if image_type & {"LOCALIZER", "SCOUT", "TOPOGRAM"}:
        raise DicomProblem(Reason.LOCALIZER)
    if image_type & SCREENS:
        raise DicomProblem(Reason.SECONDARY_CAPTURE)
    return kind


def _header(parsed: Parsed, kind: Kind, sop_class: str, ids: Ids) -> Header:
    fields = parsed.fields
    if not (ids.study_uid and ids.series_uid and ids.sop_uid):
        raise DicomProblem(Reason.MISSING_UID)
    pixels = pixel_format(parsed)
    num_tiles = mosaic.num_tiles(fields) if kind is Kind.SLICE and pixels.num_encoded == 1 else 0
    if num_tiles:
        pixels = replace(pixels, tiles=next(side for side in range(1, num_tiles + 1) if side**2 >= num_tiles))
        found = mosaic.tiles(fields, num_tiles, pixels)
    else:
        kind, found = _frames(parsed, kind, pixels)
    regions = frames.regions_of(parsed.items, fields)
    scales = {region.spacing_mm for region in regions}
    if len(scales) == 1 and None not in scales:
        found = tuple(replace(one, plane=replace(one.plane, spacing_mm=scales.copy().pop())) for one in found)
    person, acquisition = _person(fields), _acquisition(parsed)
    return Header(kind, ids, person, pixels, found, acquisition, _flags(parsed, sop_class), regions)


def _frames(parsed: Parsed, kind: Kind, pixels: PixelFormat) -> tuple[Kind, tuple[Frame, ...]]:
    """Return the frames of an object of this kind, and what they make of it.

    Raises:
        DicomProblem: the frames should be slices and are not located.
    """
    fields, num, is_signed = parsed.fields, pixels.num_encoded, pixels.is_signed
    found = frames.grouped(fields, parsed.items, num, is_signed=is_signed)
    if not found and kind is Kind.CINE and frames.DETECTORS in parsed.items:
        found = frames.nuclear(fields, parsed.items, num, is_signed=is_signed)
    num_places = frames.num_places(found) if kind is not Kind.PICTURE else 0
    if num_places > 1 or num_places == num:
        return Kind.SLICE, found
    if num_places:
        return Kind.CINE, frames.in_time(found)
    if num == 1:
        is_cine = kind is Kind.CINE
        return Kind.PICTURE if is_cine else kind, found or frames.single(fields, is_signed=is_signed)
    if kind is Kind.SLICE or fields.raw("SliceVector")[1]:
        raise DicomProblem(Reason.NO_GEOMETRY)
    return Kind.CINE, found or frames.unlocated(fields, num, is_signed=is_signed)


def _flags(parsed: Parsed, sop_class: str) -> frozenset[str]:
    fields = parsed.fields
    flags = {
        "derived": fields.text("ImageType").upper() == "DERIVED",
        "padding_range": bool(fields.texts("PixelPaddingRangeLimit")),
        "burned_in_annotation": fields.text("BurnedInAnnotation").upper() == "YES",
        "burned_in_risk": is_risky(sop_class),
        "character_set": fields.replaced,
        "modality_lut": frames.MODALITY_LUT in parsed.items,  # which stored values have not been through
    }
    return frozenset(flag for flag, is_set in flags.items() if is_set)


def _person(fields: Fields) -> Person:
    return Person(
        birth_date=fields.text("PatientBirthDate"),
        age=fields.text("PatientAge"),
        sex=fields.text("PatientSex"),
        institution=fields.text("InstitutionName"),
        words=words_of(*(text for keyword in NAMES for text in fields.texts(keyword))),
    )


def _acquisition(parsed: Parsed) -> Acquisition:
    fields = parsed.fields
    dates = (fields.text(f"{level}Date") for level in ("Study", "Series", "Acquisition"))
    split = ("SeriesNumber", "ImageType", "EchoNumbers", "EchoTime", "ConvolutionKernel")
    return Acquisition(
        date=next(filter(None, dates), ""),
        modality=fields.text("Modality"),
        manufacturer=fields.text("Manufacturer"),
        model=fields.text("ManufacturerModelName"),
        body_part=fields.text("BodyPartExamined"),
        view=fields.text("ViewPosition") or _coded_view(parsed),
        laterality=fields.text("ImageLaterality") or fields.text("Laterality") or _frame_laterality(parsed),
        scanning_sequence=fields.texts("ScanningSequence"),
        dimensions=fields.text("MRAcquisitionType"),
        split=tuple("\\".join(fields.texts(keyword)) for keyword in split),
    )


def _coded_view(parsed: Parsed) -> str:
    code = parsed.fields.only(first(parsed.items, frames.VIEW)).text("CodeValue")
    return VIEW_CODES.get(code, "")


def _frame_laterality(parsed: Parsed) -> str:
    """Return the side that all frames show; blank where they differ or do not say."""
    groups = (*parsed.items.get(frames.SHARED, ()), *parsed.items.get(frames.PER_FRAME, ()))
    sides = {parsed.fields.only(group).text("FrameLaterality") for group in groups} - {""}
    return sides.pop() if len(sides) == 1 else ""
