"""Raster images become volumes where a table names them: every pixel as stored, upright, and nothing but pixels."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from test_archives import Bytes

from medssl.dicom.reasons import DicomProblem, Reason
from medssl.ingest import raster
from medssl.ingest.images import About
from medssl.ingest.raster import RasterHeader, read_header
from medssl.ingest.sources import SourceFile


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def deep_png(array: np.ndarray) -> bytes:
    """Return a 16-bit colour PNG, which pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = array.shape
    head = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_tiff(array: np.ndarray, order: str) -> bytes:
    """Return a 16-bit colour TIFF, which pillow cannot write either."""
    (height, width, _), start = array.shape, 8 + 2 + 10 * 12 + 4
    tags = [
        *[(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2)],
        *[(273, 4, 1, start + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, array.nbytes), (284, 3, 1, 1)],
    ]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    for tag, kind, num, value in tags:
        packed = struct.pack(f"{order}H2x" if kind == 3 and num == 1 else f"{order}I", value)
        head += struct.pack(f"{order}HHI", tag, kind, num) + packed
    return head + bytes(4) + struct.pack(f"{order}3H", 16, 16, 16) + array.astype(f"{order}u2").tobytes()


def source_file(data: bytes, name: str = "export/x.png") -> SourceFile:
    return SourceFile(Bytes(data), name, len(data))


def loaded(data: bytes, about: About = About()) -> np.ndarray:  # noqa: B008
    header, reason, _ = read_header(source_file(data), about)
    if header is None:
        raise DicomProblem(reason or Reason.CORRUPT)
    content = header.load(source_file(data))
    assert header.num_bytes >= content.array.nbytes
    return content.array


GREY = np.random.default_rng(1).integers(0, 256, (7, 5)).astype(np.uint8)
DEEP = np.random.default_rng(2).integers(0, 65536, (7, 5)).astype(np.uint16)
COLOUR = np.random.default_rng(3).integers(0, 256, (7, 5, 3)).astype(np.uint8)
DEEP_COLOUR = np.random.default_rng(4).integers(0, 65536, (7, 5, 3)).astype(np.uint16)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(GREY, "PNG"), GREY),
        (encoded(GREY, "BMP"), GREY),
        (encoded(GREY, "TIFF"), GREY),
        (encoded(GREY, "TIFF", compression="tiff_lzw"), GREY),
        (encoded(DEEP, "PNG"), DEEP),
        (encoded(DEEP, "TIFF"), DEEP),
        (encoded(DEEP.astype(">u2"), "TIFF"), DEEP),
        (encoded(COLOUR, "PNG"), COLOUR),
        (encoded(COLOUR, "TIFF"), COLOUR),
        (encoded(COLOUR, "BMP"), COLOUR),
        (deep_png(DEEP_COLOUR), DEEP_COLOUR),
        (deep_tiff(DEEP_COLOUR, "<"), DEEP_COLOUR),
        (deep_tiff(DEEP_COLOUR, ">"), DEEP_COLOUR),
        (encoded(np.dstack([COLOUR, np.full((7, 5), 255, np.uint8)]), "PNG"), COLOUR),
        (encoded(GREY > 99, "PNG"), np.where(GREY > 99, 255, 0).astype(np.uint8)),
        (encoded(GREY.astype(np.float32) / 3, "TIFF"), GREY.astype(np.float32) / 3),
    ],
)
def test_pixels_come_as_they_are_stored(data: bytes, expected: np.ndarray) -> None:
    array = loaded(data)
    assert array.dtype == expected.dtype
    assert array.dtype.isnative
    assert np.array_equal(array, expected)


def test_jpegs_are_what_pillow_makes_of_them() -> None:
    for array in (GREY, COLOUR):
        data = encoded(array, "JPEG", quality=90)
        assert np.array_equal(loaded(data), np.asarray(Image.open(io.BytesIO(data))))


def test_a_palette_is_resolved_and_hidden_pixels_are_refused() -> None:
    palette = Image.fromarray(COLOUR).quantize(16)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    assert np.array_equal(loaded(buffer.getvalue()), np.asarray(palette.convert("RGB")))
    see_through = np.dstack([COLOUR, np.full((7, 5), 254, np.uint8)])
    with pytest.raises(DicomProblem, match="unsupported_pixels"):
        loaded(encoded(see_through, "PNG"))
    with pytest.raises(DicomProblem, match="unsupported_pixels"):
        loaded(deep_png(np.dstack([DEEP_COLOUR, DEEP])))


def test_white_may_be_zero() -> None:
    buffer = io.BytesIO()
    Image.fromarray(DEEP).save(buffer, "TIFF", tiffinfo={262: 0})
    data = bytearray(buffer.getvalue())
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    data[at : at + 2] = struct.pack("<H", 0)
    assert np.array_equal(loaded(bytes(data)), 65535 - DEEP)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("array", [GREY, DEEP, COLOUR])
def test_every_orientation_of_exif_is_carried_out(kind: str, array: np.ndarray) -> None:
    if kind == "JPEG" and array is DEEP:
        return
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(array, kind, exif=exif)
        with Image.open(io.BytesIO(data)) as image:
            upright = np.asarray(ImageOps.exif_transpose(image))
        assert np.array_equal(loaded(data), upright)
        assert (upright.shape[0] == 5) == (orientation > 4)


def test_what_is_no_single_sound_image_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = io.BytesIO()
    Image.fromarray(GREY).save(pages, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)])
    whole = encoded(np.random.default_rng(0).integers(0, 256, (200, 200)).astype(np.uint8), "PNG")
    jpeg = encoded(np.random.default_rng(0).integers(0, 256, (200, 200)).astype(np.uint8), "JPEG")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    cmyk = io.BytesIO()
    Image.fromarray(COLOUR).convert("CMYK").save(cmyk, "JPEG")
    for data, reason in {
        pages.getvalue(): "multi_page",
        whole[: len(whole) // 2]: "truncated",
        jpeg[: len(jpeg) // 2]: "truncated",
        bytes(flipped): "corrupt",
        b"\x89PNG\r\n\x1a\n" + bytes(60): "corrupt",
        cmyk.getvalue(): "unsupported_pixels",
    }.items():
        with pytest.raises(DicomProblem, match=reason):
            loaded(data)
    monkeypatch.setattr(raster, "MAX_PIXELS", 39_999)
    with pytest.raises(DicomProblem, match="too_large"):
        loaded(whole)


def test_a_bomb_is_refused_by_its_declared_size() -> None:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    assert read_header(source_file(bomb + struct.pack(">I", 0) + b"IDAT" + bytes(40)), About())[1] is Reason.TOO_LARGE


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_damaged_images_never_raise_anything_else(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(
        rng.choice([encoded(GREY, "PNG"), encoded(COLOUR, "JPEG"), encoded(DEEP, "TIFF"), deep_png(DEEP_COLOUR)])
    )
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        loaded(bytes(data[: rng.choice([len(data), rng.randrange(1, len(data))])]))
    except DicomProblem as problem:
        assert isinstance(problem.reason, Reason)


def test_identity_follows_the_rules_of_other_files_without_identifiers() -> None:
    data = encoded(GREY, "PNG")
    named, twin = (read_header(source_file(data, f"export/{name}"), About())[0] for name in ("p7/s77.png", "q/s77.png"))
    placeholder = read_header(source_file(data, "export/image.png"), About(patient="ANON"))[0]
    assert isinstance(named, RasterHeader) and isinstance(twin, RasterHeader) and isinstance(placeholder, RasterHeader)
    assert named.ids == twin.ids
    assert (named.ids.patient_id, named.flags) == ("s77", {"patient_from_file_name"})
    assert placeholder.ids.study_uid == "export/image.png"
    assert placeholder.flags == frozenset()
    risky = read_header(source_file(data), About(patient="1", modality="US"))[0]
    assert isinstance(risky, RasterHeader)
    assert risky.flags == {"burned_in_risk"}
