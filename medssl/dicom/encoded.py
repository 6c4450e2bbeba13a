"""The encoded bytes of each frame: found by offset table, fragment or marker, read one at a time, whole or not at all.

Source: DICOM PS3.5, A.4 (encapsulation), 8.1.1 (native pixels); PS3.3, C.7.6.3.1.8 (extended offset table: one fragment
a frame, so that the fragments themselves say as much).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import BinaryIO

import numpy as np
from pydicom import uid

from medssl.core.places import Place
from medssl.dicom.header import PixelFormat
from medssl.dicom.parse import PixelSpan, inflate
from medssl.dicom.pixels import bits_a_frame
from medssl.dicom.reasons import DicomProblem, Reason

DEFLATED_FRAMES = uid.UID("1.2.840.10008.1.2.8.1")
UNMARKED = (uid.RLELossless, DEFLATED_FRAMES)  # their streams have no beginning and no end of their own
STARTS_OF_IMAGE = (b"\xff\xd8\xff", b"\xff\x4f\xff")  # JPEG and JPEG-LS, JPEG 2000
END_OF_IMAGE = b"\xff\xd9"  # of all of them
PADDING = b"\0\xff"

Fragment = tuple[int, int]  # offset and length in the stream


def encoded_frames(place: Place, pixels: PixelFormat, indices: Sequence[int]) -> Iterator[bytes]:
    """Yield the bytes of the frames ``indices``; of native one-bit frames, the bits of each, a byte a bit.

    Raises:
        DicomProblem: the syntax contradicts the element, the bytes the number of frames, or a frame is cut.
        OSError: the file cannot be read.
    """
    span, syntax = pixels.span, pixels.transfer_syntax
    if _is_encapsulated(syntax) != span.encapsulated:
        raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
    with place.open() as file:
        if span.inflate_from is not None:
            file.seek(span.inflate_from)
        stream = file if span.inflate_from is None else inflate(file)
        if not span.encapsulated:
            yield from (_native(stream, pixels, index) for index in indices)
            return
        found = _frames(stream, pixels, is_unmarked=syntax in UNMARKED)
        for index in indices:
            frame = _whole(stream, found[index], is_unmarked=syntax in UNMARKED)
            yield _inflated(frame, pixels) if syntax == DEFLATED_FRAMES else frame


@cache
def _is_encapsulated(syntax: str) -> bool:
    return syntax == DEFLATED_FRAMES or uid.UID(syntax).is_encapsulated


def _native(stream: BinaryIO, pixels: PixelFormat, index: int) -> bytes:
    num_bits = bits_a_frame(pixels)
    start, end = index * num_bits // 8, -(-(index + 1) * num_bits // 8)
    # Big endian words hold the bytes of narrower pixels in pairs, swapped.
    swaps = pixels.transfer_syntax == uid.ExplicitVRBigEndian and pixels.span.vr == "OW" and pixels.bits_allocated <= 8
    first, last = (start // 2 * 2, -(-end // 2) * 2) if swaps else (start, end)
    stream.seek(pixels.span.offset + first)
    found = stream.read(last - first)
    if len(found) < last - first:
        raise DicomProblem(Reason.TRUNCATED)
    if swaps:
        found = np.frombuffer(found, "u2").byteswap().tobytes()[start - first : end - first]
    if pixels.bits_allocated == 1:
        found = unpacked(found, index * num_bits % 8, num_bits)
    return found


def unpacked(data: bytes, start: int, num: int) -> bytes:
    """Return ``num`` bits from ``start`` on, each as a byte."""
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[start : start + num].tobytes()


def _inflated(frame: bytes, pixels: PixelFormat) -> bytes:
    """Return a deflated frame, native."""
    num_bits = bits_a_frame(pixels)
    try:
        found = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, -(-num_bits // 8))
    except zlib.error:
        raise DicomProblem(Reason.DECODE_FAILED) from None
    if len(found) * 8 < num_bits:
        raise DicomProblem(Reason.TRUNCATED)
    return unpacked(found, 0, num_bits) if pixels.bits_allocated == 1 else found


def _frames(stream: BinaryIO, pixels: PixelFormat, *, is_unmarked: bool) -> list[list[Fragment]]:
    """Return the fragments of each frame.

    Raises:
        DicomProblem: the header hides or invents frames.
    """
    num = pixels.num_encoded
    table, fragments = _fragments(stream, pixels.span)
    where = {offset - fragments[0][0]: index for index, (offset, _) in enumerate(fragments)}
    begins = [is_unmarked or _at(stream, fragment, 3) in STARTS_OF_IMAGE for fragment in fragments]
    is_sound = len(table) == num and table[0] == 0 and all(a < b for a, b in pairwise(table))
    if is_sound and all(offset in where for offset in table):
        starts = [where[offset] for offset in table]
    elif num == 1:
        starts = [0]
    elif len(fragments) == num:
        starts = list(range(num))
    else:
        starts = [index for index, is_begin in enumerate(begins) if is_begin]
    if len(starts) != num or starts[0] != 0 or sum(begins) > num:
        raise DicomProblem(Reason.FRAME_COUNT)
    return [fragments[a:b] for a, b in zip(starts, [*starts[1:], len(fragments)], strict=True)]


def _fragments(stream: BinaryIO, span: PixelSpan) -> tuple[list[int], list[Fragment]]:
    """Return the basic offset table and the fragments.

    Raises:
        DicomProblem: the file is no longer what it was.
    """
    here, end, found = span.offset, span.offset + span.length, []
    while here + 8 <= end:
        stream.seek(here)
        head = stream.read(8)
        length = int.from_bytes(head[4:], "little")
        if len(head) < 8 or head[:4] != b"\xfe\xff\x00\xe0" or here + 8 + length > end:
            raise DicomProblem(Reason.TRUNCATED)
        found.append((here + 8, length))
        here += 8 + length
    if len(found) < 2:
        raise DicomProblem(Reason.TRUNCATED)
    stream.seek(found[0][0])
    num_offsets = found[0][1] // 4
    data = stream.read(num_offsets * 4)
    if len(data) < num_offsets * 4:
        raise DicomProblem(Reason.TRUNCATED)
    return list(struct.unpack(f"<{num_offsets}L", data)), found[1:]


def _at(stream: BinaryIO, fragment: Fragment, num: int) -> bytes:
    stream.seek(fragment[0])
    return stream.read(min(num, fragment[1]))


def _whole(stream: BinaryIO, fragments: Sequence[Fragment], *, is_unmarked: bool) -> bytes:
    """Return a frame; decoders fill up what a cut stream lacks, some without a word, so look for its end first."""
    found = b"".join(_at(stream, fragment, fragment[1]) for fragment in fragments)
    is_ended = is_unmarked or found.rstrip(PADDING).endswith(END_OF_IMAGE)
    if len(found) < sum(length for _, length in fragments) or not found or not is_ended:
        raise DicomProblem(Reason.TRUNCATED)
    return found
