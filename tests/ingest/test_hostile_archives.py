"""Cut, damaged and hostile archives: every file accounted for, in bounded memory, no wrong voxel in silence."""

from __future__ import annotations

import gzip
import os
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from synthetic_dicom import encoded, radiograph, save
from test_archives import NOWHERE, PACKS, Pack, export, gzipped_tar, listed, packed_tar, packed_zip, stored_zip

from medssl.dicom.reasons import Reason
from medssl.ingest import archives
from medssl.ingest.headers import read_header
from medssl.ingest.ingest import ingest
from medssl.ingest.sources import walk
from medssl.pool.key import Key
from medssl.pool.pool import Pool

__all__ = ["export"]  # a fixture


def test_cut_archives_give_what_is_before_the_cut_and_their_own_row(export: Path, tmp_path: Path) -> None:
    reasons = {}
    for kind, pack in PACKS.items():
        folder = tmp_path / kind
        folder.mkdir()
        path = pack(export, folder / "a")
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        found = listed(folder)
        reasons[kind] = found.pop(f"{kind}/a")
        assert bool(found) == kind.startswith("tar")
    assert set(reasons.values()) == {Reason.TRUNCATED_ARCHIVE}


def test_a_tar_file_cut_between_two_members_says_so(export: Path) -> None:
    path = packed_tar(export / "ct", export / "a.tar")
    with tarfile.open(path) as archive:
        cut = archive.getmembers()[3].offset
    path.write_bytes(path.read_bytes()[:cut])
    assert listed(path)["a.tar"] is Reason.TRUNCATED_ARCHIVE
    assert len(listed(path)) == 3


def test_a_tar_file_damaged_in_a_header_does_not_end_there_in_silence(export: Path) -> None:
    path = packed_tar(export / "ct", export / "a.tar")
    with tarfile.open(path) as archive:
        at = archive.getmembers()[3].offset
    data = bytearray(path.read_bytes())
    data[at + 150] ^= 255
    path.write_bytes(bytes(data))
    assert listed(path)["a.tar"] is Reason.DAMAGED_ARCHIVE


def test_of_a_gzip_file_with_a_wrong_checksum_nothing_is_taken(export: Path) -> None:
    path = gzipped_tar(export / "ct", export / "a.tgz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(bytes(data))
    assert listed(path) == {"a.tgz": Reason.DAMAGED_ARCHIVE}


@pytest.mark.parametrize("pack", [packed_zip, stored_zip])
def test_one_flipped_bit_in_the_pixels_of_a_zip_member_is_found(
    pack: Pack, source: Path, pool: Pool, key: Key, tmp_path: Path
) -> None:
    for i in range(3):
        save(radiograph(f"x{i}", SeriesInstanceUID=f"1.2.{i}"), source / f"{i}.dcm")
    path = pack(source, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        at = archive.infolist()[1].header_offset + 1500
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(bytes(data))
    report = ingest([path], pool, key)
    assert [(q.path, q.reason) for q in report.quarantined] == [("a.zip/1.dcm", "corrupt")]
    assert pool.catalog.volumes.height == 2


def test_random_damage_never_raises_and_loses_no_file(export: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    for kind, pack in PACKS.items():
        folder = tmp_path / kind
        folder.mkdir()
        path = pack(export, folder / "a")
        whole = path.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 8)):
                data[rng.choice([rng.randrange(len(data)), rng.randrange(600), -rng.randint(1, 900)])] = rng.randrange(
                    256
                )
            path.write_bytes(bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data))])]))
            found = walk([folder], NOWHERE)
            assert found
            for file in found:
                header, reason, _ = read_header(file)
                assert (header is None) != (reason is None)


# What does not count as a bomb is an eighth of the usual here, so that making bombs does not take minutes.
LIST = """
import resource, sys
from pathlib import Path
from medssl.ingest.sources import walk
from medssl.ingest.headers import read_header
from medssl.ingest import archives
archives.FREE_BYTES >>= 3
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file in walk([Path(sys.argv[1])], Path("/nowhere"))[:1000]:
    print(file.relative, file.reason, read_header(file)[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def read_elsewhere(path: Path) -> tuple[list[list[str]], int]:
    """Return what a process of its own lists and reads, and how many MB that took."""
    done = subprocess.run([sys.executable, "-c", LIST, str(path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    *lines, megabytes = done.stdout.splitlines()
    return [line.split() for line in lines], int(megabytes)


def test_bombs_are_refused_in_little_memory(source: Path) -> None:
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(source / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        with made.open("bomb", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(zeros)
        made.writestr("good", b"x" * 1000)
        for i in range(5):
            made.writestr(str(i), os.urandom(1 << 20))
    with gzip.open(source / "b.tgz", "wb", 1) as out:
        head = tarfile.TarInfo("bomb")
        head.size = 1 << 40
        out.write(head.tobuf())
        for _ in range(64):
            out.write(zeros)
    with gzip.open(source / "c.tgz", "wb", 1) as out:  # a name of 4 GB
        head = tarfile.TarInfo("././@LongLink")
        head.type, head.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
        out.write(head.tobuf(tarfile.GNU_FORMAT))
        for _ in range(200):
            out.write(zeros)
    with gzip.open(source / "d.tgz", "wb", 9) as out:  # many members without content
        one = tarfile.TarInfo("same").tobuf() * 1024
        for _ in range(72):
            out.write(one)
    lines, megabytes = read_elsewhere(source)
    assert [line[:2] for line in lines] == [
        ["export/a.zip/0", "None"], ["export/a.zip/1", "None"], ["export/a.zip/2", "None"],
        ["export/a.zip/3", "None"], ["export/a.zip/4", "None"], ["export/a.zip/bomb", "archive_bomb"],
        ["export/a.zip/good", "None"], ["export/b.tgz", "archive_bomb"], ["export/c.tgz", "archive_bomb"],
        ["export/d.tgz", "archive_bomb"],
    ]  # fmt: skip
    assert megabytes < 100


def test_members_that_share_their_bytes_are_a_bomb(source: Path) -> None:
    with zipfile.ZipFile(source / "a.zip", "w") as made:
        made.writestr("kernel", bytes(1000))
    data = (source / "a.zip").read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = data[start:end]
    entries = b"".join(entry[:46] + b"k%05d" % i for i in range(50))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 50, 50, len(entries), start, 0)
    (source / "a.zip").write_bytes(data[:start] + entries + tail)
    assert listed(source) == {"export/a.zip": Reason.ARCHIVE_BOMB}


def test_limits_on_members_and_directory_hold(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(source / "a.zip", "w") as made:
        for i in range(20):
            made.writestr(f"{i}", b"x")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 19)
    assert listed(source) == {"export/a.zip": Reason.ARCHIVE_BOMB}
    monkeypatch.setattr(archives, "MAX_MEMBERS", 20)
    assert len(listed(source)) == 20
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 500)
    assert listed(source) == {"export/a.zip": Reason.ARCHIVE_BOMB}


def test_very_many_members_of_one_name_are_numbered_quickly(source: Path) -> None:
    with tarfile.open(source / "a.tar", "w") as tar:
        for name in ["same (2)", "same (3)", *["same"] * 3000]:
            tar.addfile(tarfile.TarInfo(name))
    found = [file.below for file in walk([source], NOWHERE)]
    assert len(set(found)) == len(found) == 3002
    assert "a.tar/same (2) (2)" not in found


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_appended_to_another_is_not_lost_without_a_word(mode: str, source: Path, tmp_path: Path) -> None:
    for name in "ab":
        save(radiograph(name), tmp_path / name / name)
        packed_tar(tmp_path / name, tmp_path / f"{name}.tar", mode)
    both = source / "both"
    both.write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    found = listed(source)
    assert "export/both/a" in found
    assert "export/both/b" in found or found["export/both"] is Reason.DAMAGED_ARCHIVE


def test_folders_of_a_zip_file_made_on_windows_are_no_files(source: Path) -> None:
    with zipfile.ZipFile(source / "windows.zip", "w") as archive:
        archive.writestr("IMG\\", b"")
        archive.writestr("IMG\\one", encoded(radiograph("one")))
    assert len(listed(source)) == 1
