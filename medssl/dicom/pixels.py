"""How the pixels of an object are encoded, checked against the bytes that hold them."""

from __future__ import annotations

from medssl.dicom.fields import Fields
from medssl.dicom.header import Palette, PixelFormat
from medssl.dicom.parse import Parsed, PixelSpan
from medssl.dicom.reasons import DicomProblem, Reason

MAX_FRAME_BYTES = 1 << 30  # decoded
MAX_FRAMES = 100_000
MAX_VOXEL_BYTES = 1 << 35  # of all frames, decoded
COLOURS = ("Red", "Green", "Blue")
TABLES = [f"{colour}PaletteColorLookupTable" for colour in COLOURS]
SEGMENTED = [f"Segmented{table}Data" for table in TABLES]
PALETTES = [*(table + part for table in TABLES for part in ("Descriptor", "Data")), *SEGMENTED]
BITS = {"PixelData": (1, 8, 16, 32), "FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}


def pixel_format(parsed: Parsed) -> PixelFormat:
    """Return how the pixels are encoded.

    Raises:
        DicomProblem: there are none, the header contradicts itself, or its number of frames the bytes.
    """
    fields, span = parsed.fields, parsed.pixels
    if span is None:
        raise DicomProblem(Reason.NO_PIXEL_DATA)
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
        transfer_syntax=parsed.transfer_syntax,
        span=span,
        palette=_palette(fields) if photometric == "PALETTE COLOR" else None,
        num_encoded=fields.integer("NumberOfFrames", 1) or 1,
    )
    if bits not in BITS[span.keyword] or not 1 <= stored <= bits:
        is_sound = bits in (1, 12, 24, 64) and stored <= bits
        raise DicomProblem(Reason.UNSUPPORTED_PIXELS if is_sound else Reason.BAD_PIXEL_FORMAT)
    if min(pixels.rows, pixels.columns) < 1 or pixels.samples not in (1, 3) or not stored - 1 <= pixels.high_bit < bits:
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    is_large = pixels.num_bytes > MAX_FRAME_BYTES or pixels.num_bytes * pixels.num_encoded > MAX_VOXEL_BYTES
    if is_large or pixels.num_encoded > MAX_FRAMES:
        raise DicomProblem(Reason.TOO_LARGE)
    _expect_frames(pixels, span)
    return pixels


def bits_a_frame(pixels: PixelFormat) -> int:
    """Return how many bits a frame takes that is not compressed."""
    num_bits = pixels.rows * pixels.columns * pixels.samples * pixels.bits_allocated
    return num_bits // 3 * 2 if pixels.photometric == "YBR_FULL_422" else num_bits


def _expect_frames(pixels: PixelFormat, span: PixelSpan) -> None:
    """Expect as many frames as the header says: each takes its bytes, or a fragment at least."""
    num = pixels.num_encoded
    if num < 1:
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    if span.encapsulated:
        if span.num_fragments < num:
            raise DicomProblem(Reason.FRAME_COUNT if span.num_fragments else Reason.TRUNCATED)
        return
    num_bits = bits_a_frame(pixels)
    spare = span.length * 8 - num * num_bits
    if spare < 0:
        raise DicomProblem(Reason.TRUNCATED if span.length * 8 < num_bits or num == 1 else Reason.FRAME_COUNT)
    if spare >= max(num_bits, 16):  # the header hides further frames
        raise DicomProblem(Reason.FRAME_COUNT)


def _palette(fields: Fields) -> Palette:
    """Return the tables, little endian.

    Raises:
        DicomProblem: one is absent.
    """
    descriptors = tuple(fields.shorts(f"{table}Descriptor", signed=False) for table in TABLES)
    is_segmented = not fields.raw(f"{TABLES[0]}Data")[1]
    data = [fields.raw(name)[1] for name in (SEGMENTED if is_segmented else [f"{table}Data" for table in TABLES])]
    if not fields.little:  # words, since these have to be
        data = [b"".join(table[i : i + 2][::-1] for i in range(0, len(table), 2)) for table in data]
    if any(len(d) != 3 for d in descriptors) or not all(data):
        raise DicomProblem(Reason.UNSUPPORTED_PIXELS)
    return Palette(descriptors, tuple(data), is_segmented)
