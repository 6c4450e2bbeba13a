"""The walk over elements finds what pydicom finds, in every encoding, and steps over the rest."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import InMemory
from hypothesis import given, settings
from hypothesis import strategies as st
from objects import item, many_frames
from pydicom import dcmread, uid
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from synthetic_dicom import CT, dataset, encoded, with_pixels

from medssl.dicom.elements import Walk, Wanted
from medssl.dicom.fields import BINARY, Fields, tag_of
from medssl.dicom.parse import Parsed, parse
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem
from medssl.dicom.wanted import WANTED

KEYWORDS = sorted(keyword for tag in WANTED.tags if (keyword := keyword_for_tag(tag)) and "Palette" not in keyword)
# Signed or unsigned, which an implicit file leaves open and pydicom undecided.
DIFFERENT = {
    ("CTImage.dcm", "PixelPaddingValue"),
    ("CTImage.dcm_LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2.dcm", "PixelPaddingValue"),
}
SYNTAXES = [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]


def theirs(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values as pydicom reads them, as text; none where it raises."""
    try:
        value = ds[keyword].value if keyword in ds else None
    except Exception:
        return ()
    many = value if isinstance(value, MultiValue | list) else [value]
    return tuple(str(v).strip(" \0") for v in many if v not in (None, ""))


def ours(fields: Fields, keyword: str) -> tuple[str, ...]:
    return tuple(text for text in fields.texts(keyword) if text)


def plain(texts: tuple[str, ...]) -> tuple[Any, ...]:
    """Return numbers as numbers, so that 1 is 1.0 and 01, and names without empty last components."""
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        return tuple(text.rstrip("=") for text in texts)


def parsed_files(folder: Path) -> Iterator[tuple[Path, Parsed, FileDataset]]:
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() and path.suffix != ".csv" else b""
        try:
            parsed = parse(InMemory(data), WANTED)
            yield path, parsed, dcmread(io.BytesIO(data), force=True, stop_before_pixels=True)
        except DicomProblem:
            continue


def test_every_wanted_value_of_the_published_files_is_what_pydicom_reads(shared: Path) -> None:
    num_values, other = 0, set()
    with quiet():
        for folder in (
            "dicom_files",
            "dicom_series/d2n_philips_enhanced_dti_001",
            "dicom_series/mr_siemens_mosaic_0003",
        ):
            for path, parsed, ds in parsed_files(shared / "data" / folder):
                for keyword in KEYWORDS:
                    mine, wanted = ours(parsed.fields, keyword), theirs(ds, keyword)
                    if plain(mine) != plain(wanted):
                        other.add((path.name, keyword))
                    num_values += bool(wanted)
    assert num_values > 5000
    assert other == DIFFERENT


def test_groups_of_frames_are_what_pydicom_reads(shared: Path) -> None:
    for name in (
        "d2n_philips_enhanced_dti_001",
        "d2n_philips_enhanced_fmri_001_implicit",
        "d2n_hyperfine_anatomical_001",
    ):
        for _, parsed, ds in parsed_files(shared / "data" / "dicom_series" / name):
            groups = parsed.items[tag_of("PerFrameFunctionalGroupsSequence")[0]]
            assert len(groups) == len(ds.PerFrameFunctionalGroupsSequence) == ds.NumberOfFrames
            for group, theirs_ in zip(groups, ds.PerFrameFunctionalGroupsSequence, strict=True):
                position = theirs_.PlanePositionSequence[0].ImagePositionPatient
                assert parsed.fields.only(group).numbers("ImagePositionPatient", 3) == tuple(map(float, position))
                stack = theirs_.FrameContentSequence[0].StackID
                assert parsed.fields.only(group).text("StackID") == stack


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
def test_unwanted_sequences_are_stepped_over_at_any_depth(syntax: str, undefined: bool) -> None:
    ds = with_pixels(dataset(CT, "x"), np.zeros((4, 4), np.uint16))
    inner = item(PatientID="nested", ReferencedImageSequence=[])
    for _ in range(20):
        inner = item(ReferencedStudySequence=[inner, item(PatientID="nested")], PatientID="nested")
        inner["ReferencedStudySequence"].is_undefined_length = undefined
        inner.is_undefined_length_sequence_item = undefined
    ds.ReferencedStudySequence = [inner]
    ds.PatientID = "outer"
    parsed = parse(InMemory(encoded(ds, syntax)), WANTED)
    assert parsed.fields.text("PatientID") == "outer"
    assert not parsed.is_cut


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
def test_items_of_either_length_hold_the_same(syntax: str, undefined: bool) -> None:
    ds = many_frames(3)
    for group in ds.PerFrameFunctionalGroupsSequence:
        group.is_undefined_length_sequence_item = undefined
        for element in group:
            element.is_undefined_length = undefined
    ds["PerFrameFunctionalGroupsSequence"].is_undefined_length = undefined
    parsed = parse(InMemory(encoded(ds, syntax)), WANTED)
    groups = parsed.items[tag_of("PerFrameFunctionalGroupsSequence")[0]]
    assert [parsed.fields.only(group).numbers("ImagePositionPatient") for group in groups] == [
        (-10, -20, 2 * k) for k in range(3)
    ]
    assert [parsed.fields.only(group).numbers("DimensionIndexValues") for group in groups] == [(1, 1), (1, 2), (1, 3)]


@settings(max_examples=300)
@given(st.binary(max_size=400), st.booleans(), st.booleans())
def test_a_walk_over_anything_ends(data: bytes, implicit: bool, little: bool) -> None:
    walk = Walk(io.BytesIO(data))
    walk.encoded(implicit=implicit, little=little)
    anything = range(1 << 32)
    try:
        end = walk.top(0, Wanted(anything, range(0x00080000, 0x00290000), anything, range(0x5200, 1 << 24)), ())
    except DicomProblem:
        return
    assert 0 <= end <= len(data) + 8


@given(st.sampled_from(sorted(BINARY)), st.binary(max_size=40), st.booleans())
def test_binary_values_of_any_length_are_numbers_or_absent(vr: str, value: bytes, little: bool) -> None:
    fields = Fields({0x00280010: (vr.encode(), value)}, little=little)
    numbers = fields.numbers("Rows")
    assert numbers is None or all(isinstance(number, float) for number in numbers)
    fields.texts("Rows")
    fields.shorts("Rows", signed=True)
