"""Write chest phantoms as the messy DICOM export of an invented hospital, with a table of findings."""

from __future__ import annotations

import csv
import io
import os
import tempfile
import uuid
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from medssl.core.errors import MedsslError
from medssl.core.keys import generator
from medssl.dicom.phantom import radiograph
from medssl.dicom.phantom_grid import Plane
from medssl.dicom.phantom_subject import Finding, PhantomPatient, PhantomStudy

NUM_DUPLICATES = 4
FAMILY = [
    "Abernook",
    "Brandtal",
    "Castelune",
    "Dumorin",
    "Eklundar",
    "Ferrovik",
    "Gasparoth",
    "Hoekwind",
    "Iversund",
    "Janskari",
    "Kovalune",
    "Lindmoor",
]
GIVEN = {
    "F": ["Adalie", "Cleona", "Elifa", "Gretal", "Inessa", "Kiralu"],
    "M": ["Boran", "Dariok", "Finnar", "Hugor", "Jonasil", "Lucan"],
}
SITES = ("Northfield Phantom Hospital", "Clinic of the Invented Lake", "St. Example Infirmary")
VIEWER = b"Images on this disc need a DICOM viewer.\r\n"


@dataclass(frozen=True)
class Person:
    """The invented identity of one phantom patient and the dates of the studies."""

    name: str
    identifier: str
    born: date
    sex: str
    days: tuple[date, ...]


def write_export(folder: Path, num_patients: int, *, seed: int, shape: tuple[int, int] = (192, 192)) -> Path:
    """Write 1 to 3 studies a patient, one image a study, and return ``folder/labels.csv`` (``study_uid,finding``).

    Files lie in ``folder/<patient>/<study>/<file>.dcm``. A few images are there twice under another name; one further,
    unlabelled image is cut short; one study holds a text report; one file is no DICOM. The export appears whole or not
    at all; a seed always gives the same bytes.

    Args:
        folder: absent or empty.
        num_patients: 1 or more.
        seed: names the world.
        shape: rows and columns of every image.

    Raises:
        MedsslError: the folder holds something, or there is no patient to write.
    """
    if num_patients < 1:
        raise MedsslError(f"num_patients: {num_patients} is not right, expected 1 or more")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise MedsslError(f"{folder}: is in use, expected a new or an empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as partial:
        whole = Path(partial, "export")
        whole.mkdir()
        images, labels = _write_images(whole, num_patients, seed, shape)
        _write_mess(whole, images, num_patients, seed, shape)
        with (whole / "labels.csv").open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle, lineterminator="\n").writerows([("study_uid", "finding"), *labels])
        os.replace(whole, folder)
    return folder / "labels.csv"


def _write_images(
    whole: Path, num_patients: int, seed: int, shape: tuple[int, int]
) -> tuple[list[Path], list[tuple[str, str]]]:
    """Write every patient's images; findings are fair coins, independent of patient and vendor."""
    images, labels = [], []
    for number in range(num_patients):
        patient = PhantomPatient.draw(seed, number)
        person = _person(seed, number, patient)
        for k in range(len(person.days)):
            finding = (
                Finding.OPACITY if generator("phantom finding", seed, number, k).random() < 0.5 else Finding.NORMAL
            )
            study = PhantomStudy.draw(seed, number, k, finding)
            dataset = _image(person, study, radiograph(patient, study, shape), (seed, number, k), person.days[k])
            images.append(_write(whole, dataset, _encode(dataset)))
            labels.append((str(dataset.StudyInstanceUID), finding.value))
    return images, labels


def _write_mess(whole: Path, images: list[Path], num_patients: int, seed: int, shape: tuple[int, int]) -> None:
    """Add what real exports hold beside good images: copies, a cut file, a report, a stray text."""
    rng = generator("phantom mess", seed)
    for index in rng.choice(len(images), min(NUM_DUPLICATES, len(images)), replace=False):
        source = images[index]
        source.with_name(f"copy_{source.name}").write_bytes(source.read_bytes())
    number = int(rng.integers(num_patients))
    patient = PhantomPatient.draw(seed, number)
    person = _person(seed, number, patient)
    day = person.days[-1] + timedelta(days=30)
    study = PhantomStudy.draw(seed, number, len(person.days), Finding.NORMAL)
    cut = _image(person, study, radiograph(patient, study, shape), (seed, number, len(person.days)), day)
    data = _encode(cut)
    _write(whole, cut, data[: len(data) - len(cut.PixelData) // 2])
    report = _report(person, (seed, number, 0), person.days[0])
    _write(whole, report, _encode(report))
    (whole / "viewer.txt").write_bytes(VIEWER)


def _write(whole: Path, dataset: Dataset, data: bytes) -> Path:
    """Write ``data`` where the export keeps ``dataset``."""
    study, instance = str(dataset.StudyInstanceUID), str(dataset.SOPInstanceUID)
    path = whole / str(dataset.PatientID) / study[-12:] / f"{instance[-16:]}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _encode(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _person(seed: int, number: int, patient: PhantomPatient) -> Person:
    """Invent a name, an identifier, a birth date that fits the age, and the days of 1 to 3 studies."""
    rng = generator("phantom person", seed, number)
    first = date(2016, 1, 4) + timedelta(days=int(rng.integers(2500)))
    gaps = np.cumsum([0, *rng.integers(2, 400, int(rng.integers(3)))])
    name = f"{rng.choice(FAMILY)}^{rng.choice(GIVEN[patient.sex])}"
    return Person(
        name=name,
        identifier=f"PH{number:05d}{rng.integers(1000):03d}",
        born=first - timedelta(days=round(365.25 * patient.age)),
        sex=patient.sex,
        days=tuple(first + timedelta(days=int(gap)) for gap in gaps),
    )


def _uid(*words: object) -> uid.UID:
    """Return a UID made of a keyed UUID (DICOM PS3.5 B.2, root 2.25)."""
    return uid.UID(f"2.25.{uuid.UUID(bytes=generator('phantom uid', *words).bytes(16), version=4).int}")


def _header(person: Person, sop_class: uid.UID, key: tuple[int, int, int], day: date) -> FileDataset:
    """Return the patient, study and series modules that images and reports share."""
    rng = generator("phantom header", *key)
    kind = sop_class.name
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, _uid("instance", kind, *key)
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _uid("study", *key), _uid("series", kind, *key)
    ds.PatientName, ds.PatientID, ds.PatientSex = person.name, person.identifier, person.sex
    ds.PatientBirthDate = person.born.strftime("%Y%m%d")
    ds.PatientAge = f"{int((day - person.born).days / 365.25):03d}Y"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day.strftime("%Y%m%d")
    clock = f"{rng.integers(7, 20):02d}{rng.integers(60):02d}{rng.integers(60):02d}"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = clock
    ds.AccessionNumber, ds.StudyID = f"A{rng.integers(10**7):07d}", str(rng.integers(1, 9999))
    ds.ReferringPhysicianName = f"{rng.choice(FAMILY)}^{rng.choice(GIVEN['F'])}^^Dr"
    ds.InstitutionName, ds.StationName = str(rng.choice(SITES)), f"XR{rng.integers(1, 7)}"
    ds.StudyDescription, ds.SeriesNumber, ds.InstanceNumber = "CHEST", "1", "1"
    return ds


def _image(person: Person, study: PhantomStudy, image: Plane, key: tuple[int, int, int], day: date) -> FileDataset:
    """Return a DX or CR object of ``image`` (``Y X`` in [0, 1]), compressed or not."""
    vendor = study.vendor
    sop_class = (
        uid.DigitalXRayImageStorageForPresentation if vendor.modality == "DX" else uid.ComputedRadiographyImageStorage
    )
    ds = _header(person, sop_class, key, day)
    rng = generator("phantom image", *key)
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = vendor.modality, vendor.manufacturer, vendor.model
    ds.DeviceSerialNumber, ds.SoftwareVersions = (
        f"{rng.integers(10**5):05d}",
        f"{rng.integers(1, 6)}.{rng.integers(10)}",
    )
    ds.ImageType, ds.BodyPartExamined, ds.ViewPosition = ["DERIVED", "PRIMARY"], "CHEST", study.view
    ds.SeriesDescription, ds.PatientOrientation = f"Chest {study.view}", ["L", "F"]
    ds.KVP, ds.ExposureTime = str(rng.integers(100, 130)), str(rng.integers(3, 20))
    ds.DistanceSourceToDetector = "1800" if study.view == "PA" else "1150"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    if vendor.modality == "DX":
        ds.PresentationIntentType, ds.ImageLaterality, ds.AcquisitionContextSequence = "FOR PRESENTATION", "U", []
        ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
        ds.PresentationLUTShape = "INVERSE" if vendor.inverted else "IDENTITY"
    spacing = f"{vendor.field_mm / image.shape[1]:.6g}"
    ds.ImagerPixelSpacing = ds.PixelSpacing = [spacing, spacing]
    _add_pixels(ds, study, image, rng)
    return ds


def _add_pixels(ds: FileDataset, study: PhantomStudy, image: Plane, rng: np.random.Generator) -> None:
    """Add the stored values, the window that shows them, and the transfer syntax."""
    vendor, top = study.vendor, 2**study.vendor.bits - 1
    low, high = (round(share * top) for share in vendor.range_used)
    stored = np.rint(low + (high - low) * image).astype("<u2")
    if vendor.inverted:
        stored, low, high = (top - stored).astype("<u2"), top - high, top - low
    ds.PhotometricInterpretation = "MONOCHROME1" if vendor.inverted else "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, vendor.bits, vendor.bits - 1
    ds.SmallestImagePixelValue, ds.LargestImagePixelValue = int(stored.min()), int(stored.max())
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = f"{vendor.slope:g}", "0", "US"
    ds.WindowCenter = f"{vendor.slope * (low + high) / 2:.6g}"
    ds.WindowWidth = f"{vendor.slope * (high - low):.6g}"
    ds.add_new("PixelData", "OW", stored.tobytes())
    syntax = rng.choice(["explicit", "implicit", "rle"], p=[0.4, 0.35, 0.25])
    if syntax == "implicit":
        ds.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    elif syntax == "rle":
        ds.compress(uid.RLELossless, stored, encoding_plugin="pylibjpeg", generate_instance_uid=False)


def _report(person: Person, key: tuple[int, int, int], day: date) -> FileDataset:
    """Return a one-line text report without pixels."""
    ds = _header(person, uid.BasicTextSRStorage, key, day)
    ds.Modality, ds.SeriesDescription, ds.Manufacturer = "SR", "Report", "Invented Reporting"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
    item.TextValue = f"Chest of {person.name.replace('^', ', ')}: see images."
    ds.ContentSequence = [item]
    return ds
