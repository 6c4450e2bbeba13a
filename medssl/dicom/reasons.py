"""Why a file did not become (part of) a volume, and the outcome that each reason means."""

from __future__ import annotations

from enum import StrEnum

from medssl.core.types import Outcome


class Reason(StrEnum):
    """One word a cause; ``outcome`` says what it means for the file."""

    # no image in it
    NOT_DICOM = "not_dicom"
    DICOMDIR = "dicomdir"
    REPORT_OBJECT = "report_object"
    NO_IMAGE_OBJECT = "no_image_object"
    # not to be looked at without its image
    LABEL_MAP = "label_map"
    # a sound file that this version does not turn into a volume
    ARCHIVE = "archive"  # of a kind that is not read
    NESTED_ARCHIVE = "nested_archive"
    OTHER_IMAGE_FORMAT = "other_image_format"
    MULTI_PAGE = "multi_page"
    SEGMENTATION = "segmentation"
    MASK_WITHOUT_IMAGE = "mask_without_image"  # of no volume in the pool
    MASK_EMPTY = "mask_empty"
    DERIVED_OBJECT = "derived_object"
    SECONDARY_CAPTURE = "secondary_capture"
    UNSUPPORTED_OBJECT = "unsupported_object"
    LOCALIZER = "localizer"
    SINGLE_SLICE = "single_slice"
    TIME_AXIS = "time_axis"
    OTHER_DIMENSION = "other_dimension"  # than `ingest --prepare` asks for
    # something that the operator must look at
    UNREADABLE = "unreadable"
    LINK_OUTSIDE = "link_outside"  # leads out of its source
    DAMAGED_ARCHIVE = "damaged_archive"
    TRUNCATED_ARCHIVE = "truncated_archive"
    ARCHIVE_BOMB = "archive_bomb"
    ENCRYPTED = "encrypted"
    UNSUPPORTED_MEMBER = "unsupported_member"  # of an archive: a compression that is not read, a sparse file
    EMPTY = "empty"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    NO_PIXEL_DATA = "no_pixel_data"
    MISSING_UID = "missing_uid"
    TOO_LARGE = "too_large"
    SOURCE_CHANGED = "source_changed"
    FRAME_COUNT = "frame_count"  # the number of frames contradicts the pixels or the functional groups
    MOSAIC = "mosaic"  # whose header does not say where its tiles lie
    UNSUPPORTED_SYNTAX = "unsupported_syntax"
    NEEDS_IMAGECODECS = "needs_imagecodecs"  # these name the package to install
    NEEDS_OPENJPEG = "needs_pylibjpeg_openjpeg"
    NEEDS_PILLOW = "needs_pillow"
    NEEDS_PYJPEGLS = "needs_pyjpegls"
    NEEDS_RLE = "needs_pylibjpeg_rle"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    BAD_PIXEL_FORMAT = "bad_pixel_format"
    DECODE_FAILED = "decode_failed"
    DECODER_DIED = "decoder_died"
    BURNED_IN_ANNOTATION = "burned_in_annotation"
    BURNED_IN_RISK = "burned_in_risk"
    NO_GEOMETRY = "no_geometry"
    BAD_GEOMETRY = "bad_geometry"
    UNEVEN_SPACING = "uneven_spacing"
    MISSING_SLICES = "missing_slices"
    NOT_RESAMPLED = "not_resampled"  # missing or uneven slices, although gaps are allowed: too many, or colours
    DUPLICATE_POSITION = "duplicate_position"
    STRAY_SLICE = "stray_slice"
    INCOMPLETE_TIME_POINT = "incomplete_time_point"
    CONFLICTING_PIXELS = "conflicting_pixels"
    LATE_SLICES = "late_slices"
    MASK_GEOMETRY = "mask_geometry"  # not on the grid of its image
    WORKER_DIED = "worker_died"  # while it built this series, whose files can be decoded one by one; or had no memory
    BUILD_FAILED = "build_failed"

    @property
    def outcome(self) -> Outcome:
        """What became of a file for this reason."""
        if self in NON_IMAGE:
            return Outcome.NON_IMAGE
        if self is Reason.LABEL_MAP:
            return Outcome.LABEL
        return Outcome.EXCLUDED if self in EXCLUDED else Outcome.QUARANTINED


NON_IMAGE = frozenset({Reason.NOT_DICOM, Reason.DICOMDIR, Reason.REPORT_OBJECT, Reason.NO_IMAGE_OBJECT})
EXCLUDED = frozenset(
    {
        Reason.ARCHIVE,
        Reason.NESTED_ARCHIVE,
        Reason.OTHER_IMAGE_FORMAT,
        Reason.MULTI_PAGE,
        Reason.SEGMENTATION,
        Reason.MASK_WITHOUT_IMAGE,
        Reason.MASK_EMPTY,
        Reason.DERIVED_OBJECT,
        Reason.SECONDARY_CAPTURE,
        Reason.UNSUPPORTED_OBJECT,
        Reason.LOCALIZER,
        Reason.SINGLE_SLICE,
        Reason.TIME_AXIS,
        Reason.OTHER_DIMENSION,
    }
)
# What may have nothing to do with the file: a later run looks again.
PASSING = frozenset(
    {
        Reason.UNREADABLE,
        Reason.SOURCE_CHANGED,
        Reason.MASK_WITHOUT_IMAGE,
        *(reason for reason in Reason if reason.startswith("needs_")),
    }
)


class DicomProblem(Exception):
    """A file, or a set of slices, that cannot be used; it carries a reason and never a value of the file."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason

    def __reduce__(self) -> tuple[type[DicomProblem], tuple[Reason]]:
        return type(self), (self.reason,)
