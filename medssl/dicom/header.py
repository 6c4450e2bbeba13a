"""The header of one image: what ingest needs of it, typed; raw identifiers live here, and in memory only."""

from __future__ import annotations

from dataclasses import dataclass

from medssl.dicom.objects import Kind
from medssl.dicom.parse import PixelSpan
from medssl.dicom.reasons import Reason

# What may tell apart images at one position, tried in this order.
PHASES = (
    ("TemporalPositionIdentifier",),
    ("DiffusionBValue", "DiffusionGradientOrientation"),
    ("TriggerTime",),
    ("AcquisitionNumber",),
    ("AcquisitionTime",),
)


@dataclass(frozen=True, slots=True)
class Ids:
    """The raw identifiers of any readable DICOM object; ``name`` holds the words of the patient's name."""

    patient_id: str
    issuer: str
    study_uid: str
    series_uid: str
    sop_uid: str
    name: frozenset[str]


@dataclass(frozen=True, slots=True)
class Person:
    """What is known of the patient and the place; ``words`` come from names, institutions and numbers."""

    birth_date: str
    age: str
    sex: str
    institution: str
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Palette:
    """The lookup tables of PALETTE COLOR, red, green, blue; a descriptor is (entries, first value, bits)."""

    descriptors: tuple[tuple[int, ...], ...]
    data: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the one frame is encoded."""

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

    @property
    def num_bytes(self) -> int:
        """Bytes of the decoded frame."""
        samples = 3 if self.palette else self.samples
        return self.rows * self.columns * samples * self.bits_allocated // 8


@dataclass(frozen=True, slots=True)
class Plane:
    """Where the frame lies: position and direction cosines in LPS mm; spacing between rows, between columns."""

    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    instance_number: int = 0


@dataclass(frozen=True, slots=True)
class Values:
    """What stored values mean."""

    slope: float = 1.0
    intercept: float = 0.0
    has_rescale: bool = False
    rescale_type: str = ""
    window_center: float | None = None
    window_width: float | None = None
    padding: int | None = None


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Values that the catalog takes over only through controlled vocabularies.

    ``split`` always separates volumes (series number, image type, echo); ``phase`` has one entry per ``PHASES``.
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
    phase: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """One image object. Holds identifiers: never written, logged or printed."""

    kind: Kind
    ids: Ids
    person: Person
    pixels: PixelFormat
    plane: Plane
    values: Values
    acquisition: Acquisition
    flags: frozenset[str] = frozenset()

    @property
    def num_bytes(self) -> int:
        """Bytes of the decoded frame."""
        return self.pixels.num_bytes


@dataclass(frozen=True, slots=True)
class Read:
    """What one file turned out to be: an image with its ``header``, else a ``reason``; ``ids`` where readable."""

    header: Header | None
    reason: Reason | None
    ids: Ids | None = None
