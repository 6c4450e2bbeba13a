"""Identifiers planted wherever a file can hold text, and the search that decodes whatever was made of it."""

from __future__ import annotations

import base64
import io
import re
import sqlite3
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import polars as pl
from drawings import drawn_masks, grid_of, seg_of, series, square, structure_set
from PIL import Image, PngImagePlugin
from pydicom import uid
from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from synthetic_dicom import IDENTIFIERS, ROOT, ct_slice, dataset, encoded, radiograph, save

from medssl.dicom import wanted

PLANTED = [
    *(part for value in IDENTIFIERS.values() for part in value.split("^") if part != "Dr"),
    *("Quillfeather", "Ottoline", "Zanzibart", "7719204", "1961-04-17", "20170203", "2017-02-03", ROOT, "PlantedPath"),
    *("Walker", "Harris"),  # words of SNOMED CT, in labels
]
TEXT = "Ottoline Quillfeather MRN7719204 of PlantedPath"
VALUES: dict[str, str | bytes] = {
    **dict.fromkeys(["AE", "CS"], "QUILLFEATHER"),
    **dict.fromkeys(["LO", "SH"], "Quillfeather"),
    **dict.fromkeys(["LT", "ST", "UC", "UT"], TEXT),
    **dict.fromkeys(["DS", "IS"], "7719204"),
    **dict.fromkeys(["OB", "OB or OW", "OW", "UN", "OD", "OF", "OL", "OV"], b"Quillfeather Ottoline   "),
    "DA": "20170203",
    "DT": "20170203120455",
    "PN": "Quillfeather^Ottoline",
    "UI": f"{ROOT}7719204",
    "UR": "http://quillfeather.example",
}
# What these hold decides how pixels are read; their numbers enter the catalog as numbers.
STRUCTURE = {
    *" ".join([wanted.PIXELS, wanted.OF_A_REGION, wanted.MACROS, *wanted.OF_A_FRAME]).split(),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SequenceOfUltrasoundRegions"),
    *("DimensionIndexSequence", "ModalityLUTSequence", "VOILUTSequence", "EchoTime", "SpecificCharacterSet"),
    "DetectorInformationSequence",
}


def plant(ds: Dataset) -> None:
    """Fill every element that can hold text and is not there yet: at the top, in every sequence, and three deep."""
    texts = [(tag, vr) for tag, (vr, _, _, _, keyword) in DicomDictionary.items() if _is_free(tag, vr, keyword)]
    sequences = [tag for tag, (vr, *_, keyword) in DicomDictionary.items() if vr == "SQ" and keyword not in STRUCTURE]
    inner = Dataset()
    for tag, vr in texts:
        inner.add_new(tag, vr.split(" ")[0], VALUES[vr])
        if tag not in ds:
            ds.add_new(tag, vr.split(" ")[0], VALUES[vr])
    name = Dataset()
    name.PatientName, name.TextValue = "Quillfeather^Ottoline", TEXT
    for tag in sequences:
        ds.add_new(tag, "SQ", [name])
    for keyword in ("ContentSequence", "ReferencedStudySequence", "RequestAttributesSequence"):
        outer = Dataset()
        outer.add_new(tag_for_keyword(keyword), "SQ", [inner])
        inner = outer
    ds.add_new(tag_for_keyword("RequestAttributesSequence"), "SQ", [inner])
    for group in (0x6000, 0x601E):  # overlays
        for element, vr in ((0x0022, "LO"), (0x1500, "LO"), (0x3000, "OW")):
            ds.add_new((group, element), vr, VALUES[vr])
    for number, vr in enumerate(["LO", "UT", "PN", "UN", "OB"], 1):
        ds.private_block(0x0029, "QUILLFEATHER", create=True).add_new(number, vr, VALUES[vr])


def _is_free(tag: int, vr: str, keyword: str) -> bool:
    return vr in VALUES and keyword not in STRUCTURE and tag >> 16 not in (0x0000, 0x0002, 0x0004, 0x5400, 0x7FE0)


def named(ds: FileDataset) -> FileDataset:
    """Fill the file meta information."""
    meta = ds.file_meta
    meta.SourceApplicationEntityTitle = meta.SendingApplicationEntityTitle = "QUILLFEATHER"
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = f"{ROOT}7719204", b"Quillfeather"
    ds.preamble = b"Quillfeather was here".ljust(128)
    return ds


def export(source: Path) -> Path:
    """Write images, broken files, reports, texts, media and archives, identifiers in all of them and in their names."""
    folder = source / "PlantedPath_Quillfeather"
    for i in range(3):
        save(radiograph(f"x{i}", ManufacturerModelName="Quillfeather X1"), folder / f"Ottoline{i}.dcm")
    for z in range(3):
        body_part = "CHEST" if z else "OTTOLINE"
        save(ct_slice(z, BodyPartExamined=body_part, StudyID="QUILL"), folder / f"ct{z}", uid.RLELossless)
    cut = save(radiograph("cut"), folder / "cut.dcm")
    cut.write_bytes(cut.read_bytes()[:-100])
    save(dataset(uid.BasicTextSRStorage, "report", SeriesDescription="Quillfeather"), folder / "report")
    (folder / "Zanzibart.txt").write_text("Quillfeather was here\n" * 10)
    return source


def full_export(source: Path) -> Path:
    """Add to ``export``: objects with every element planted, a medium, archives, masks, NIfTI and raster images."""
    folder = export(source) / "PlantedPath_Ottoline"
    full = named(radiograph("full"))
    plant(full)
    save(full, folder / "Quillfeather.dcm")
    for z in range(2):
        slice_ = named(ct_slice(z, f"full {z}"))
        slice_.SeriesInstanceUID = f"{ROOT}7719204"
        plant(slice_)
        save(slice_, folder / f"Quillfeather{z}.dcm")
    record = Dataset()
    record.DirectoryRecordType, record.PatientID = "PATIENT", "MRN7719204"
    record.PatientName, record.ReferencedFileID = "Quillfeather^Ottoline", ["OTTOLINE", "X1"]
    disc = dataset(uid.MediaStorageDirectoryStorage, "disc", FileSetID="QUILLFEATHER", DirectoryRecordSequence=[record])
    save(disc, folder / "disc of Quillfeather" / "DICOMDIR")
    save(radiograph("on the medium"), folder / "disc of Quillfeather" / "OTTOLINE" / "X1")
    image = encoded(radiograph("zipped"))
    with zipfile.ZipFile(folder / "Quillfeather.zip", "w") as archive:
        archive.comment = TEXT.encode()
        archive.writestr("PlantedPath/Ottoline.dcm", image)
    with tarfile.open(folder / "Quillfeather.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("PlantedPath/Zanzibart.dcm")
        info.size, info.uname, info.pax_headers = len(image), "Quillfeather", {"comment": TEXT}
        archive.addfile(info, io.BytesIO(encoded(radiograph("in the tar"))[: len(image)].ljust(len(image), b"\0")))
    _nifti(folder / "sub-Quillfeather_T1w.nii.gz")
    _raster(folder / "Quillfeather.png")
    segmented(folder)
    return source


def segmented(folder: Path) -> Path:
    """Write a CT, and a SEG and a structure set of it whose labels are names."""
    images = series()
    for index, ds in enumerate(images):
        ds.StudyInstanceUID = ds.SeriesInstanceUID = f"{ROOT}5550199"
        save(ds, folder / "Quillfeather CT" / f"{index}.dcm")
    named = seg_of(images, drawn_masks(images), ["Harris Walker", "PTV Ottoline"])
    named.ContentCreatorName = "Walker^Harris"
    for segment in named.SegmentSequence:
        segment.SegmentDescription = TEXT
        segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning = "Walker"
    save(named, folder / "Walker.seg")
    drawn = structure_set(images, [square(grid_of(images), 3, 4.5, 20.5)], "PTV WALKER")
    drawn.StructureSetLabel, drawn.ReviewerName = "Quillfeather", "Walker^Harris"
    save(drawn, folder / "Walker.rt")
    return folder


def _nifti(path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 900, (40, 38, 9)).astype(np.int16)
    image = nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0]))
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = b"Quillfeather"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", TEXT.encode()))
    nibabel.save(image, path)


def _raster(path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", TEXT)
    texts.add_itxt("Comment", TEXT, zip=True)
    exif = Image.Exif()
    exif[0x013B] = exif[0x010E] = TEXT  # artist, description
    pixels = np.random.default_rng(1).integers(0, 256, (50, 60)).astype(np.uint8)
    Image.fromarray(pixels).save(path, pnginfo=texts, exif=exif)


def contents(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield everything below a folder as text: names, raw bytes, cells, tar headers, voxels, metadata, databases."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        yield name, name
        data = path.read_bytes()
        yield name, data.decode("latin1")
        if path.suffix == ".parquet":
            cells = pl.read_parquet(path)
            yield name, "\n".join(str(value) for row in cells.rows() for value in row)
        if path.suffix == ".tar":
            yield from ((name, text) for text in _tar(path))
        if data.startswith(b"SQLite format 3"):
            with sqlite3.connect(path) as database:
                yield name, "\n".join(database.iterdump())
            database.close()
        for encoded_png in re.findall(rb"data:image/png;base64,([A-Za-z0-9+/=]+)", data):
            with Image.open(io.BytesIO(base64.b64decode(encoded_png))) as image:
                yield name, np.asarray(image).tobytes().decode("latin1")
                yield name, repr(image.info)


def _tar(path: Path) -> Iterator[str]:
    with tarfile.open(path) as tar:
        for member in tar:
            yield repr((member.name, member.uname, member.gname, member.pax_headers))
            handle = tar.extractfile(member)
            assert handle is not None
            stored = blosc2.ndarray_from_cframe(handle.read())
            yield stored[()].tobytes().decode("latin1")
            yield repr(dict(stored.schunk.vlmeta.getall()))


def found_in(texts: Iterator[tuple[str, str]]) -> set[str]:
    """Return what was planted and is there, in any case, in UTF-16 too."""
    found = set()
    for _, text in texts:
        folded = text.casefold()
        found |= {
            planted
            for planted in PLANTED
            if planted.casefold() in folded or planted.encode("utf-16-le").decode("latin1") in text
        }
    return found


def leaks(*folders: Path) -> set[str]:
    """Return what was planted and is below any of the folders, decoded."""
    return {planted for folder in folders for planted in found_in(contents(folder))}
