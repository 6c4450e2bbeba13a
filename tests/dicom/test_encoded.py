"""The frames of one element are found in its bytes, one at a time, or the lie about them is."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from objects import cine, volume
from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from synthetic_dicom import encoded, save
from test_frames import header_of, pixels_of, reason_of

from medssl.core.places import LocalFile
from medssl.dicom.decode import decode_frames
from medssl.dicom.reasons import DicomProblem, Reason


def compressed(num: int, syntax: str) -> tuple[FileDataset, list[bytes]]:
    ds = cine(num, uid.XRayAngiographicImageStorage)
    encoded(ds, syntax)
    return ds, list(generate_frames(ds.PixelData, number_of_frames=num))


@pytest.mark.parametrize(
    ("table", "num_fragments"),
    [("extended", 1), *((table, num) for table in ("basic", "none", "wrong") for num in (1, 3))],
)
def test_frames_are_found_with_and_without_offset_tables(table: str, num_fragments: int, tmp_path: Path) -> None:
    ds, frames = compressed(5, uid.JPEGLSLossless)
    ds.PixelData = encapsulate(frames, num_fragments, has_bot=table in ("basic", "wrong"))
    if table == "extended":
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    if table == "wrong":
        ds.PixelData = ds.PixelData[:12] + b"\x07\0\0\0" + ds.PixelData[16:]
    path = save(ds, tmp_path / "x")
    assert np.array_equal(pixels_of(path, header_of(path)), volume(5))


@pytest.mark.parametrize("declared", [2, 4, 6, 100])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLSLossless])
def test_a_lie_about_the_number_of_frames_is_found(declared: int, syntax: str, tmp_path: Path) -> None:
    ds = cine(5, uid.XRayAngiographicImageStorage)
    encoded(ds, syntax)
    ds.NumberOfFrames = declared
    assert reason_of(ds, tmp_path) is Reason.FRAME_COUNT


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_a_damaged_frame_ends_in_a_reason_after_the_sound_ones(syntax: str, tmp_path: Path) -> None:
    ds, frames = compressed(5, syntax)
    ds.PixelData = encapsulate([*frames[:3], frames[3][: len(frames[3]) // 2 // 2 * 2], frames[4]])
    path = save(ds, tmp_path / "x")
    header = header_of(path)
    decoded = decode_frames(LocalFile(path), header, header.frames)
    for k in range(3):
        assert np.array_equal(next(decoded).array, volume(5)[k])
    with pytest.raises(DicomProblem) as caught:
        next(decoded)
    assert caught.value.reason in (Reason.TRUNCATED, Reason.DECODE_FAILED)
    assert np.array_equal(pixels_of(path, header, [4])[0], volume(5)[4])


@pytest.mark.parametrize("shape", [(7, 5), (16, 8), (11, 3)])
def test_one_bit_frames_need_not_start_at_a_byte(shape: tuple[int, int], tmp_path: Path) -> None:
    bits = np.random.default_rng(3).integers(0, 2, (9, *shape)).astype(np.uint8)
    ds = cine(9, uid.MultiFrameSingleBitSecondaryCaptureImageStorage)
    ds.Rows, ds.Columns = shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 1, 0
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    path = save(ds, tmp_path / "x")
    assert np.array_equal(pixels_of(path, header_of(path)), bits)


def test_a_codestream_that_knows_better_than_the_header_is_not_cut_down(tmp_path: Path) -> None:
    ds, _ = compressed(2, uid.JPEG2000Lossless)
    path = save(ds, tmp_path / "x")
    header = header_of(path)
    narrow = replace(header, pixels=replace(header.pixels, bits_stored=8, high_bit=7))
    with pytest.raises(DicomProblem) as caught:
        pixels_of(path, narrow)
    assert caught.value.reason is Reason.BAD_PIXEL_FORMAT


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_one_frame_at_a_time_is_in_memory(syntax: str, tmp_path: Path) -> None:
    planes = np.zeros((40, 512, 512), np.uint16) + np.arange(40, dtype=np.uint16)[:, None, None]
    ds = cine(1, uid.XRayAngiographicImageStorage)
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.PixelData = 512, 512, 40, planes.tobytes()
    path = save(ds, tmp_path / "x", syntax)
    header = header_of(path)
    list(decode_frames(LocalFile(path), header, header.frames[:1]))
    tracemalloc.start()
    for k, one in enumerate(decode_frames(LocalFile(path), header, header.frames)):
        assert one.array[0, 0] == k
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * planes[0].nbytes < planes.nbytes
