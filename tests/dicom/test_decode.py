"""One frame comes out exact, upright and whole, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_color_lut, convert_color_space
from synthetic_dicom import CT, DX, LOSSLESS, ct_slice, dataset, encoded, header_of, radiograph, save, with_pixels

from medssl.core.places import LocalFile
from medssl.dicom.decode import Decoded, decode
from medssl.dicom.header import Header
from medssl.dicom.read import read_header
from medssl.dicom.reasons import DicomProblem, Reason


def decoded(ds: Dataset, tmp_path: Path, syntax: str | None = None) -> Decoded:
    path = save(ds, tmp_path / "one.dcm", syntax)
    return decode(LocalFile(path), header_of(path))


def problem(path: Path, header: Header) -> Reason:
    with pytest.raises(DicomProblem) as caught:
        decode(LocalFile(path), header)
    return caught.value.reason


def reason(path: Path) -> Reason:
    """Return why the file at ``path`` cannot be used, found out on reading or on decoding it."""
    found = read_header(LocalFile(path))
    return found.reason or problem(path, header_of(path))


def noise(dtype: Any, low: int, high: int, shape: tuple[int, ...] = (40, 36)) -> NDArray[Any]:
    return np.random.default_rng(5).integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize(
    ("array", "bits"),
    [
        (noise(np.uint16, 0, 4096), 12),
        (noise(np.uint16, 0, 65536), 16),
        (noise(np.int16, -2048, 2048), 12),
        (noise(np.int16, -32768, 32767), 16),
        (noise(np.uint8, 0, 256, (37, 33)), 8),
    ],
    ids=["u12", "u16", "s12", "s16", "u8"],
)
def test_every_lossless_syntax_returns_the_stored_values(
    syntax: str, array: NDArray[Any], bits: int, tmp_path: Path
) -> None:
    ds = with_pixels(dataset(CT, "x"), array, BitsStored=bits, HighBit=bits - 1)
    found = decoded(ds, tmp_path, syntax).array
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("high_bit", [11, 13, 15])
def test_bits_above_and_below_the_stored_ones_are_masked(is_signed: bool, high_bit: int, tmp_path: Path) -> None:
    values = noise(np.int16, -2048, 2048) if is_signed else noise(np.uint16, 0, 4096)
    below = high_bit - 11
    field = (values.astype(np.int64) & 0xFFF) << below
    garbage = noise(np.int64, 0, 65536) & ~(0xFFF << below) & 0xFFFF
    ds = with_pixels(dataset(CT, "x"), (field | garbage).astype(np.uint16))
    ds.PixelRepresentation, ds.BitsStored, ds.HighBit = int(is_signed), 12, high_bit
    assert np.array_equal(decoded(ds, tmp_path).array, values)


@pytest.mark.parametrize(("function", "below"), [("LINEAR", 0.5), ("LINEAR_EXACT", 0), ("SIGMOID", 0)])
@pytest.mark.parametrize(("array", "bits"), [(noise(np.uint16, 0, 4096), 12), (noise(np.int16, -2048, 2048), 12)])
def test_monochrome1_is_inverted_once_with_its_window_and_padding(
    array: NDArray[Any], bits: int, function: str, below: float, tmp_path: Path
) -> None:
    total = -1 if array.dtype.kind == "i" else 4095
    elements = {"BitsStored": bits, "HighBit": bits - 1, "WindowCenter": 300, "WindowWidth": 500}
    elements |= {"RescaleSlope": 2, "RescaleIntercept": 10, "VOILUTFunction": function}
    upright = with_pixels(dataset(CT, "x"), array, **elements)
    inverse = with_pixels(dataset(CT, "x"), (total - array).astype(array.dtype), **elements)
    inverse.PhotometricInterpretation = "MONOCHROME1"
    inverse.add_new(0x00280120, "SS" if total < 0 else "US", 40)
    one, other = decoded(upright, tmp_path), decoded(inverse, tmp_path)
    assert np.array_equal(one.array, other.array)
    assert other.padding == total - 40
    assert (other.window_width, other.window_function) == (500, "" if function == "LINEAR" else function)
    # A value in the middle of the old window, of LINEAR half a value below its centre, is in the middle of the new one.
    stored = (300 - below - 10) / 2
    assert 2 * (total - stored) + 10 == other.window_center - below


def test_colours_become_rgb(tmp_path: Path) -> None:
    rgb = noise(np.uint8, 0, 256, (40, 36, 3))
    assert np.array_equal(decoded(with_pixels(dataset(DX, "x"), rgb), tmp_path).array, rgb)
    planar = with_pixels(dataset(DX, "x"), rgb, PlanarConfiguration=1)
    planar.PixelData = rgb.transpose(2, 0, 1).tobytes()
    assert np.array_equal(decoded(planar, tmp_path).array, rgb)
    ybr = with_pixels(dataset(DX, "x"), rgb, PhotometricInterpretation="YBR_FULL")
    assert np.array_equal(decoded(ybr, tmp_path).array, convert_color_space(rgb, "YBR_FULL", "RGB"))
    for syntax in (uid.RLELossless, uid.JPEG2000Lossless):
        assert np.array_equal(decoded(with_pixels(dataset(DX, "x"), rgb), tmp_path, syntax).array, rgb)


def test_palettes_become_rgb(tmp_path: Path) -> None:
    indices = noise(np.uint8, 0, 4, (40, 36))
    ds = with_pixels(dataset(DX, "x"), indices, PhotometricInterpretation="PALETTE COLOR")
    for colour, table in zip(("Red", "Green", "Blue"), ([0, 9, 50, 255], [1, 2, 3, 4], [255, 0, 7, 8]), strict=True):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [4, 0, 8])
        setattr(ds, f"{colour}PaletteColorLookupTableData", bytes(table))
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        found = decoded(ds, tmp_path, syntax).array
        assert found.shape == (40, 36, 3)
        assert np.array_equal(found, apply_color_lut(indices, ds))
        assert set(found[..., 0].ravel()) == {0, 9, 50, 255}


def test_pixels_shorter_than_the_matrix_are_truncated(tmp_path: Path) -> None:
    ds = radiograph()
    ds.PixelData = ds.PixelData[:-10]
    path = save(ds, tmp_path / "x")
    assert reason(path) is Reason.TRUNCATED


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_stream_cut_inside_a_whole_file_is_not_filled_up(syntax: str, share: float, tmp_path: Path) -> None:
    ds = radiograph()
    encoded(ds, syntax)
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    frame = frame[: int(len(frame) * share) // 2 * 2]
    ds.PixelData = encapsulate([frame])
    path = save(ds, tmp_path / "x")
    assert problem(path, header_of(path)) in (Reason.TRUNCATED, Reason.DECODE_FAILED)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.RLELossless, uid.ExplicitVRLittleEndian])
def test_frames_that_the_header_hides_are_found(syntax: str, tmp_path: Path) -> None:
    ds = radiograph()
    encoded(ds, syntax)
    if uid.UID(syntax).is_encapsulated:
        ds.PixelData = encapsulate(list(generate_frames(ds.PixelData, number_of_frames=1)) * 2, has_bot=False)
    else:
        ds.PixelData = ds.PixelData * 2
    path = save(ds, tmp_path / "x")
    assert reason(path) is Reason.FRAME_COUNT


def test_what_no_decoder_knows_is_named(tmp_path: Path) -> None:
    path = save(radiograph(), tmp_path / "x")
    header = header_of(path)
    other = replace(header, pixels=replace(header.pixels, transfer_syntax=str(uid.MPEG2MPML)))
    assert problem(path, other) is Reason.UNSUPPORTED_SYNTAX
    wrong = replace(header, pixels=replace(header.pixels, transfer_syntax=str(uid.JPEG2000)))
    assert problem(path, wrong) is Reason.BAD_PIXEL_FORMAT


def test_a_file_that_shrank_since_it_was_read_is_truncated(tmp_path: Path) -> None:
    path = save(ct_slice(1), tmp_path / "x")
    header = header_of(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert problem(path, header) is Reason.TRUNCATED


def test_a_decoder_that_panics_fails_like_any_other(tmp_path: Path) -> None:
    ds = with_pixels(dataset(DX, "x"), np.zeros((40, 40), np.uint16))
    encoded(ds, uid.RLELossless)
    runs = b"\x81\x05" * 12  # 1536 of 1600 bytes
    segments = runs + b"\xc1\x05", runs + b"\x3f"  # the last announces 64 bytes and holds none
    header = np.array([2, 64, 64 + len(segments[0]), *[0] * 13], "<u4").tobytes()
    ds.PixelData = encapsulate([header + segments[0] + segments[1]])
    path = save(ds, tmp_path / "x")
    assert problem(path, header_of(path)) is Reason.DECODE_FAILED
