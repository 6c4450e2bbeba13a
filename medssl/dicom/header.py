"""The header of one image: what ingest needs of it, typed; raw identifiers live here, and in memory only."""

from __future__ import annotations

from dataclasses import dataclass

from medssl.dicom.objects import Kind
from medssl.dicom.parse import PixelSpan
from medssl.dicom.reasons import Reason

# What may tell apart images at one position, tried in this order; in a slot, the names that several kinds of objects
# give to one thing. The last slot is for a multi-frame object's own indices of neither place nor stack.
PHASES = (
    ("TemporalPositionIdentifier", "TemporalPositionIndex"),
    (
        "DiffusionBValue",
        "DiffusionGradientOrientation",
        "SiemensBValue",
        "SiemensGradient",
        "GEBValue",
        "GEGradientX",
        "GEGradientY",
        "GEGradientZ",
        "PhilipsBValue",
        "PhilipsGradient",
    ),
    ("TriggerTime", "NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase"),
    ("AcquisitionNumber", "FrameAcquisitionNumber"),
    ("AcquisitionTime", "FrameAcquisitionDateTime"),
    ("DimensionIndexValues",),
)

WINDOW_FLAGS = {"LINEAR_EXACT": "window_linear_exact", "SIGMOID": "window_sigmoid"}  # of volumes, by VOI LUT function


@dataclass(frozen=True)
class Ids:
    """The raw identifiers of any readable DICOM object; ``name`` holds the words of the patient's name."""

    patient_id: str
    issuer: str
    study_uid: str
    series_uid: str
    sop_uid: str
    name: frozenset[str]


@dataclass(frozen=True)
class Person:
    """What is known of the patient and the place; ``words`` come from names, institutions and numbers."""

    birth_date: str
    age: str
    sex: str
    institution: str
    words: frozenset[str]


@dataclass(frozen=True)
class Palette:
    """The lookup tables of PALETTE COLOR, red, green, blue; a descriptor is (entries, first value, bits)."""

    descriptors: tuple[tuple[int, ...], ...]
    data: tuple[bytes, ...]
    is_segmented: bool = False


@dataclass(frozen=True)
class PixelFormat:
    """How every frame is encoded. The frames of a mosaic are the ``tiles`` a side of one encoded image."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    photometric: str
    planar: int
    transfer_syntax: str
    span: PixelSpan
    palette: Palette | None = None
    num_encoded: int = 1  # images in the pixel element
    tiles: int = 1

    @property
    def num_bytes(self) -> int:
        """Bytes of one decoded frame."""
        samples = 3 if self.palette else self.samples
        return self.rows * self.columns * samples * max(self.bits_allocated, 8) // 8 // self.tiles**2


@dataclass(frozen=True)
class Plane:
    """Where a frame lies: position and direction cosines in LPS mm, spacing between rows and columns, thickness.

    Those of an ultrasound volume may be in a frame of its own, not ``in_patient``.
    """

    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    instance_number: int = 0
    thickness_mm: float | None = None
    in_patient: bool = True


@dataclass(frozen=True)
class Values:
    """What stored values mean; ``window_function`` is the VOI LUT function of a window, blank for LINEAR."""

    slope: float = 1.0
    intercept: float = 0.0
    has_rescale: bool = False
    rescale_type: str = ""
    window_center: float | None = None
    window_width: float | None = None
    window_function: str = ""
    padding: int | None = None


@dataclass(frozen=True)
class Frame:
    """One plane of pixels in its object: a whole file mostly, one of many in a multi-frame object, a tile of a mosaic.

    ``index`` counts the frames of the object from 0, in the order of the file. ``split`` separates volumes of one
    object (stack, image type, echo); ``phase`` has one entry per ``PHASES``.
    """

    index: int
    plane: Plane
    values: Values
    phase: tuple[str, ...]
    split: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """A part of an ultrasound image that shows the patient, in pixels, the last ones included."""

    first_row: int
    first_column: int
    last_row: int
    last_column: int
    spacing_mm: tuple[float, ...] | None  # between rows, between columns; None where an axis is no length


@dataclass(frozen=True)
class Acquisition:
    """Values that the catalog takes over only through controlled vocabularies.

    ``split`` always separates volumes (series number, image type, echo).
    """

    date: str
    modality: str
    manufacturer: str
    model: str
    body_part: str
    view: str
    laterality: str
    scanning_sequence: tuple[str, ...]
    dimensions: str  # 2D or 3D acquisition
    split: tuple[str, ...]


@dataclass(frozen=True)
class Header:
    """One image object. Holds identifiers: never written, logged or printed."""

    kind: Kind
    ids: Ids
    person: Person
    pixels: PixelFormat
    frames: tuple[Frame, ...]
    acquisition: Acquisition
    flags: frozenset[str] = frozenset()
    regions: tuple[Region, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of all decoded frames."""
        return len(self.frames) * self.pixels.num_bytes


@dataclass(frozen=True)
class Read:
    """What one file turned out to be: an image with its ``header``, else a ``reason``; ``ids`` where readable."""

    header: Header | None
    reason: Reason | None
    ids: Ids | None = None
