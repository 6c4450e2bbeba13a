"""Decoding one frame: one pinned decoder a syntax, unused bits masked, MONOCHROME2 or RGB, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from medssl.dicom.header import Header, Palette, PixelFormat
from medssl.dicom.parse import inflate
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason

# MB/s on one core, 16-bit radiographs: RLE pylibjpeg 250, pydicom 18; JPEG 2000 pylibjpeg 13, gdcm 12, pillow 10.
DECODERS: dict[str, str] = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.DeflatedExplicitVRLittleEndian: "",
    uid.RLELossless: "pylibjpeg",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",  # of 8-bit samples; none of these libraries decodes 12-bit ones
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
}
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
STARTS_OF_IMAGE = (b"\xff\xd8\xff", b"\xff\x4f\xff")  # JPEG and JPEG-LS, JPEG 2000
END_OF_IMAGE = b"\xff\xd9"  # of all of them


@dataclass(frozen=True)
class Decoded:
    """``array`` is ``Y X`` (MONOCHROME2) or ``Y X C`` (RGB); window and padding follow an inversion."""

    array: NDArray[Any]
    window_center: float | None
    window_width: float | None
    padding: int | None


def decode(path: Path, header: Header) -> Decoded:
    """Decode the frame that ``header`` describes.

    Raises:
        DicomProblem: the file changed since the header was read, its syntax has no decoder here, its pixels are cut,
            contradict the header or cannot be decoded.
        OSError: the file cannot be read.
    """
    pixels = header.pixels
    is_12_bit_jpeg = pixels.transfer_syntax == uid.JPEGExtended12Bit and pixels.bits_stored > 8
    if pixels.transfer_syntax not in DECODERS or is_12_bit_jpeg:
        raise DicomProblem(Reason.UNSUPPORTED_SYNTAX)
    encoded = _read(path, pixels)
    _expect_whole(encoded, pixels)
    with quiet():
        array = _decode(encoded, pixels)
    shape = (pixels.rows, pixels.columns) + ((pixels.samples,) if pixels.samples > 1 else ())
    if array.shape != shape:
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    values = header.values
    if pixels.palette is not None:
        return Decoded(_coloured(_unused_bits_masked(array, pixels), pixels.palette), None, None, None)
    if pixels.samples > 1:
        return Decoded(array, None, None, None)
    array = _unused_bits_masked(array, pixels)
    if pixels.photometric != "MONOCHROME1":
        return Decoded(array, values.window_center, values.window_width, values.padding)
    total = -1 if pixels.is_signed else (1 << pixels.bits_stored) - 1  # of a stored value and its mirror image
    center = values.window_center
    if center is not None:
        center = values.slope * total + 2 * values.intercept - center
    padding = None if values.padding is None else total - values.padding
    return Decoded(np.subtract(array.dtype.type(total), array), center, values.window_width, padding)


def _read(path: Path, pixels: PixelFormat) -> bytes:
    span = pixels.span
    with path.open("rb") as file:
        if span.inflate_from is not None:
            file.seek(span.inflate_from)
        stream = file if span.inflate_from is None else inflate(file)
        stream.seek(span.offset)
        found = stream.read(span.length)
    if len(found) < span.length:
        raise DicomProblem(Reason.TRUNCATED)
    return found


def _expect_whole(encoded: bytes, pixels: PixelFormat) -> None:
    """Decoders fill up what is missing in a cut stream, some without a word; so look for its end first."""
    syntax = uid.UID(pixels.transfer_syntax)
    if syntax.is_encapsulated != pixels.span.encapsulated:
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    if not syntax.is_encapsulated:
        num_bytes = pixels.rows * pixels.columns * pixels.samples * pixels.bits_allocated // 8
        if pixels.photometric == "YBR_FULL_422":
            num_bytes = num_bytes // 3 * 2
        if len(encoded) < num_bytes:
            raise DicomProblem(Reason.TRUNCATED)
        if len(encoded) >= max(2 * num_bytes, 4):  # the header hides further frames
            raise DicomProblem(Reason.MULTI_FRAME)
        return
    try:
        fragments = list(generate_fragments(encoded))[1:]  # after the offset table
    except ValueError:
        raise DicomProblem(Reason.DECODE_FAILED) from None
    is_rle = syntax == uid.RLELossless
    if sum(is_rle or fragment.startswith(STARTS_OF_IMAGE) for fragment in fragments) > 1:
        raise DicomProblem(Reason.MULTI_FRAME)
    if not fragments or (not is_rle and not fragments[-1].rstrip(b"\0\xff").endswith(END_OF_IMAGE)):
        raise DicomProblem(Reason.TRUNCATED)


def _decode(encoded: bytes, pixels: PixelFormat) -> NDArray[Any]:
    if pixels.samples == 1 and pixels.photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"):
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    if pixels.samples == 3 and pixels.photometric not in COLOURS:
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    try:
        decoder = get_decoder(pixels.transfer_syntax)
        array, _ = decoder.as_array(encoded, decoding_plugin=DECODERS[pixels.transfer_syntax], **_options(pixels))
    except BaseException as error:  # plugins raise nearly anything, and quote the file
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # what Rust raises
            raise DicomProblem(Reason.DECODE_FAILED) from None
        raise
    native: NDArray[Any] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native


def _options(pixels: PixelFormat) -> dict[str, Any]:
    return {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": pixels.samples,
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.is_signed),
        "photometric_interpretation": pixels.photometric,
        "planar_configuration": pixels.planar,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": pixels.span.vr,
        "correct_unused_bits": False,
    }


def _unused_bits_masked(array: NDArray[Any], pixels: PixelFormat) -> NDArray[Any]:
    """Keep BitsStored bits below HighBit: overlays and garbage above go, signs are extended."""
    above = array.dtype.itemsize * 8 - 1 - (pixels.high_bit if not pixels.span.encapsulated else pixels.bits_stored - 1)
    below = array.dtype.itemsize * 8 - pixels.bits_stored
    if not above and not below:
        return array
    return (array << above) >> below


def _coloured(array: NDArray[Any], palette: Palette) -> NDArray[Any]:
    tables = Dataset()
    for colour, descriptor, data in zip(("Red", "Green", "Blue"), palette.descriptors, palette.data, strict=True):
        setattr(tables, f"{colour}PaletteColorLookupTableDescriptor", list(descriptor))
        setattr(tables, f"{colour}PaletteColorLookupTableData", data)
    try:
        found: NDArray[Any] = apply_color_lut(array, tables)
    except Exception:
        raise DicomProblem(Reason.DECODE_FAILED) from None
    return found
