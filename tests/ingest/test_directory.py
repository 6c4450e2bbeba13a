"""DICOMDIR: what it refers to in its folder is ingested, what it only promises is said, and it leads nowhere else."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.fileset import FileSet
from synthetic_dicom import ct_slice, radiograph, save
from test_archives import NOWHERE, content, packed_zip

from medssl.core.errors import MedsslError
from medssl.core.places import LocalFile
from medssl.dicom.directory import is_directory, referenced
from medssl.dicom.reasons import DicomProblem
from medssl.ingest.ingest import ingest
from medssl.ingest.sources import walk
from medssl.pool.key import Key
from medssl.pool.pool import Pool


@pytest.fixture
def disc(tmp_path: Path, source: Path) -> Path:
    """A CD as viewers expect it, with a file that its DICOMDIR does not know."""
    files, common = FileSet(), {"StudyTime": "101010", "InstanceNumber": 1}
    for z in range(4):
        files.add(dcmread(save(ct_slice(z, **common | {"InstanceNumber": z}), source / str(z))))
    files.add(dcmread(save(radiograph("x", SeriesInstanceUID="1.2.3", SeriesNumber=2, **common), source / "x")))
    files.write(tmp_path / "disc")
    files.clear()
    files._stage["t"].cleanup()  # pydicom leaves that to chance
    (tmp_path / "disc" / "VIEWER.EXE").write_bytes(b"MZ" + bytes(500))
    return tmp_path / "disc"


def outcomes(pool: Pool) -> dict[tuple[str, str | None], int]:
    counted = pool.instances.group_by("outcome", "reason").len().rows()
    return {(outcome, reason): num for outcome, reason, num in counted}


def test_as_a_source_it_stands_for_the_files_it_refers_to(disc: Path, pool: Pool, key: Key) -> None:
    said: list[str] = []
    ingest([disc / "DICOMDIR"], pool, key, tell=said.append)
    assert outcomes(pool) == {("stored", None): 5, ("non_image", "dicomdir"): 1}
    assert said == []
    assert ingest([disc], pool, key).num_files == 1  # the program, which it does not refer to


def test_found_in_a_folder_every_other_file_has_its_row_too(disc: Path, pool: Pool, key: Key) -> None:
    ingest([disc], pool, key)
    assert outcomes(pool) == {("stored", None): 5, ("non_image", "dicomdir"): 1, ("non_image", "not_dicom"): 1}


def test_missing_files_are_counted_and_names_are_matched_as_discs_spell_them(disc: Path, tmp_path: Path) -> None:
    files = sorted(path for path in disc.rglob("*") if path.is_file() and path.parent != disc)
    files[0].unlink()
    files[1].rename(files[1].with_name(files[1].name.lower() + ";1"))
    for given in (disc, disc / "DICOMDIR", packed_zip(disc, tmp_path / "disc.zip")):
        said: list[str] = []
        found = walk([given], NOWHERE, tell=said.append)
        assert len(found) == 6 - (given.name == "DICOMDIR")
        assert len(said) == 1
        assert said[0].endswith("DICOMDIR: 1 of the 5 files it refers to are not there")


def test_references_outside_its_folder_are_not_followed(disc: Path, tmp_path: Path) -> None:
    save(radiograph("secret"), tmp_path / "SECRET")
    dataset = dcmread(disc / "DICOMDIR")
    records = [record for record in dataset.DirectoryRecordSequence if "ReferencedFileID" in record]
    (disc / "DICOMDIR").unlink()
    with warnings.catch_warnings(action="ignore"):
        records[0].ReferencedFileID = ["..", "SECRET"]
        records[1].ReferencedFileID = str(tmp_path / "SECRET")
        dcmwrite(disc / "DICOMDIR", dataset)
    said: list[str] = []
    found = walk([disc / "DICOMDIR"], NOWHERE, tell=said.append)
    assert len(found) == 4
    assert all("SECRET" not in file.relative for file in found)
    assert said == ["disc/DICOMDIR: 2 references outside its folder were not followed"]


def test_a_damaged_one_is_a_file_like_others_but_no_source(disc: Path, pool: Pool, key: Key) -> None:
    path, whole = disc / "DICOMDIR", (disc / "DICOMDIR").read_bytes()
    for num in range(400, len(whole), 97):
        path.write_bytes(whole[:num])
        with pytest.raises(DicomProblem):
            referenced(LocalFile(path))
    with pytest.raises(MedsslError, match=r"DICOMDIR: cannot be read \(.*\); give its folder as the source"):
        walk([path], NOWHERE)
    report = ingest([disc], pool, key)
    assert (report.num_files, report.num_volumes) == (7, 2)


def test_it_is_known_by_its_class_whatever_it_is_called(disc: Path, tmp_path: Path) -> None:
    assert is_directory(LocalFile((disc / "DICOMDIR").rename(disc / "other")))
    assert not is_directory(LocalFile(save(radiograph("x"), tmp_path / "DICOMDIR")))
    assert not is_directory(LocalFile(disc / "VIEWER.EXE"))


def test_the_volumes_are_those_of_the_folder(disc: Path, source: Path, tmp_path: Path, key: Key) -> None:
    pools = [Pool.create(tmp_path / name, key) for name in ("first", "second")]
    ingest([source], pools[0], key)
    ingest([disc / "DICOMDIR"], pools[1], key)
    assert content(pools[0]) == content(pools[1])
