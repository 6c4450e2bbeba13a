"""Every kind of file gets a typed reason, whatever is wrong with it."""

from __future__ import annotations

import logging
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from synthetic_dicom import CT, DX, IDENTIFIERS, LOSSLESS, MR, ct_slice, dataset, encoded, radiograph, save, with_pixels

from medssl.core.places import LocalFile
from medssl.core.types import Outcome
from medssl.dicom import parse
from medssl.dicom.decode import decode
from medssl.dicom.header import Read
from medssl.dicom.objects import Kind
from medssl.dicom.read import read_header
from medssl.dicom.reasons import DicomProblem, Reason


def read(data: bytes, tmp_path: Path) -> Read:
    path = tmp_path / "file"
    path.write_bytes(data)
    return read_header(LocalFile(path))


def reason_of(ds: Dataset, tmp_path: Path) -> Reason | None:
    return read(encoded(ds), tmp_path).reason


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_a_radiograph_is_read_in_every_syntax(syntax: str, tmp_path: Path) -> None:
    found = read(encoded(radiograph(), syntax), tmp_path)
    assert found.reason is None
    assert found.header is not None
    assert found.header.kind is Kind.PICTURE
    assert (found.header.pixels.rows, found.header.pixels.columns) == (40, 36)
    assert found.header.ids.patient_id == IDENTIFIERS["PatientID"]


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_preamble_and_meta_information_may_be_missing(syntax: str, tmp_path: Path) -> None:
    whole = encoded(radiograph(), syntax)
    without_preamble = whole[132:]
    start = whole.index(b"\x08\x00\x05\x00")
    for data in (without_preamble, whole[start:]):
        found = read(data, tmp_path)
        assert found.header is not None
        assert np.array_equal(
            decode(LocalFile(tmp_path / "file"), found.header).array,
            np.frombuffer(radiograph().PixelData, "<u2").reshape(40, 36),
        )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"path,label\n" * 50, Reason.NOT_DICOM),
        (b"\0" * 4000, Reason.NOT_DICOM),
        (b"short", Reason.NOT_DICOM),
        (b"PK\x03\x04" + b"\0" * 200, Reason.ARCHIVE),
        (b"\x1f\x8b\x08" + b"\0" * 200, Reason.ARCHIVE),
        (b"\x89PNG\r\n" + b"\0" * 200, Reason.OTHER_IMAGE_FORMAT),
    ],
)
def test_other_files_are_told_apart(data: bytes, reason: Reason, tmp_path: Path) -> None:
    assert read(data, tmp_path) == Read(None, reason)


@pytest.mark.parametrize(
    ("sop_class", "reason", "outcome"),
    [
        (uid.BasicTextSRStorage, Reason.REPORT_OBJECT, Outcome.NON_IMAGE),
        (uid.KeyObjectSelectionDocumentStorage, Reason.REPORT_OBJECT, Outcome.NON_IMAGE),
        (uid.GrayscaleSoftcopyPresentationStateStorage, Reason.REPORT_OBJECT, Outcome.NON_IMAGE),
        (uid.RTPlanStorage, Reason.NO_IMAGE_OBJECT, Outcome.NON_IMAGE),
        (uid.MediaStorageDirectoryStorage, Reason.DICOMDIR, Outcome.NON_IMAGE),
        (uid.RTStructureSetStorage, Reason.SEGMENTATION, Outcome.EXCLUDED),
        (DX, Reason.NO_PIXEL_DATA, Outcome.QUARANTINED),
    ],
)
def test_objects_without_pixels_have_their_reason(
    sop_class: str, reason: Reason, outcome: Outcome, tmp_path: Path
) -> None:
    assert reason_of(dataset(sop_class, "x"), tmp_path) is reason
    assert reason.outcome is outcome


@pytest.mark.parametrize(
    ("sop_class", "elements", "reason"),
    [
        (uid.SecondaryCaptureImageStorage, {}, Reason.SECONDARY_CAPTURE),
        (CT, {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, Reason.SECONDARY_CAPTURE),
        (uid.SegmentationStorage, {}, Reason.SEGMENTATION),
        (uid.RTDoseStorage, {}, Reason.DERIVED_OBJECT),
        (uid.VLEndoscopicImageStorage, {}, Reason.UNSUPPORTED_OBJECT),
        ("1.2.3.4.5", {}, Reason.UNSUPPORTED_OBJECT),
        (CT, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Reason.LOCALIZER),
        (CT, {"NumberOfFrames": 5}, Reason.FRAME_COUNT),
        (CT, {"NumberOfFrames": -5}, Reason.BAD_PIXEL_FORMAT),
        (CT, {"NumberOfFrames": 2**31 - 1}, Reason.TOO_LARGE),
        (MR, {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, Reason.MOSAIC),
        (DX, {"StudyInstanceUID": ""}, Reason.MISSING_UID),
        (DX, {"BitsStored": 17}, Reason.BAD_PIXEL_FORMAT),
        (DX, {"SamplesPerPixel": 2}, Reason.BAD_PIXEL_FORMAT),
        (DX, {"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, Reason.UNSUPPORTED_PIXELS),
        (DX, {"Rows": 60000, "Columns": 60000}, Reason.TOO_LARGE),
    ],
)
def test_images_that_become_no_volume_have_their_reason(
    sop_class: str, elements: dict[str, object], reason: Reason, tmp_path: Path
) -> None:
    ds = with_pixels(dataset(sop_class, "x"), np.zeros((8, 8), np.uint16))
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    assert reason_of(ds, tmp_path) is reason


def test_a_mosaic_without_its_word_shows_by_the_number_of_its_tiles(tmp_path: Path) -> None:
    ds = with_pixels(dataset(MR, "x"), np.zeros((8, 8), np.uint16))
    ds.add_new(0x0019100A, "US", 35)
    assert reason_of(ds, tmp_path) is Reason.MOSAIC


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_a_file_cut_anywhere_is_never_an_image_and_never_a_non_image(syntax: str, tmp_path: Path) -> None:
    whole = encoded(ct_slice(3.0), syntax)
    for length in [*range(140, len(whole) - 2, 37), len(whole) - 2, len(whole) - 9]:
        found = read(whole[:length], tmp_path)
        assert found.header is None
        assert found.reason is not None
        assert found.reason.outcome is Outcome.QUARANTINED, (length, found.reason)
    in_the_pixels = len(whole) - 100
    assert read(whole[:in_the_pixels], tmp_path).reason is Reason.TRUNCATED


def test_a_declared_size_beyond_the_file_costs_no_memory(tmp_path: Path) -> None:
    ds = ct_slice(1.0)
    ds.ImageComments = "x" * 10
    whole = encoded(ds, uid.ImplicitVRLittleEndian)
    at = whole.index(b"\x20\x00\x00\x40") + 4
    tracemalloc.start()
    found = read(whole[:at] + (0xFFFFFFF0).to_bytes(4, "little") + whole[at + 4 :], tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.reason is Reason.TRUNCATED
    assert peak < 10 << 20


def test_a_deflate_bomb_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "MAX_INFLATED", 1 << 20)
    whole = encoded(ct_slice(1.0), uid.DeflatedExplicitVRLittleEndian)
    meta = whole[: whole.index(uid.DeflatedExplicitVRLittleEndian.encode()) + 22]
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = deflate.compress(b"\0" * (300 << 20)) + deflate.flush()
    tracemalloc.start()
    found = read(meta + bomb, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.reason is Reason.TOO_LARGE
    assert peak < 8 << 20


def test_deeply_nested_sequences_end_as_corrupt(tmp_path: Path) -> None:
    whole = encoded(radiograph(), uid.ImplicitVRLittleEndian)
    start = whole.index(b"\x08\x00\x05\x00")
    nested = (b"\x08\x00\x40\x11" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4) * 5000
    found = read(whole[:start] + nested + whole[start:], tmp_path)
    assert found.reason is not None
    assert found.reason.outcome is Outcome.QUARANTINED


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    assert read_header(LocalFile(tmp_path / "none")).reason is Reason.UNREADABLE


def test_nothing_of_a_bad_header_reaches_warnings_or_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    ds = radiograph()
    whole = encoded(ds).replace(b"ISO_IR 100", b"ISO_IR 999")
    whole = whole.replace(b"19610417", b"1961Quil").replace(b"20170203", b"Quillfea")
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(whole, tmp_path).header is not None
        assert read(whole[:-100], tmp_path).reason is Reason.TRUNCATED
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("pydicom").isEnabledFor(logging.ERROR)


def test_damaged_values_are_absent_values(tmp_path: Path) -> None:
    whole = encoded(ct_slice(2.0))
    found = read(whole.replace(b"-10.0\\-20.0\\2.0", b"-10.0\\-2x.0\\2.0"), tmp_path)
    assert found.header is not None
    assert found.header.frames[0].plane.position is None
    assert found.header.frames[0].plane.spacing_mm == (0.5, 0.75)


def test_padding_is_signed_as_the_pixels_are(tmp_path: Path) -> None:
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        ds = ct_slice(2.0)
        ds.add_new(0x00280120, "US", 63488)  # -2048, written with the wrong sign
        found = read(encoded(ds, syntax), tmp_path)
        assert found.header is not None
        assert found.header.frames[0].values.padding == -2048


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_files_never_raise(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(encoded(ct_slice(2.0), data.draw(st.sampled_from([None, uid.RLELossless]))))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    found = read(bytes(whole), tmp_path)
    assert (found.header is None) == (found.reason is not None)
    if found.header is not None:
        try:
            decode(LocalFile(tmp_path / "file"), found.header)
        except DicomProblem:
            return


def test_the_published_files_are_accounted_for(shared_dicom: Path) -> None:
    files = [path for path in shared_dicom.rglob("*") if path.is_file()]
    found = [read_header(LocalFile(path)) for path in files]
    assert all((one.header is None) == (one.reason is not None) for one in found)
    assert {one.reason for one in found if one.reason} >= {Reason.DICOMDIR, Reason.REPORT_OBJECT, Reason.TRUNCATED}


def test_reading_a_file_that_saves_from_memory_equals_the_file(tmp_path: Path) -> None:
    assert read_header(LocalFile(save(radiograph(), tmp_path / "deep" / "no_extension"))).reason is None
