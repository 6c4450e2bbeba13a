"""The frames of an object: where each of them lies, what its values mean, which volume and time point it belongs to.

Source: DICOM PS3.3, C.7.6.16 (functional groups), C.8.4.8 and C.8.4.15 (nuclear medicine), C.8.5.5 (regions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from medssl.dicom.elements import Found
from medssl.dicom.fields import Fields, tag_of
from medssl.dicom.header import PHASES, WINDOW_FLAGS, Frame, Plane, Region, Values
from medssl.dicom.reasons import DicomProblem, Reason

SHARED, PER_FRAME, DIMENSIONS, DETECTORS, REGIONS, MODALITY_LUT, VIEW = (
    tag_of(keyword)[0]
    for keyword in (
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "DimensionIndexSequence",
        "DetectorInformationSequence",
        "SequenceOfUltrasoundRegions",
        "ModalityLUTSequence",
        "ViewCodeSequence",
    )
)
# Indices along these dimensions say where a frame lies, not what tells it from another one at the same place.
PLACES = {
    tag_of(keyword)[0]
    for keyword in ("StackID", "InStackPositionNumber", "ImagePositionPatient", "ImagePositionVolume")
}
PLACED = ("ImagePositionPatient", "ImagePositionVolume")  # the latter from the corner of a volume, wherever that lies
TURNED = ("ImageOrientationPatient", "ImageOrientationVolume")
SPACED = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
THICK = ("SliceThickness", "SpacingBetweenSlices")
VALUED = ("RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth", "VOILUTFunction")
SPLIT = ("StackID", "FrameType", "ComplexImageComponent", "EffectiveEchoTime", "EchoTime", "VelocityEncodingDirection")
NUCLEAR_SPLIT = ("EnergyWindowVector", "DetectorVector", "RotationVector", "RRIntervalVector")
NUCLEAR_PHASE = ("PhaseVector", "TimeSlotVector", "TimeSliceVector", "AngularViewVector")
CENTIMETRES = 3  # of PhysicalUnitsXDirection
TWO_DIMENSIONAL = 1  # of RegionSpatialFormat
GE_B_OFFSET = 10**9

Items = Mapping[int, Sequence[Found]]


def single(fields: Fields, *, is_signed: bool) -> tuple[Frame, ...]:
    """Return the one frame of a plain object."""
    plane = plane_of(fields, int(fields.number("InstanceNumber") or 0))
    return (Frame(0, plane, values_of(fields, is_signed=is_signed), phase_of(fields)),)


def grouped(fields: Fields, items: Items, num: int, *, is_signed: bool) -> tuple[Frame, ...]:
    """Return the frames of an object with functional groups, shared or not; none where it has none.

    Raises:
        DicomProblem: it has groups for another number of frames.
    """
    groups, shared = items.get(PER_FRAME, ()), next(iter(items.get(SHARED, ())), {})
    if len(groups) not in (0, num) and (groups or num > 1):
        raise DicomProblem(Reason.FRAME_COUNT)
    if not groups and not (shared and num == 1):
        return ()
    dimensions = _dimensions(fields, items)
    seen: dict[tuple[object, ...], Values] = {}  # most frames share them
    frames = []
    for index, group in enumerate(groups or ({},)):
        inside = fields.inside(group, shared)
        key = tuple(inside.raw(keyword) for keyword in VALUED)
        if key not in seen:
            seen[key] = values_of(inside, is_signed=is_signed)
        plane = plane_of(fields.only(group, shared), index)
        split = tuple("\\".join(inside.texts(keyword)) for keyword in SPLIT)
        frames.append(Frame(index, plane, seen[key], phase_of(inside, dimensions), split))
    return tuple(frames)


def nuclear(fields: Fields, items: Items, num: int, *, is_signed: bool) -> tuple[Frame, ...]:
    """Return the frames of a nuclear medicine image; those of a reconstruction are located by their slice number."""
    vectors = dict(_vectors(fields, num))
    values = values_of(fields, is_signed=is_signed)
    detectors = items.get(DETECTORS, ())
    slices, spacing = vectors.get("SliceVector"), fields.number("SpacingBetweenSlices")
    frames = []
    for index in range(num):
        split = tuple(str(vectors[keyword][index]) for keyword in NUCLEAR_SPLIT if keyword in vectors)
        times = [str(vectors[keyword][index]) for keyword in NUCLEAR_PHASE if keyword in vectors]
        plane = Plane(spacing_mm=_spacing(fields), instance_number=index)
        detector = vectors["DetectorVector"][index] if "DetectorVector" in vectors else 1
        if slices and spacing and 1 <= detector <= len(detectors):
            first = plane_of(fields.inside(detectors[detector - 1]), index)
            plane = shifted(first, (slices[index] - 1) * spacing)
        frames.append(Frame(index, plane, values, ("\\".join(times), *phase_of(fields)[1:]), split))
    return tuple(frames)


def unlocated(fields: Fields, num: int, *, is_signed: bool) -> tuple[Frame, ...]:
    """Return frames of which nothing is known but their order."""
    plane = Plane(spacing_mm=_spacing(fields))
    values, phase = values_of(fields, is_signed=is_signed), phase_of(fields)
    return tuple(Frame(index, plane, values, phase) for index in range(num))


def num_places(frames: Sequence[Frame]) -> int:
    """Return at how many places the frames lie; 0 where one of them does not say."""
    planes = {(frame.plane.position, frame.plane.orientation) for frame in frames}
    return len(planes) if all(place and turn for place, turn in planes) else 0


def in_time(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Return frames of one place in the order of the first phase that tells all of them apart, else as they are."""
    for slot in range(len(PHASES)):
        try:
            when = {frame: float(frame.phase[slot].split("\\")[-1]) for frame in frames}
        except ValueError:
            continue
        if len({(frame.split, time) for frame, time in when.items()}) == len(frames):
            return tuple(sorted(frames, key=when.__getitem__))
    return tuple(frames)


def shifted(plane: Plane, distance: float) -> Plane:
    """Return the plane moved along its normal by ``distance`` mm; without a position where it has none."""
    if plane.position is None or plane.orientation is None:
        return plane
    normal = np.cross(plane.orientation[:3], plane.orientation[3:])
    position = tuple(float(v) for v in np.array(plane.position) + normal * distance)
    return replace(plane, position=position)


def plane_of(fields: Fields, number: int) -> Plane:
    """Return where an image lies."""
    placed = [fields.numbers(keyword, 3) for keyword in PLACED]
    frame = 1 if placed[0] is None and placed[1] is not None else 0
    return Plane(
        position=placed[frame],
        orientation=fields.numbers(TURNED[frame], 6),
        spacing_mm=_spacing(fields),
        instance_number=number,
        thickness_mm=next((abs(mm) for mm in map(fields.number, THICK) if mm), None),
        in_patient=frame == 0,
    )


def values_of(fields: Fields, *, is_signed: bool) -> Values:
    """Return what stored values mean."""
    slope, intercept = fields.number("RescaleSlope"), fields.number("RescaleIntercept")
    width = fields.number("WindowWidth")
    center = fields.number("WindowCenter") if width is not None and width > 0 else None
    function = fields.text("VOILUTFunction").upper()
    padding = fields.shorts("PixelPaddingValue", signed=is_signed)
    return Values(
        slope=slope or 1.0,  # a slope of 0 would erase the image
        intercept=intercept or 0.0,
        has_rescale=bool(slope) and intercept is not None,
        rescale_type=fields.text("RescaleType").upper(),
        window_center=center,
        window_width=width if center is not None else None,
        window_function=function if center is not None and function in WINDOW_FLAGS else "",
        padding=padding[0] if padding else None,
    )


def phase_of(fields: Fields, dimensions: Sequence[int] | None = None) -> tuple[str, ...]:
    """Return the slots of ``PHASES``; ``dimensions`` are those indices that are no places."""
    found = ["\\".join(t for keyword in keywords for t in _texts(fields, keyword)) for keywords in PHASES[:-1]]
    indices = fields.texts("DimensionIndexValues") if dimensions else ()
    return *found, "\\".join(indices[i] for i in dimensions or () if i < len(indices))


def _texts(fields: Fields, keyword: str) -> Sequence[str]:
    """Return the values of an element; of GE's b-value without the 10^9 that its scanners add to some."""
    texts = fields.texts(keyword)
    if keyword == "GEBValue" and texts and texts[0].strip().isdigit():
        return [str(int(texts[0]) % GE_B_OFFSET), *texts[1:]]
    return texts


def regions_of(items: Items, fields: Fields) -> tuple[Region, ...]:
    """Return the calibrated regions of an ultrasound image."""
    found = []
    for item in items.get(REGIONS, ()):
        region = fields.only(item)
        corners = [region.number(f"RegionLocation{name}") for name in ("MinY0", "MinX0", "MaxY1", "MaxX1")]
        if any(corner is None for corner in corners):
            continue
        units = [region.number(f"PhysicalUnits{axis}Direction") for axis in "YX"]
        deltas = [abs(region.number(f"PhysicalDelta{axis}") or 0.0) * 10 for axis in "YX"]
        is_flat = region.number("RegionSpatialFormat") == TWO_DIMENSIONAL and units == [CENTIMETRES] * 2
        rows = [int(corner or 0) for corner in corners]
        found.append(Region(rows[0], rows[1], rows[2], rows[3], tuple(deltas) if is_flat and all(deltas) else None))
    return tuple(found)


def _dimensions(fields: Fields, items: Items) -> list[int]:
    pointers = [fields.only(item).raw("DimensionIndexPointer")[1] for item in items.get(DIMENSIONS, ())]
    order: Literal["little", "big"] = "little" if fields.little else "big"
    tags = [int.from_bytes(p[:2], order) << 16 | int.from_bytes(p[2:4], order) for p in pointers]
    return [index for index, tag in enumerate(tags) if tag not in PLACES]


def _vectors(fields: Fields, num: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for keyword in (*NUCLEAR_SPLIT, *NUCLEAR_PHASE, "SliceVector"):
        vector = fields.numbers(keyword)
        if vector is not None and len(vector) == num:
            yield keyword, tuple(map(int, vector))


def _spacing(fields: Fields) -> tuple[float, ...] | None:
    spacings = (fields.numbers(keyword, 2) for keyword in SPACED)
    return next((s for s in spacings if s is not None and min(s) > 0), None)
