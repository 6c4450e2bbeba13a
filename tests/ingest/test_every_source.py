"""The command line takes any kind of source, and secrets in an address reach neither terminal nor journal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from synthetic_dicom import ct_slice, radiograph, save
from test_archives import packed_tar, packed_zip

from medssl.pool.pool import Pool


def medssl(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "medssl", "ingest", *words, "--workspace", str(folder / "workspace")]
    home = os.environ | {"HOME": str(folder)}
    return subprocess.run(program, capture_output=True, text=True, cwd=folder, timeout=300, env=home)


def test_the_command_line_takes_them_side_by_side(source: Path, tmp_path: Path) -> None:
    for z in range(3):
        save(ct_slice(z), source / "ct" / str(z))
    packed_tar(source, tmp_path / "copy.tgz", "w:gz")
    for i in range(2):
        (tmp_path / f"in{i}").mkdir()
        save(radiograph(f"x{i}", SeriesInstanceUID=f"1.2.{i}"), tmp_path / f"in{i}" / "x")
        packed_zip(tmp_path / f"in{i}", tmp_path / f"{i}.zip")
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "images.csv").write_text("path,patient,modality\na.png,Quillfeather,DX\n")
    given = [str(source), "copy.tgz", "0.zip", f"file://{tmp_path}/1.zip", "photos"]
    done = medssl(tmp_path, *given, "--pool", str(tmp_path / "pool"), "--images", str(tmp_path / "images.csv"))
    assert done.returncode == 0, done.stderr
    pool = Pool.open(tmp_path / "pool")
    assert pool.catalog.volumes.height == 4
    assert sorted(pool.instances["outcome"]) == ["duplicate"] * 3 + ["stored"] * 6
    kept = b"".join(
        p.read_bytes() for folder in ("pool", "workspace") for p in (tmp_path / folder).rglob("*") if p.is_file()
    )
    assert b"Quillfeather" not in kept
    assert b"copy.tgz" not in kept
    assert not (tmp_path / "pool.ingest").exists()


def test_a_secret_in_an_address_is_refused_without_being_shown(tmp_path: Path) -> None:
    done = medssl(tmp_path, "dicomweb+http://me:hush-hush@127.0.0.1:9/dicom-web", "--pool", str(tmp_path / "pool"))
    assert done.returncode == 2
    assert "must not hold a user or password" in done.stderr
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hush-hush" not in kept + done.stderr.encode() + done.stdout.encode()
