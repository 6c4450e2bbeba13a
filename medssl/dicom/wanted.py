"""Which elements a header is read for; all others are stepped over."""

from __future__ import annotations

from medssl.dicom import frames
from medssl.dicom.elements import Wanted
from medssl.dicom.fields import PRIVATE, tag_of
from medssl.dicom.header import PHASES
from medssl.dicom.pixels import PALETTES

NAMES = (  # whose words are no facts of the acquisition
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
)
WHOSE = """
    SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID
    StudyDate SeriesDate AcquisitionDate AcquisitionTime Modality Manufacturer ManufacturerModelName
    IssuerOfPatientID PatientBirthDate PatientSex PatientAge BodyPartExamined ViewPosition Laterality ImageLaterality
    ScanningSequence MRAcquisitionType EchoTime EchoNumbers ConvolutionKernel
    SeriesNumber AcquisitionNumber InstanceNumber SliceVector BurnedInAnnotation
"""
PIXELS = """
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns
    BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit
"""
OF_A_FRAME = (
    *frames.PLACED,
    *frames.TURNED,
    *frames.SPACED,
    *frames.THICK,
    *frames.VALUED,
    *frames.SPLIT,
    *(keyword for slot in PHASES for keyword in slot),
)
OF_A_REGION = """
    RegionSpatialFormat RegionLocationMinX0 RegionLocationMinY0 RegionLocationMaxX1 RegionLocationMaxY1
    PhysicalUnitsXDirection PhysicalUnitsYDirection PhysicalDeltaX PhysicalDeltaY
"""
MACROS = """
    FrameContentSequence PlanePositionSequence PlaneOrientationSequence PlanePositionVolumeSequence
    PlaneOrientationVolumeSequence PixelMeasuresSequence PixelValueTransformationSequence FrameVOILUTSequence
    MREchoSequence MRDiffusionSequence DiffusionGradientDirectionSequence MRVelocityEncodingSequence
    MRImageFrameTypeSequence CTImageFrameTypeSequence PETFrameTypeSequence XRay3DFrameTypeSequence
    CardiacSynchronizationSequence FrameAnatomySequence UnassignedPerFrameConvertedAttributesSequence
    UnassignedSharedConvertedAttributesSequence
"""


def _tags(keywords: str, *others: str) -> frozenset[int]:
    return frozenset(tag_of(keyword)[0] for keyword in (*keywords.split(), *others))


WANTED = Wanted(
    tags=_tags(WHOSE + PIXELS, *NAMES, *OF_A_FRAME, *frames.NUCLEAR_SPLIT, *frames.NUCLEAR_PHASE, *PALETTES, *PRIVATE),
    sequences={
        frames.SHARED,
        frames.PER_FRAME,
        frames.DIMENSIONS,
        frames.DETECTORS,
        frames.REGIONS,
        frames.MODALITY_LUT,
        frames.VIEW,
    },
    nested=_tags(OF_A_REGION, "DimensionIndexPointer", "CodeValue", "FrameLaterality", *OF_A_FRAME),
    macros=_tags(MACROS),
)
