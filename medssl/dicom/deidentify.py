"""What may leave a header: keyed pseudonyms, shifted days, capped ages, words of controlled vocabularies.

After DICOM PS3.15 Annex E, Basic Application Level Confidentiality Profile, by building rather than by removing: only
what ``describe`` returns reaches a catalog; every other element, private or nested, is left behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache

from medssl.dicom import vocabulary
from medssl.dicom.header import Acquisition, Header, Ids, Person
from medssl.pool.key import Key

MAX_AGE_YEARS = 90.0
MAX_SHIFT_DAYS = 3650
DAYS_A_YEAR = 365.25
PLACEHOLDERS = frozenset(
    [
        "anon",
        "anonym",
        "anonymous",
        "anonymised",
        "anonymized",
        "anonymize",
        "anonymise",
        "anonymouspatient",
        "unknown",
        "unknownpatient",
        "none",
        "null",
        "nil",
        "na",
        "noid",
        "nopatientid",
        "notavailable",
        "patient",
        "patientid",
        "id",
        "test",
        "testpatient",
        "dummy",
        "default",
        "deidentified",
        "removed",
        "redacted",
        "x",
        "xx",
        "xxx",
        "xxxx",
        "unnamed",
        "noname",
        "empty",
    ]
)
AGE_UNITS = {"D": 1 / DAYS_A_YEAR, "W": 7 / DAYS_A_YEAR, "M": 1 / 12, "Y": 1.0}


@dataclass(frozen=True)
class Described:
    """One image as the catalog may know it; see ``medssl.pool.catalog`` for the columns."""

    patient: str
    study: str
    series: str
    modality: str | None
    sequence: str | None
    body_part: str | None
    view: str | None
    laterality: str | None
    site: str | None
    scanner: str | None
    sex: str | None
    age: float | None
    day: int | None
    flags: frozenset[str]


@dataclass(frozen=True)
class Pseudonyms:
    """Keyed names: the same key gives the same pseudonyms in every run and at every site."""

    key: Key

    def patient(self, patient_id: str, issuer: str, study_uid: str) -> str:
        """Name a patient by issuer and id; a blank or placeholder id names nobody, so the study stands in."""
        if is_placeholder(patient_id):
            return self.key.hmac("patient of study", study_uid)
        return self.key.hmac("patient", issuer.strip(), patient_id.strip())

    def uid(self, level: str, value: str) -> str:
        """Name a study, series or sop by its UID."""
        return self.key.hmac(level, value)

    def site(self, institution: str) -> str | None:
        """Name an institution, however it is spaced and capitalised."""
        plain = " ".join(institution.casefold().split())
        return self.key.hmac("site", plain) if plain else None

    def scanner(self, manufacturer: str, model: str, private: frozenset[str]) -> str | None:
        """Return vendor and model; a vendor that is on no list, so that it could be any text, gets a keyed name."""
        vendor = vocabulary.vendor(manufacturer)
        if vendor is not None:
            return " ".join(filter(None, [vendor, vocabulary.model(model, private)]))
        return f"unlisted {self.key.hmac('scanner', manufacturer, model)[:8]}" if manufacturer else None

    def source(self, relative: str) -> str:
        """Name an input file by its path below its source."""
        return self.key.hmac("source", relative)

    def day(self, value: str, patient: str) -> int | None:
        """Return a date as a day number, moved into the past by one offset a patient, so that intervals survive."""
        found = parse_date(value)
        if found is None:
            return None
        return (
            found.toordinal()
            - date(1970, 1, 1).toordinal()
            - 1
            - int(self.key.uniform("day", patient) * MAX_SHIFT_DAYS)
        )


def describe(header: Header, pseudonyms: Pseudonyms) -> Described:
    """Return everything of ``header`` that may leave it."""
    series = replace(header.ids, sop_uid="")  # so that all slices of a series share one answer
    return _describe(series, header.person, header.acquisition, header.flags, pseudonyms)


@lru_cache(maxsize=256)
def _describe(ids: Ids, person: Person, seen: Acquisition, flags: frozenset[str], pseudonyms: Pseudonyms) -> Described:
    patient = pseudonyms.patient(ids.patient_id, ids.issuer, ids.study_uid)
    pulses = sorted({s.upper() for s in seen.scanning_sequence} & vocabulary.SCANNING_SEQUENCES)
    dimensions = [seen.dimensions] if seen.dimensions in ("2D", "3D") else []
    return Described(
        patient=patient,
        study=pseudonyms.uid("study", ids.study_uid),
        series=pseudonyms.uid("series", ids.series_uid),
        modality=vocabulary.known(seen.modality, vocabulary.MODALITIES),
        sequence=" ".join(["+".join(pulses), *dimensions]) if pulses else None,
        body_part=vocabulary.known(seen.body_part, vocabulary.BODY_PARTS),
        view=vocabulary.known(seen.view, vocabulary.VIEWS),
        laterality=vocabulary.known(seen.laterality, vocabulary.LATERALITIES),
        site=pseudonyms.site(person.institution),
        scanner=pseudonyms.scanner(seen.manufacturer, seen.model, person.words | ids.name),
        sex=vocabulary.known(person.sex, vocabulary.SEXES),
        age=age_years(person, seen.date),
        day=pseudonyms.day(seen.date, patient),
        flags=flags | ({"placeholder_patient"} if is_placeholder(ids.patient_id) else set()),
    )


def is_placeholder(patient_id: str) -> bool:
    """Return whether an id stands for nobody: blank, zeros or signs only, or a word such as ANON."""
    plain = re.sub(r"[\W_]", "", patient_id.casefold())
    return not plain.strip("0") or plain in PLACEHOLDERS


def parse_date(value: str) -> date | None:
    """Return a DICOM date, YYYYMMDD or the old YYYY.MM.DD; None if it is none."""
    match = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", value.strip())
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def age_years(person: Person, study_date: str) -> float | None:
    """Return the age from PatientAge, else from two dates: whole years from 2 years on, else months; 90 at most."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", person.age.strip().upper())
    if match:
        years = int(match[1]) * AGE_UNITS[match[2]]
    else:
        born, seen = parse_date(person.birth_date), parse_date(study_date)
        if born is None or seen is None:
            return None
        years = (seen - born).days / DAYS_A_YEAR
    if not 0 <= years < 130:
        return None
    return min(float(int(years)), MAX_AGE_YEARS) if years >= 2 else round(int(years * 12 + 1e-9) / 12, 2)
