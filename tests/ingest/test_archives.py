"""Archives are read where they lie: the same volumes as from the folder, and nothing that a hostile one asks for."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import random
import subprocess
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from synthetic_dicom import ct_slice, radiograph, save

from medssl.core.places import LocalFile
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.ingest import archives
from medssl.ingest.headers import read_header
from medssl.ingest.ingest import ingest
from medssl.ingest.members import Gunzipped, Part, ZipMember
from medssl.ingest.sources import SourceFile, walk
from medssl.pool.key import Key
from medssl.pool.pool import Pool

NOWHERE = Path("/nowhere")
Pack = Callable[[Path, Path], Path]


def packed_zip(folder: Path, out: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(out, "w", method) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return out


def stored_zip(folder: Path, out: Path) -> Path:
    return packed_zip(folder, out, zipfile.ZIP_STORED)


def packed_tar(folder: Path, out: Path, mode: str = "w") -> Path:
    with tarfile.open(out, mode) as archive:
        archive.add(folder, ".")
    return out


def gzipped_tar(folder: Path, out: Path) -> Path:
    return packed_tar(folder, out, "w:gz")


PACKS = {"zip": packed_zip, "stored zip": stored_zip, "tar": packed_tar, "tar.gz": gzipped_tar}


@pytest.fixture
def export(source: Path) -> Path:
    for z in range(5):
        save(ct_slice(z), source / "ct" / f"{9 - z}.dcm", (None, uid.JPEG2000Lossless, uid.RLELossless)[z % 3])
    for i in range(3):
        save(radiograph(f"x{i}", SeriesInstanceUID=f"1.2.{i}"), source / f"p{i}" / "IM1")
    (source / "notes.txt").write_text("no image " * 40)
    (source / "empty").touch()
    return source


def content(pool: Pool) -> dict[str, bytes]:
    reader = pool.reader()
    return {name: reader.read(row).tobytes() for row, name in enumerate(pool.catalog.volumes["volume"])}


def listed(path: Path) -> dict[str, Reason | None]:
    return {file.relative: file.reason for file in walk([path], NOWHERE)}


@pytest.mark.parametrize("kind", PACKS)
def test_an_archive_gives_the_volumes_of_the_folder_it_was_made_of(
    kind: str, export: Path, tmp_path: Path, key: Key
) -> None:
    plain, packed = (Pool.create(tmp_path / name, key) for name in ("plain", "packed"))
    ingest([export], plain, key)
    inside = tmp_path / "again"
    inside.mkdir()
    archive = PACKS[kind](export, inside / "without a suffix")
    report = ingest([archive], packed, key)
    assert content(packed) == content(plain)
    assert packed.instances.height == plain.instances.height == report.num_files == 10
    assert sorted(packed.instances["outcome"]) == sorted(plain.instances["outcome"])
    assert packed.catalog.volumes.drop("shard", "offset").equals(plain.catalog.volumes.drop("shard", "offset"))
    assert ingest([archive], packed, key).num_files == 0
    assert os.listdir(inside) == ["without a suffix"]


@pytest.mark.parametrize("kind", PACKS)
def test_members_open_in_any_process_and_seek_as_files_do(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    data = {f"f{i}": random.Random(i).randbytes(size) for i, size in enumerate((0, 1, 70_000, 3_000_000))}
    for name, value in data.items():
        (folder / name).write_bytes(value)
    rng = random.Random(1)
    for file in walk([PACKS[kind](folder, tmp_path / "a")], NOWHERE):
        expected = data[file.below]
        assert (file.num_bytes, file.is_unchanged()) == (len(expected), True)
        place = pickle.loads(pickle.dumps(file.place))
        with place.open() as handle:
            assert handle.read() == expected
            assert handle.seek(0, io.SEEK_END) == len(expected)
            for _ in range(30):
                at, num = rng.randint(0, len(expected) + 5), rng.randint(0, 100_000)
                assert handle.seek(at) == at
                assert handle.read(num) == expected[at : at + num]


@settings(max_examples=60)
@given(st.data())
def test_a_deflated_member_reads_like_bytes(data: st.DataObject) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    value = b"".join(bytes([rng.randrange(256)]) * rng.randint(1, 5000) for _ in range(rng.randint(0, 200)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", data.draw(st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED]))) as made:
        made.writestr("a", value)
    (member,) = archives.members(Bytes(buffer.getvalue()), archives.Kind.ZIP).members
    with member.place.open() as handle:
        for at, num in data.draw(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 18)), max_size=12)):
            handle.seek(at)
            assert handle.read(num) == value[at : at + num]


class Bytes:
    """A place in memory."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.value)

    def mark(self) -> str:
        return str(len(self.value))


def test_a_header_is_read_without_reading_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    save(radiograph("big", array=np.ones((3000, 3000), np.uint16)), folder / "a")
    read = []
    place = LocalFile(stored_zip(folder, tmp_path / "a.zip"))
    (member,) = archives.members(place, archives.Kind.ZIP).members

    class Counted(io.FileIO):
        def readinto(self, buffer: memoryview) -> int:
            read.append(found := super().readinto(buffer))
            return found

    monkeypatch.setattr(LocalFile, "open", lambda self: Counted(self.path))
    header, reason, _ = read_header(SourceFile(member.place, "a", member.num_bytes))
    assert (reason, header is not None) == (None, True)
    assert sum(read) < 400_000 < member.num_bytes


def test_archives_in_folders_are_read_and_other_zip_files_are_one_file(export: Path) -> None:
    packed_zip(export / "ct", export / "ct.dcm")
    with zipfile.ZipFile(export / "letter.docx", "w") as made:
        made.writestr("[Content_Types].xml", "<xml/>")
        made.writestr("word/document.xml", "<xml/>")
    (export / "volume.nii.gz").write_bytes(gzip.compress(b"\x5c\x01" + bytes(600)))
    found = listed(export)
    assert {"export/letter.docx", "export/volume.nii.gz", "export/ct.dcm/5.dcm"} < found.keys()
    assert "export/ct.dcm" not in found
    letter = next(file for file in walk([export], NOWHERE) if file.below == "letter.docx")
    assert read_header(letter)[1] is Reason.ARCHIVE


def test_an_archive_in_an_archive_is_named_and_not_opened(export: Path, tmp_path: Path) -> None:
    packed_zip(export / "ct", export / "one.zip")
    packed_tar(export / "ct", export / "two")
    (file_a, file_b) = (
        file for file in walk([gzipped_tar(export, tmp_path / "outer")], NOWHERE) if file.below in ("one.zip", "two")
    )
    assert [read_header(file)[1] for file in (file_a, file_b)] == [Reason.NESTED_ARCHIVE] * 2


def test_a_dicom_file_whose_preamble_looks_like_an_archive_stays_one(export: Path) -> None:
    path = export / "p0" / "IM1"
    path.write_bytes(b"PK\x03\x04" + path.read_bytes()[4:])
    assert listed(export)["export/p0/IM1"] is None


def test_names_lead_nowhere_but_down_and_stay_apart(source: Path) -> None:
    names = [
        "../../up",
        "/etc/passwd",
        "C:\\win\\nul",
        "a/./b//c",
        "CON",
        "twice",
        "twice",
        "bad\x1b[2Jname",
        "e\u0301",
    ]
    with zipfile.ZipFile(source / "a.zip", "w") as made, warnings.catch_warnings(action="ignore"):
        for i, name in enumerate(names):
            made.writestr(zipfile.ZipInfo(name), f"{i}")
    with tarfile.open(source / "b.tar", "w") as tar:
        for i, name in enumerate([*names, "nul\0here"]):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(f"{i}".encode()))
    expected = ["%2E%2E/%2E%2E/up", "C:/win/nul", "CON", "a/b/c", "bad\\x1b[2Jname", "etc/passwd", "twice", "twice (2)",
                "\u00e9"]  # fmt: skip
    found = [file.below for file in walk([source], NOWHERE)]
    assert [name.removeprefix("a.zip/") for name in found if name.startswith("a.zip")] == expected
    assert [name.removeprefix("b.tar/") for name in found if name.startswith("b.tar")] == sorted([*expected, "nul"])
    contents = {file.below: file.place.open().read() for file in walk([source], NOWHERE)}
    assert (contents["a.zip/twice"], contents["a.zip/twice (2)"]) == (b"5", b"6")
    assert sorted(os.listdir(source)) == ["a.zip", "b.tar"]


def test_links_and_devices_in_a_tar_file_are_met_and_only_hard_links_followed(source: Path) -> None:
    with tarfile.open(source / "a.tar", "w") as tar:
        first = tarfile.TarInfo("first")
        first.size = 3
        tar.addfile(first, io.BytesIO(b"abc"))
        for name, kind, target in [
            ("hard", tarfile.LNKTYPE, "first"), ("gone", tarfile.LNKTYPE, "nothing"),
            ("soft", tarfile.SYMTYPE, "/etc/passwd"), ("device", tarfile.CHRTYPE, ""), ("pipe", tarfile.FIFOTYPE, ""),
        ]:  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            tar.addfile(entry)
    found = {file.below: file for file in walk([source], NOWHERE)}
    assert {name.removeprefix("a.tar/"): file.reason for name, file in found.items()} == {
        "first": None, "hard": None, "gone": Reason.UNREADABLE, "soft": Reason.UNREADABLE,
        "device": Reason.UNREADABLE, "pipe": Reason.UNREADABLE,
    }  # fmt: skip
    assert found["a.tar/hard"].place.open().read() == b"abc"


def test_encrypted_members_and_strange_compressions_have_reasons_of_their_own(export: Path) -> None:
    data = bytearray(packed_zip(export / "ct", export / "a.zip").read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    (export / "a.zip").write_bytes(bytes(data))
    packed_zip(export / "ct", export / "b.zip", zipfile.ZIP_LZMA)
    found = listed(export)
    assert found["export/a.zip/5.dcm"] is Reason.ENCRYPTED
    assert found["export/a.zip/6.dcm"] is None
    assert found["export/b.zip/5.dcm"] is Reason.UNSUPPORTED_MEMBER


def test_a_member_that_holds_less_or_more_than_it_says_is_corrupt(source: Path) -> None:
    with zipfile.ZipFile(source / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a", os.urandom(100_000))
    member = archives.members(LocalFile(source / "a.zip"), archives.Kind.ZIP).members[0].place
    assert isinstance(member, ZipMember)
    for size in (99_999, 100_001):
        lying = ZipMember(member.archive, 0, member.packed_bytes, size, member.crc, True)
        with lying.open() as handle, pytest.raises(DicomProblem, match="corrupt"):
            handle.read()


def test_a_big_gzip_file_is_read_in_any_order_without_starting_again(tmp_path: Path) -> None:
    rng = random.Random(5)
    parts = [rng.randbytes(1 << 20) for _ in range(24)]
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"".join(parts), 1))
    whole = Gunzipped(LocalFile(tmp_path / "a.gz"), 24 << 20)
    order = [*range(24), *rng.sample(range(24), 24)]
    for i in order:
        with Part(whole, i << 20, 1 << 20).open() as handle:
            assert zlib.crc32(handle.read()) == zlib.crc32(parts[i])


def test_folders_nested_deeper_than_python_calls_are_walked(source: Path) -> None:
    at = os.open(source, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    try:
        assert len(listed(source)) == 1
    finally:
        subprocess.run(["rm", "-rf", source / "d"], check=True)  # shutil cannot
