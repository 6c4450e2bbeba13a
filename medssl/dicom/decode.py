"""Decoding frames: one pinned decoder a syntax, unused bits masked, MONOCHROME2 or RGB, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from medssl.core.places import Place
from medssl.dicom import turbo
from medssl.dicom.encoded import DEFLATED_FRAMES, encoded_frames, unpacked
from medssl.dicom.header import Frame, Header, Palette, PixelFormat, Values
from medssl.dicom.pixels import COLOURS
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason


@dataclass(frozen=True)
class Decoder:
    """The one decoder of a syntax: a plugin of pydicom's decoder for the syntax ``of``, else numpy."""

    plugin: str = ""
    missing: Reason = Reason.UNSUPPORTED_SYNTAX
    of: str = ""

    @property
    def package(self) -> str:
        """What to install."""
        return self.missing.removeprefix("needs_").replace("_", "-") if self.plugin else "numpy"

    def is_installed(self, syntax: str) -> bool:
        """Return whether the package of the plugin is there."""
        return not self.plugin or self.plugin in get_decoder(self.of or syntax).available_plugins


# MB/s on one core, 16-bit radiographs: RLE pylibjpeg 250, pydicom 18; JPEG 2000 pylibjpeg 13, gdcm 12, pillow 10.
# JPEG lossless, 512 x 512 CT: imagecodecs 260, gdcm 110.
NATIVE = Decoder()
RLE, OPENJPEG = Decoder("pylibjpeg", Reason.NEEDS_RLE), Decoder("pylibjpeg", Reason.NEEDS_OPENJPEG)
PILLOW, PYJPEGLS = Decoder("pillow", Reason.NEEDS_PILLOW), Decoder("pyjpegls", Reason.NEEDS_PYJPEGLS)
TURBO = Decoder(turbo.PLUGIN, Reason.NEEDS_IMAGECODECS, of=turbo.SYNTAX)
SPECTRAL, PROGRESSIVE = uid.UID("1.2.840.10008.1.2.4.53"), uid.UID("1.2.840.10008.1.2.4.55")  # retired, 8 and 12 bits
DECODERS: dict[str, Decoder] = {
    uid.ImplicitVRLittleEndian: NATIVE,
    uid.ExplicitVRLittleEndian: NATIVE,
    uid.ExplicitVRBigEndian: NATIVE,
    uid.DeflatedExplicitVRLittleEndian: NATIVE,
    DEFLATED_FRAMES: NATIVE,
    uid.RLELossless: RLE,
    uid.JPEGBaseline8Bit: PILLOW,
    uid.JPEGExtended12Bit: PILLOW,  # of 8-bit samples; see ``decoder_of``
    SPECTRAL: TURBO,
    PROGRESSIVE: TURBO,
    uid.JPEGLossless: TURBO,
    uid.JPEGLosslessSV1: TURBO,
    uid.JPEGLSLossless: PYJPEGLS,
    uid.JPEGLSNearLossless: PYJPEGLS,
    uid.JPEG2000Lossless: OPENJPEG,
    uid.JPEG2000: OPENJPEG,
    uid.HTJ2KLossless: OPENJPEG,
    uid.HTJ2KLosslessRPCL: OPENJPEG,
    uid.HTJ2K: OPENJPEG,
}
PHOTOMETRIC = {
    1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
    3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
}
# Streams that know their precision: one that the header contradicts is not cut down to the header's.
PRECISE = {*uid.JPEG2000TransferSyntaxes, *uid.JPEGLSTransferSyntaxes, *uid.JPEGTransferSyntaxes[:2]}


JP2 = b"\0\0\0\x0cjP  "  # of a file around a JPEG 2000 codestream, which should not be there


@dataclass(frozen=True)
class Decoded:
    """``array`` is ``Y X`` (MONOCHROME2) or ``Y X C`` (RGB); window and padding follow an inversion.

    ``is_masked``: pixels were blanked since; see ``medssl.dicom.burned_in``.
    """

    array: NDArray[Any]
    window_center: float | None
    window_width: float | None
    padding: int | None
    window_function: str = ""
    is_masked: bool = False


def decoder_of(pixels: PixelFormat) -> Decoder:
    """Return the decoder of these pixels.

    Raises:
        DicomProblem: there is none, or its package is not installed.
    """
    syntax = pixels.transfer_syntax
    if syntax not in DECODERS:
        raise DicomProblem(Reason.UNSUPPORTED_SYNTAX)
    found = DECODERS[syntax]
    if syntax == uid.JPEGExtended12Bit and pixels.bits_stored > 8:
        found = TURBO
    if not found.is_installed(syntax):
        raise DicomProblem(found.missing)
    return found


def decode(place: Place, header: Header) -> Decoded:
    """Decode the first frame; see ``decode_frames``."""
    return next(decode_frames(place, header, header.frames[:1]))


def decode_frames(place: Place, header: Header, frames: Sequence[Frame]) -> Iterator[Decoded]:
    """Decode ``frames`` of ``header``, one after the other, in the order asked for; one at a time is in memory.

    Raises:
        DicomProblem: the file changed since the header was read, its syntax has no decoder here, its pixels are cut,
            contradict the header or cannot be decoded.
        OSError: the file cannot be read.
    """
    pixels = header.pixels
    decoder = decoder_of(pixels)
    if pixels.photometric not in PHOTOMETRIC[pixels.samples]:
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    indices = [frame.index for frame in frames] if pixels.tiles == 1 else [0]
    array = np.empty(0)
    encoded = encoded_frames(place, pixels, indices)
    for frame in frames:
        if pixels.tiles == 1 or not array.size:
            with quiet():
                array = _decode(next(encoded), pixels, decoder)
        yield _meant(array if pixels.tiles == 1 else _tile(array, pixels.tiles, frame.index), pixels, frame.values)


def _tile(array: NDArray[Any], side: int, index: int) -> NDArray[Any]:
    """Return one of ``side`` × ``side`` tiles, counted row by row."""
    rows, columns = array.shape[0] // side, array.shape[1] // side
    top, left = index // side * rows, index % side * columns
    return array[top : top + rows, left : left + columns]


def _meant(array: NDArray[Any], pixels: PixelFormat, values: Values) -> Decoded:
    """Return decoded pixels as MONOCHROME2 or RGB."""
    if pixels.palette is not None:
        return Decoded(_coloured(array, pixels.palette), None, None, None)
    if pixels.samples > 1:
        return Decoded(array, None, None, None)
    if pixels.photometric != "MONOCHROME1" or array.dtype.kind == "f":
        return Decoded(array, values.window_center, values.window_width, values.padding, values.window_function)
    total = -1 if pixels.is_signed else (1 << pixels.bits_stored) - 1  # of a stored value and its mirror image
    center = values.window_center
    if center is not None:
        center = values.slope * total + 2 * values.intercept - center
        center += 0 if values.window_function else 1  # the middle of a LINEAR window lies half a value below its centre
    padding = None if values.padding is None else total - values.padding
    inverted = np.subtract(array.dtype.type(total), array)
    return Decoded(inverted, center, values.window_width, padding, values.window_function)


def _decode(encoded: bytes, pixels: PixelFormat, decoder: Decoder) -> NDArray[Any]:
    """Return ``Y X`` or ``Y X C`` without unused bits."""
    if decoder is RLE and pixels.bits_allocated == 1:  # runs of bytes of eight pixels
        rows, columns = (pixels.rows, pixels.columns // 8) if pixels.columns % 8 == 0 else (1, 0)
        packed = replace(pixels, rows=rows, columns=columns or -(-pixels.rows * pixels.columns // 8), bits_allocated=8)
        encoded = unpacked(_by_plugin(encoded, packed, decoder).tobytes(), 0, pixels.rows * pixels.columns)
        decoder = NATIVE
    is_plain = decoder is NATIVE and pixels.samples == 1
    array = _plain(encoded, pixels) if is_plain else _by_plugin(encoded, pixels, decoder)
    if array.shape != (pixels.rows, pixels.columns) + ((pixels.samples,) if pixels.samples > 1 else ()):
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    if array.dtype.kind == "f" or pixels.samples > 1:
        return array
    masked = _unused_bits_masked(array, pixels)
    if pixels.transfer_syntax in PRECISE and not np.array_equal(masked, array):
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    return masked


def _plain(encoded: bytes, pixels: PixelFormat) -> NDArray[Any]:
    kind = "ui"[pixels.is_signed] if pixels.span.keyword == "PixelData" else "f"
    order = ">" if pixels.transfer_syntax == uid.ExplicitVRBigEndian else "<"
    array = np.frombuffer(encoded, f"{order}{kind}{max(pixels.bits_allocated // 8, 1)}")
    native: NDArray[Any] = array[: pixels.rows * pixels.columns].astype(array.dtype.newbyteorder("="))
    return native.reshape(pixels.rows, pixels.columns)


def _by_plugin(encoded: bytes, pixels: PixelFormat, decoder: Decoder) -> NDArray[Any]:
    """Return what pydicom's plugin makes of one frame, colours as RGB."""
    if encoded.startswith(JP2):
        encoded = _codestream(encoded)
    if pixels.span.encapsulated and decoder is not NATIVE:
        encoded = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + len(encoded).to_bytes(4, "little") + encoded
    syntax = decoder.of or pixels.transfer_syntax
    syntax = str(uid.ExplicitVRLittleEndian) if syntax == DEFLATED_FRAMES else syntax
    try:
        array, _ = get_decoder(syntax).as_array(encoded, decoding_plugin=decoder.plugin, **_options(pixels))
    except BaseException as error:  # plugins raise nearly anything, and quote the file
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # what Rust raises
            raise DicomProblem(Reason.DECODE_FAILED) from None
        raise
    native: NDArray[Any] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native


def _codestream(encoded: bytes) -> bytes:
    """Return the codestream in the boxes of a JP2 file, where pydicom searches for ever after one without length."""
    here = 0
    while here + 8 <= len(encoded):
        length, name = int.from_bytes(encoded[here : here + 4], "big"), encoded[here + 4 : here + 8]
        if name == b"jp2c":
            return encoded[here + (16 if length == 1 else 8) :]
        if length < 8:
            break
        here += length
    raise DicomProblem(Reason.DECODE_FAILED)


def _options(pixels: PixelFormat) -> dict[str, Any]:
    return {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": pixels.samples,
        "bits_allocated": max(pixels.bits_allocated, 8),  # one-bit frames are decoded, or unpacked, to bytes
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.is_signed),
        "photometric_interpretation": pixels.photometric,
        "planar_configuration": pixels.planar,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": "OB" if pixels.bits_allocated <= 8 else "OW",
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
    tables, prefix = Dataset(), "Segmented" if palette.is_segmented else ""
    tables.set_original_encoding(is_implicit_vr=False, is_little_endian=True)
    for colour, descriptor, data in zip(COLOURS, palette.descriptors, palette.data, strict=True):
        setattr(tables, f"{colour}PaletteColorLookupTableDescriptor", list(descriptor))
        setattr(tables, f"{prefix}{colour}PaletteColorLookupTableData", data)
    try:
        found: NDArray[Any] = apply_color_lut(array, tables)
    except Exception:
        raise DicomProblem(Reason.DECODE_FAILED) from None
    return found
