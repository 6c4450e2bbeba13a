"""Kinds of DICOM objects by their SOP class: which are pictures, which are slices, which are neither."""

from __future__ import annotations

from enum import StrEnum

from pydicom import uid

from medssl.dicom.reasons import Reason


class Kind(StrEnum):
    """What an object becomes: a volume of its own, or a part of a stack."""

    PICTURE = "picture"
    SLICE = "slice"


PICTURES = {
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForProcessing,
    uid.DigitalIntraOralXRayImageStorageForPresentation,
    uid.DigitalIntraOralXRayImageStorageForProcessing,
    uid.OphthalmicPhotography8BitImageStorage,
    uid.OphthalmicPhotography16BitImageStorage,
}
SLICES = {uid.CTImageStorage, uid.MRImageStorage, uid.PositronEmissionTomographyImageStorage}
SEGMENTATIONS = {uid.SegmentationStorage, uid.SurfaceSegmentationStorage, uid.RTStructureSetStorage}
DERIVED = {uid.RTDoseStorage, uid.ParametricMapStorage}
# Scanners of these kinds write names into the pixels, and say in the header that they do not.
BURNED_IN_RISK = {
    uid.UltrasoundImageStorage,
    uid.UID("1.2.840.10008.5.1.4.1.1.6"),  # ultrasound, retired
    uid.XRayAngiographicImageStorage,
    uid.XRayRadiofluoroscopicImageStorage,
}
MULTI_FRAME_WORDS = ("Enhanced", "Multi-frame", "Legacy Converted", "Tomosynthesis", "3D", "Nuclear Medicine")


def kind_of(sop_class: str) -> Kind | Reason:
    """Return what an object of this class becomes, or why it becomes nothing."""
    known = uid.UID(sop_class)
    if known in PICTURES:
        return Kind.PICTURE
    if known in SLICES:
        return Kind.SLICE
    return _reason(known)


def is_image(sop_class: str) -> bool:
    """Return whether objects of this class must hold pixels, so that one without them is damaged."""
    known = uid.UID(sop_class)
    return "Image Storage" in known.name or known in DERIVED or known == uid.SegmentationStorage


def _reason(known: uid.UID) -> Reason:
    name = known.name
    if known == uid.MediaStorageDirectoryStorage:
        return Reason.DICOMDIR
    if known in SEGMENTATIONS:
        return Reason.SEGMENTATION
    if known in DERIVED:
        return Reason.DERIVED_OBJECT
    if known in BURNED_IN_RISK:
        return Reason.BURNED_IN_RISK
    if "Secondary Capture" in name:
        return Reason.SECONDARY_CAPTURE
    if any(word in name for word in MULTI_FRAME_WORDS) and is_image(known):
        return Reason.MULTI_FRAME
    if " SR" in name or "Key Object" in name or "Presentation State" in name or "Encapsulated" in name:
        return Reason.REPORT_OBJECT
    return Reason.UNSUPPORTED_OBJECT if is_image(known) else Reason.NO_IMAGE_OBJECT
