"""Only pseudonyms, shifted days, capped ages and known words leave a header."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_dicom import CT, IDENTIFIERS, MR, dataset, radiograph, save, with_pixels

from medssl.core.places import LocalFile
from medssl.dicom import vocabulary
from medssl.dicom.deidentify import Described, Pseudonyms, age_years, describe, is_placeholder, parse_date
from medssl.dicom.header import Person
from medssl.dicom.read import read_header
from medssl.pool.key import Key

KEY = Pseudonyms(Key(b"k" * 32))
OTHER = Pseudonyms(Key(b"o" * 32))
NOBODY = Person("", "", "", "", frozenset())


def described(tmp_path: Path, **elements: object) -> Described:
    header = read_header(LocalFile(save(radiograph("x", None, **elements), tmp_path / "x"))).header
    assert header is not None
    return describe(header, KEY)


def test_the_same_key_gives_the_same_names_and_another_key_gives_others() -> None:
    for name in (
        lambda p: p.patient("MRN1", "site", "1.2"),
        lambda p: p.uid("study", "1.2"),
        lambda p: p.site("Clinic"),
        lambda p: p.source("a/b"),
        lambda p: p.scanner("Nobody Knows", "M1", frozenset()),
    ):
        assert name(KEY) == name(Pseudonyms(Key(b"k" * 32))) != name(OTHER)


def test_patients_of_two_issuers_are_two_patients() -> None:
    assert KEY.patient("1", "north", "s") != KEY.patient("1", "south", "s")
    assert KEY.patient("1", "north", "s") == KEY.patient(" 1 ", "north ", "t")


@pytest.mark.parametrize("id_", ["", "  ", "0", "000000", "ANON", "Anonymous", "UNKNOWN", "n/a", "--", "no id", "^^"])
def test_a_placeholder_names_nobody_so_the_study_stands_in(id_: str) -> None:
    assert is_placeholder(id_)
    assert KEY.patient(id_, "", "1.2") == KEY.patient("", "", "1.2") != KEY.patient(id_, "", "1.3")


@pytest.mark.parametrize("id_", ["MRN7719204", "10", "ANON0001", "X12", "Unknown77"])
def test_numbered_ids_name_somebody(id_: str) -> None:
    assert not is_placeholder(id_)


def test_a_placeholder_is_flagged(tmp_path: Path) -> None:
    assert "placeholder_patient" in described(tmp_path, PatientID="ANON").flags
    assert "placeholder_patient" not in described(tmp_path).flags


@given(st.dates(date(1950, 1, 1), date(2030, 1, 1)), st.dates(date(1950, 1, 1), date(2030, 1, 1)), st.text(max_size=8))
def test_days_are_shifted_into_the_past_and_intervals_survive(one: date, other: date, patient: str) -> None:
    days = [KEY.day(f"{d:%Y%m%d}", patient) for d in (one, other)]
    first, second = (day if day is not None else 10**9 for day in days)
    assert second - first == (other - one).days
    shift = (one - date(1970, 1, 1)).days - first
    assert 1 <= shift <= 3650


def test_patients_are_shifted_differently() -> None:
    assert len({KEY.day("20170203", str(patient)) for patient in range(50)}) > 40


def test_dates_that_are_none_give_no_day() -> None:
    assert [parse_date(text) for text in ("", "2017", "20171399", "yesterday")] == [None] * 4
    assert parse_date("2017.02.03") == parse_date("20170203") == date(2017, 2, 3)


@pytest.mark.parametrize(
    ("age", "born", "expected"),
    [
        ("034Y", "", 34.0),
        ("097Y", "", 90.0),
        ("018M", "", 1.5),
        ("007M", "", 0.58),
        ("", "19610417", 55.0),
        ("", "19200101", 90.0),
        ("", "20160803", 0.5),
        ("", "20990101", None),
        ("", "", None),
        ("999Y", "", None),
    ],
)
def test_ages_are_years_and_ninety_at_most(age: str, born: str, expected: float | None) -> None:
    assert age_years(replace(NOBODY, age=age, birth_date=born), "20170203") == expected


def test_free_text_does_not_pass_the_vocabularies(tmp_path: Path) -> None:
    found = described(
        tmp_path,
        BodyPartExamined="QUILLFEATHER",
        ViewPosition="OTTO",
        PatientSex="X",
        Modality="ZZ",
        ImageLaterality="Q",
        Manufacturer="Quillfeather Clinic",
    )
    assert (found.body_part, found.view, found.sex, found.modality, found.laterality) == (None,) * 5
    assert found.scanner is not None
    assert found.scanner.startswith("unlisted ")
    assert "Quill" not in found.scanner


def test_known_words_pass(tmp_path: Path) -> None:
    found = described(tmp_path, BodyPartExamined="CHEST", ViewPosition="AP", ImageLaterality="L")
    assert (found.body_part, found.view, found.laterality, found.modality) == ("CHEST", "AP", "L", "DX")
    assert vocabulary.known(" chest ", vocabulary.BODY_PARTS) == "CHEST"
    assert (found.sex, found.scanner, found.age) == ("F", "Siemens Fluorospot Compact FD", 55.0)


@pytest.mark.parametrize(
    "model", ["Ottoline", "quillfeatherscope", "Zanzibart 3000", "X-7719204", "A^B", "Infirmary 1", "Ünit", "x" * 50]
)
def test_a_model_that_could_name_somebody_is_left_out(model: str, tmp_path: Path) -> None:
    assert described(tmp_path, ManufacturerModelName=model).scanner == "Siemens"


@pytest.mark.parametrize("model", ["MAGNETOM Prisma_fit", "Definium 8000", "DXD30_Wireless", "DRX-1"])
def test_plain_models_pass(model: str) -> None:
    assert vocabulary.model(model, frozenset({"quillfeather", "ann"})) == model


def test_vendors_are_known_by_any_of_their_names() -> None:
    names = ["SIEMENS", "Siemens Healthineers", "GE MEDICAL SYSTEMS", "Philips Medical Systems", "FUJIFILM Corporation"]
    assert [vocabulary.vendor(name) for name in names] == ["Siemens", "Siemens", "GE", "Philips", "Fujifilm"]
    assert [vocabulary.vendor(name) for name in ("", "Geoffrey Medical", "imsomething")] == [None] * 3


def test_the_sequence_comes_from_codes_only(tmp_path: Path) -> None:
    ds = with_pixels(dataset(MR, "x"), np.zeros((8, 8), np.uint16), Modality="MR", MRAcquisitionType="3D")
    ds.ScanningSequence = ["IR", "GR", "QUILLFEATHER"]
    header = read_header(LocalFile(save(ds, tmp_path / "x"))).header
    assert header is not None
    assert describe(header, KEY).sequence == "GR+IR 3D"


def test_nothing_described_holds_an_identifier(tmp_path: Path) -> None:
    text = repr(described(tmp_path)).casefold()
    for planted in IDENTIFIERS.values():
        assert planted.casefold() not in text
    assert "20170203" not in text
    assert CT not in text
