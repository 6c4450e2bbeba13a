"""Files made to do harm end as a reason, in bounded time and memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest
from drawings import series, structure_set
from fuzz import InMemory
from objects import cine, many_frames
from pydicom import uid
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from synthetic_dicom import ct_slice, encoded, radiograph

from medssl.dicom import elements, segmentation
from medssl.dicom.decode import decode_frames
from medssl.dicom.header import Read
from medssl.dicom.read import read_header
from medssl.dicom.reasons import DicomProblem, Reason

ITEM, PER_FRAME, POSITION = b"\xfe\xff\x00\xe0", b"\x00\x52\x30\x92", b"\x20\x00\x13\x91"
UNDEFINED, SEQUENCE_END = b"\xff" * 4, b"\xfe\xff\xdd\xe0" + b"\0" * 4
OBSERVATIONS, PRIVATE = b"\x06\x30\x80\x00SQ\0\0", b"\x11\x00\x00\x10"


def measured(data: bytes) -> tuple[Read, int]:
    """Return the header and the peak of memory in bytes, the file not counted."""
    tracemalloc.start()
    found = read_header(InMemory(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found, peak


def before_groups(ds: FileDataset | None = None) -> bytes:
    """Return an implicit file up to its per-frame groups."""
    whole = encoded(ds or many_frames(2), uid.ImplicitVRLittleEndian)
    return whole[: whole.index(PER_FRAME)]


@pytest.mark.parametrize("seed", [7])
def test_two_thousand_mutated_files_are_all_accounted_for(seed: int) -> None:
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "--files", "2000", "--seed", str(seed)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "2000 files, 0 failed" in found.stdout


@pytest.mark.parametrize("depth", [100, 100_000])
@pytest.mark.parametrize("macro", [POSITION, b"\x40\x00\x75\x02"], ids=["wanted", "unwanted"])
def test_nesting_without_end_is_corrupt(depth: int, macro: bytes) -> None:
    found, peak = measured(before_groups() + PER_FRAME + UNDEFINED + (ITEM + UNDEFINED + macro + UNDEFINED) * depth)
    assert found.reason is Reason.CORRUPT
    assert peak < 4 << 20


def test_a_million_empty_items_are_too_many() -> None:
    found, peak = measured(before_groups() + PER_FRAME + UNDEFINED + (ITEM + b"\0" * 4) * 1_000_000)
    assert found.reason is Reason.TOO_LARGE
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ((ITEM + b"\0" * 4) * 20_000, Reason.TOO_LARGE),
        ((ITEM + (4000).to_bytes(4, "little") + (PRIVATE + b"LO\0\0") * 500) * 100, Reason.TOO_LARGE),
        ((PRIVATE + b"PN\xfe\xff" + b"Quillfeather " * 5041 + b" ") * 17, Reason.TOO_LARGE),
        ((ITEM + UNDEFINED + OBSERVATIONS + UNDEFINED) * 200, Reason.CORRUPT),
        # an item that ends inside of a value, behind which millions could hide
        (ITEM + b"\x08\0\0\0" + PRIVATE + b"LO\xff\xff" + (ITEM + b"\0" * 4) * 300_000, Reason.CORRUPT),
        (ITEM + b"\x08\0\0\0" + b"\xfe\xff\x0d\xe0" + b"\0" * 4, Reason.CORRUPT),
    ],
    ids=["items", "elements", "names", "nesting", "overlap", "stray end"],
)
def test_a_segmentation_is_measured_before_pydicom_builds_what_is_nested(
    content: bytes, reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation, "MAX_ELEMENTS", 40_000)
    monkeypatch.setattr(segmentation, "MAX_ITEMS", 10_000)
    sequence = content if content.startswith(PRIVATE) else OBSERVATIONS + UNDEFINED + content + SEQUENCE_END
    data = InMemory(encoded(structure_set(series(), [])) + sequence)
    for read in (segmentation.images_of, segmentation.read_segmentation):
        with pytest.raises(DicomProblem) as caught:
            read(data)
        assert caught.value.reason is reason


def test_three_hundred_thousand_empty_items_in_a_segmentation_cost_no_memory() -> None:
    content = OBSERVATIONS + UNDEFINED + (ITEM + b"\0" * 4) * 300_000 + SEQUENCE_END
    data = InMemory(encoded(structure_set(series(), [])) + content)
    tracemalloc.start()
    with pytest.raises(DicomProblem) as caught:
        segmentation.read_segmentation(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.reason is Reason.TOO_LARGE
    assert peak < 8 << 20


def test_elements_without_end_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 10_000)
    whole = encoded(ct_slice(1.0), uid.ImplicitVRLittleEndian)
    found, _ = measured(whole[: whole.index(b"\x08\x00\x05\x00")] + (b"\x09\x00\x01\x00" + b"\0" * 4) * 20_000)
    assert found.reason is Reason.TOO_LARGE


def test_a_giant_value_is_not_kept() -> None:
    whole = encoded(ct_slice(1.0), uid.ImplicitVRLittleEndian)
    at = whole.index(b"\x08\x00\x08\x00")  # ImageType
    giant = b"\x08\x00\x08\x00" + (64 << 20).to_bytes(4, "little") + b"A" * (64 << 20)
    length = int.from_bytes(whole[at + 4 : at + 8], "little")
    found, peak = measured(whole[:at] + giant + whole[at + 8 + length :])
    assert found.header is not None
    assert found.header.acquisition.split[1] == ""
    assert peak < 1 << 20


def test_frames_by_the_million_are_refused() -> None:
    ds = cine(2, uid.UltrasoundMultiFrameImageStorage)
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.PixelData = 1, 1, 1_000_000, b"\0" * 2_000_000
    found, peak = measured(encoded(ds))
    assert found.reason is Reason.TOO_LARGE
    assert peak < 1 << 20


def test_a_frame_that_inflates_beyond_its_size_is_cut_off_there() -> None:
    ds = cine(1, uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage)
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    ds.PixelData = encapsulate([deflate.compress(b"\0" * (64 << 20)) + deflate.flush()])
    ds.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless  # since pydicom does not know the syntax
    ds["PixelData"].is_undefined_length = True
    data = encoded(ds).replace(uid.JPEG2000Lossless.encode(), b"1.2.840.10008.1.2.8.1\0")
    header = read_header(InMemory(data)).header
    assert header is not None
    tracemalloc.start()
    (found,) = decode_frames(InMemory(data), header, header.frames)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not found.array.any()
    assert peak < 1 << 20


def test_a_jp2_box_without_length_does_not_stop_the_decoder() -> None:
    ds = radiograph()
    encoded(ds, uid.JPEG2000Lossless)
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n"
    for middle, is_sound in ((b"\0\0\0\x08free", True), (b"\0\0\0\0free", False)):
        ds.PixelData = encapsulate([boxes + middle + b"\0\0\0\0jp2c" + frame])
        data = encoded(ds)
        header = read_header(InMemory(data)).header
        assert header is not None
        if is_sound:
            assert len(list(decode_frames(InMemory(data), header, header.frames))) == 1
        else:
            with pytest.raises(DicomProblem) as caught:
                list(decode_frames(InMemory(data), header, header.frames))
            assert caught.value.reason is Reason.DECODE_FAILED


@pytest.mark.parametrize(
    ("charset", "name", "words", "is_flagged"),
    [
        (b"ISO_IR 100", "Äneas^Übel".encode("latin-1"), {"äneas", "übel"}, False),
        (b"ISO_IR 192", "Åse^山田太郎".encode(), {"åse", "山田太郎"}, False),
        (b"ISO_IR 192", b"\xffBad^\xfe\xfd", {"bad"}, True),
        (b"GB18030   ", "Wang^小东明".encode("gb18030"), {"wang", "小东明"}, False),
        (b"ISO_IR 999", b"Plain^Name", {"plain", "name"}, False),
        (b"\xff\xfe\xfd\xfc  ", b"\x80\x81\x82\x83", set(), None),
    ],
)
def test_no_character_set_stops_a_file(charset: bytes, name: bytes, words: set[str], is_flagged: bool | None) -> None:
    ds = radiograph()
    ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 100", "N" * 24
    whole = encoded(ds).replace(b"ISO_IR 100", charset[:10].ljust(10)).replace(b"N" * 24, name.ljust(24))
    header = read_header(InMemory(whole)).header
    assert header is not None
    assert header.ids.name >= words
    if is_flagged is not None:
        assert ("character_set" in header.flags) == is_flagged


def test_published_character_sets_are_read(shared_dicom: Path) -> None:
    seen = {
        path.name: ids.name
        for path in (shared_dicom / "pydicom" / "charset_files").iterdir()
        if (ids := read_header(InMemory(path.read_bytes())).ids) is not None
    }
    assert seen["chrH31.dcm"] >= {"yamada", "tarou"}
    assert seen["chrGreek.dcm"] == {"διονυσιος".casefold()}
    assert seen["chrRuss.dcm"] == {"люкceмбypг"}
    assert len(seen) > 15
