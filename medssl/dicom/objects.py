"""Kinds of DICOM objects by their SOP class: which are pictures, slices or cines, and which are neither."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

from pydicom import uid

from medssl.dicom.reasons import Reason


class Kind(StrEnum):
    """What an object becomes: a volume of its own, a part of a stack, or a volume with a time axis of its own."""

    PICTURE = "picture"
    SLICE = "slice"  # one or many frames, each of them located
    CINE = "cine"  # many frames in the order of time; one volume for each ``Frame.split``


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
SLICES = {
    uid.CTImageStorage,
    uid.EnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedCTImageStorage,
    uid.MRImageStorage,
    uid.EnhancedMRImageStorage,
    uid.EnhancedMRColorImageStorage,
    uid.LegacyConvertedEnhancedMRImageStorage,
    uid.PositronEmissionTomographyImageStorage,
    uid.EnhancedPETImageStorage,
    uid.LegacyConvertedEnhancedPETImageStorage,
    uid.XRay3DAngiographicImageStorage,
    uid.XRay3DCraniofacialImageStorage,
    uid.BreastTomosynthesisImageStorage,
    uid.OphthalmicTomographyImageStorage,
    uid.EnhancedUSVolumeStorage,
}
# Those that are located all the same become slices, those of one frame pictures.
CINES = {
    uid.UltrasoundImageStorage,
    uid.UltrasoundMultiFrameImageStorage,
    uid.UID("1.2.840.10008.5.1.4.1.1.6"),  # ultrasound, retired
    uid.UID("1.2.840.10008.5.1.4.1.1.3"),  # ultrasound multi-frame, retired
    uid.XRayAngiographicImageStorage,
    uid.XRayRadiofluoroscopicImageStorage,
    uid.EnhancedXAImageStorage,
    uid.EnhancedXRFImageStorage,
    uid.NuclearMedicineImageStorage,
    uid.UID("1.2.840.10008.5.1.4.1.1.5"),  # nuclear medicine, retired
    uid.BreastProjectionXRayImageStorageForPresentation,
    uid.BreastProjectionXRayImageStorageForProcessing,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
}
SEGMENTATIONS = {uid.SegmentationStorage, uid.SurfaceSegmentationStorage, uid.RTStructureSetStorage}
DERIVED = {uid.RTDoseStorage, uid.ParametricMapStorage}
# Scanners of these kinds write names into the pixels, and say in the header that they do not.
BURNED_IN_RISK = ("Ultrasound", " US ", "Secondary Capture", "X-Ray Angio", "X-Ray Radiofluoro", " XA ", " XRF ")


@lru_cache(256)
def kind_of(sop_class: str) -> Kind | Reason:
    """Return what an object of this class becomes, or why it becomes nothing."""
    known = uid.UID(sop_class)
    for members, kind in ((SLICES, Kind.SLICE), (PICTURES, Kind.PICTURE), (CINES, Kind.CINE)):
        if known in members:
            return kind
    return _reason(known)


@lru_cache(256)
def is_risky(sop_class: str) -> bool:
    """Return whether objects of this class tend to hold text in their pixels."""
    name = uid.UID(sop_class).name
    return any(word in name for word in BURNED_IN_RISK)


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
    if "Secondary Capture" in name:
        return Reason.SECONDARY_CAPTURE
    if " SR" in name or "Key Object" in name or "Presentation State" in name or "Encapsulated" in name:
        return Reason.REPORT_OBJECT
    return Reason.UNSUPPORTED_OBJECT if is_image(known) else Reason.NO_IMAGE_OBJECT
