"""JPEG of every process (8 and 12 bits, progressive, lossless up to 16) by libjpeg-turbo, as a plugin of pydicom.

Source: DICOM PS3.5, A.4.1; for the form of a plugin, ``pydicom.pixels.decoders.base.Decoder.add_plugin``.
"""

from __future__ import annotations

from importlib.util import find_spec

from pydicom import uid
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

PLUGIN = "imagecodecs"
SYNTAX = uid.JPEGLossless  # whose decoder of pydicom has the plugin; the stream itself says which process it is of
DECODER_DEPENDENCIES = {SYNTAX: (PLUGIN,)}


def is_available(uid: str) -> bool:
    """Return whether the library is there."""
    return find_spec(PLUGIN) is not None


def _decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Return the samples as they are coded, colour by pixel, in as many bytes as the header allocates."""
    from imagecodecs import jpeg8_decode

    space = "RGB" if runner.samples_per_pixel > 1 else None  # in and out alike: pydicom knows what the colours mean
    array = jpeg8_decode(source, colorspace=space, outcolorspace=space)
    if space:
        runner.set_option("planar_configuration", 0)
    found: bytes = array.astype(f"u{runner.bits_allocated // 8}", casting="safe", copy=False).tobytes()
    return found


get_decoder(SYNTAX).add_plugin(PLUGIN, (__name__, "_decode_frame"))
