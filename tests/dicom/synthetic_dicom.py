"""Invented DICOM objects for tests: radiographs, slices and everything that goes wrong with them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite, uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from medssl.core.places import LocalFile
from medssl.dicom.header import Header
from medssl.dicom.read import read_header

ROOT = "1.2.826.0.1.3680043.10.998."
DX = uid.DigitalXRayImageStorageForPresentation
CT, MR = uid.CTImageStorage, uid.MRImageStorage
LOSSLESS = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
]
IDENTIFIERS = {
    "PatientName": "Quillfeather^Ottoline",
    "PatientID": "MRN7719204",
    "PatientBirthDate": "19610417",
    "PatientAddress": "7 Planted Mews",
    "PatientTelephoneNumbers": "555-867530",
    "AccessionNumber": "ACC991177",
    "StudyID": "SID4411",
    "InstitutionName": "Saint Planted Infirmary",
    "ReferringPhysicianName": "Zanzibart^Dr",
    "OperatorsName": "Operatrix",
    "StudyDescription": "CHEST of Quillfeather",
    "SeriesDescription": "asked for by Zanzibart",
    "ProtocolName": "Quillfeather protocol",
    "ImageComments": "Ottoline was here",
    "DeviceSerialNumber": "SN5550199",
}


def dataset(sop_class: str, name: str, **elements: Any) -> FileDataset:
    """Return an object without pixels; ``name`` makes its SOP UID."""
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = uid.generate_uid(ROOT, entropy_srcs=["sop", name])
    ds.StudyInstanceUID = uid.generate_uid(ROOT, entropy_srcs=["study"])
    ds.SeriesInstanceUID = uid.generate_uid(ROOT, entropy_srcs=["series"])
    ds.StudyDate, ds.SpecificCharacterSet, ds.PatientSex = "20170203", "ISO_IR 100", "F"
    ds.Manufacturer, ds.ManufacturerModelName = "SIEMENS", "Fluorospot Compact FD"
    for keyword, value in (IDENTIFIERS | elements).items():
        setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    other = Dataset()
    other.PatientID, other.TypeOfPatientID = "OLD-MRN7719204", "TEXT"
    ds.OtherPatientIDsSequence = [other]
    ds.private_block(0x0019, "PLANTED", create=True).add_new(0x01, "LO", "private Quillfeather")
    return ds


def with_pixels(ds: FileDataset, array: NDArray[Any], **elements: Any) -> FileDataset:
    """Add ``array`` (``Y X`` or ``Y X 3``, an integer type) as pixels."""
    ds.Rows, ds.Columns = array.shape[:2]
    ds.SamplesPerPixel = 3 if array.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if array.ndim == 3 else "MONOCHROME2"
    if array.ndim == 3:
        ds.PlanarConfiguration = 0
    bits = array.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    ds.add_new("PixelData", "OB" if bits == 8 else "OW", data + b"\0" * (len(data) % 2))
    return ds


def radiograph(name: str = "one", array: NDArray[Any] | None = None, **elements: Any) -> FileDataset:
    """Return a 12-bit radiograph; ``name`` makes its UID and, without ``array``, its picture."""
    if array is None:
        array = np.random.default_rng(abs(hash_of(name))).integers(0, 4096, (40, 36)).astype(np.uint16)
    ds = dataset(DX, name, Modality="DX", BodyPartExamined="CHEST", ViewPosition="PA")
    return with_pixels(ds, array, **({"BitsStored": 12, "HighBit": 11} | elements))


def hash_of(name: str) -> int:
    """Return a number that is the same in every process."""
    return int.from_bytes(name.encode()[-6:], "big")


def ct_slice(z: float, name: str | None = None, **elements: Any) -> FileDataset:
    """Return an axial CT slice at height ``z`` whose voxels hold ``round(z)``, signed."""
    array = np.full((32, 34), round(z), np.int16)
    array[0, :3] = 7, -5, round(10 * z)
    ds = dataset(CT, name or f"ct {z}", Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-10.0, -20.0, z], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.InstanceNumber, ds.SeriesNumber = [0.5, 0.75], 1, 3
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    return with_pixels(ds, array, **elements)


def header_of(path: Path) -> Header:
    """Return the header of a file that must have one."""
    found = read_header(LocalFile(path))
    assert found.header is not None, found.reason
    return found.header


def encoded(ds: Dataset, syntax: str | None = None) -> bytes:
    """Return the bytes of a file, compressed or converted to ``syntax``."""
    buffer = io.BytesIO()
    if syntax is not None and uid.UID(syntax).is_compressed and uid.UID(syntax).is_encapsulated:
        plugin = {uid.RLELossless: "pydicom", uid.JPEGLSLossless: "pyjpegls"}.get(uid.UID(syntax), "pylibjpeg")
        ds.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    elif syntax is not None:
        if syntax == uid.ExplicitVRBigEndian:
            words = np.frombuffer(ds.PixelData, f"u{ds.BitsAllocated // 8}")
            ds.PixelData = words.byteswap().tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def save(ds: Dataset, path: Path, syntax: str | None = None) -> Path:
    """Write a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(ds, syntax))
    return path
