"""NIfTI out of a pool: the voxels, their place and their meaning come back, and nobody's name."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from objects import framed
from pydicom import uid
from scipy.spatial.transform import Rotation
from synthetic_dicom import IDENTIFIERS, ct_slice, dataset, radiograph, save

from medssl.core.errors import PoolError
from medssl.ingest.export import export_nifti, nifti_image
from medssl.ingest.ingest import ingest
from medssl.ingest.rules import Rules
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.verbs.export_nifti import export_nifti as verb

ROW: dict[str, Any] = {"axes": "ZYX", "affine": None, "spacing_mm": None, "flags": [], "slope": 1.0, "intercept": 0.0}
ROW |= {"times": None}


@pytest.fixture
def filled(source: Path, pool: Pool, key: Key) -> Pool:
    """A CT of 6 slices, a film in colour, a radiograph."""
    for z in range(6):
        save(ct_slice(2.5 * z), source / f"ct{z}")
    colours = np.random.default_rng(0).integers(0, 255, (3, 12, 10, 3)).astype(np.uint8)
    film = framed(dataset(uid.UltrasoundMultiFrameImageStorage, "us", Modality="US"), colours)
    film.SeriesInstanceUID = "1.2.3.5"
    save(film, source / "film")
    save(radiograph(PatientID="MRN2", SeriesInstanceUID="1.2.3.6"), source / "dx")
    ingest([source], pool, key, rules=Rules(burned_in="accept"))
    return pool


def files(out: Path) -> list[Path]:
    return sorted(out.rglob("*.nii.gz"))


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    spacing=st.tuples(*[st.floats(0.3, 9)] * 3),
    lean=st.sampled_from([0.0, 0.3]),
    kind=st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float16", "bool"]),
    num_times=st.integers(1, 3),
)
def test_every_voxel_is_where_it_was_and_axes_run_to_ras(
    angles: Any, signs: Any, spacing: Any, lean: float, kind: str, num_times: int
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.multiply(signs, spacing)
    affine[:3, 2] += lean * affine[:3, 1]
    affine[:3, 3] = 10, -20, 30
    voxels = np.random.default_rng(0).integers(0, 2 if kind == "bool" else 100, (num_times, 4, 5, 6)).astype(kind)
    row = ROW | {"axes": "TZYX", "affine": affine.ravel().tolist(), "slope": 2.0, "intercept": -7.0}
    data = nifti_image(voxels, row).to_bytes()
    image = nibabel.Nifti1Image.from_bytes(data)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    t, z, y, x = num_times - 1, 1, 3, 2
    lps = affine @ [x, y, z, 1]
    index = np.linalg.inv(image.affine) @ (np.diag([-1, -1, 1, 1]) @ lps)
    assert np.allclose(index, np.round(index), atol=1e-3)
    found = image.get_fdata()[tuple(np.round(index[:3]).astype(int))]
    assert (found if num_times == 1 else found[t]) == pytest.approx(float(voxels[t, z, y, x]) * 2 - 7)
    stored = np.asanyarray(image.dataobj.get_unscaled())
    if kind not in ("float16", "bool"):
        assert stored.dtype == np.dtype(kind)


def test_an_export_holds_values_colours_times_and_spacings(filled: Pool, tmp_path: Path) -> None:
    made = dict(export_nifti(filled, filled.catalog.volumes, tmp_path / "out"))
    assert list(made.values()) == [True] * 3
    rows = {row["volume"]: (i, row) for i, row in enumerate(filled.catalog.volumes.to_dicts())}
    assert files(tmp_path / "out") == sorted(made)
    for path in made:
        index, row = rows[path.name.removesuffix(".nii.gz")]
        assert path.relative_to(tmp_path / "out").parent == Path(row["patient"], row["study"])
        voxels, image = filled.reader().read(index), nibabel.load(path)
        if row["axes"] == "ZYX":
            assert image.header.get_zooms() == (0.75, 0.5, 2.5)
            assert (image.dataobj.slope, image.dataobj.inter) == (1.0, -1024.0)
            assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
            assert np.array_equal(image.get_fdata(), voxels.transpose(2, 1, 0)[::-1, ::-1] - 1024.0)
        elif row["axes"] == "TYXC":
            stored = np.asanyarray(image.dataobj)
            assert stored.shape == (10, 12, 1, 3)
            assert np.array_equal(np.stack([stored[c] for c in "RGB"], -1)[:, :, 0], voxels.transpose(2, 1, 0, 3))
        else:
            assert (image.shape, image.header["sform_code"], image.header["qform_code"]) == ((36, 40, 1), 0, 0)
            assert np.array_equal(np.asanyarray(image.dataobj)[..., 0], voxels.T)


def test_nothing_in_a_file_names_anybody(filled: Pool, tmp_path: Path) -> None:
    for path, _ in export_nifti(filled, filled.catalog.volumes, tmp_path / "out"):
        data = gzip.decompress(path.read_bytes())
        header = nibabel.Nifti1Image.from_bytes(data).header
        texts = [bytes(header[name]) for name in ("descrip", "aux_file", "db_name", "intent_name")]
        assert not b"".join(texts).strip(b"\0")
        assert path.read_bytes()[3] == path.read_bytes()[4] == 0  # gzip: no name, no time
        for value in IDENTIFIERS.values():
            assert value.encode() not in data


def test_going_on_writes_the_rest_and_the_same_bytes(filled: Pool, tmp_path: Path) -> None:
    first = list(export_nifti(filled, filled.catalog.volumes, tmp_path / "out"))
    before = {path: path.read_bytes() for path, _ in first}
    first[1][0].unlink()
    (first[1][0].parent / f".{first[1][0].name}.1.partial").write_bytes(b"half")
    again = dict(export_nifti(filled, filled.catalog.volumes, tmp_path / "out"))
    assert [path for path, is_new in again.items() if is_new] == [first[1][0]]
    assert {path: path.read_bytes() for path in again} == before


def test_files_of_others_are_never_touched(filled: Pool, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(PoolError, match="expected a new or empty folder"):
        list(export_nifti(filled, filled.catalog.volumes, tmp_path / "out"))
    other = Pool.create(tmp_path / "other", Key(b"o" * 32))
    list(export_nifti(filled, filled.catalog.volumes, tmp_path / "good"))
    with pytest.raises(PoolError, match="another key"):
        list(export_nifti(other, other.catalog.volumes, tmp_path / "good"))


def test_the_verb_chooses_by_volume_study_and_role(filled: Pool, tmp_path: Path) -> None:
    volumes = filled.catalog.volumes
    assert verb(filled.path, tmp_path / "a").data["written"] == 3
    assert verb(filled.path, tmp_path / "a").data["written"] == 0
    assert verb(filled.path, tmp_path / "b", volumes=[volumes["volume"][0]]).data["written"] == 1
    role = volumes["role"][0]
    num = volumes.filter(volumes["role"] == role).height
    assert verb(filled.path, tmp_path / "c", roles=[role]).data["written"] == num
    with pytest.raises(PoolError, match="expected one of dev, val, test"):
        verb(filled.path, tmp_path / "d", roles=["train"])
    with pytest.raises(PoolError, match="expected a pseudonym"):
        verb(filled.path, tmp_path / "d", studies=["nobody"])
    assert not (tmp_path / "d").exists()


def test_the_command_line_exports(filled: Pool, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "medssl",
        "pool",
        "export-nifti",
        str(filled.path),
        str(tmp_path / "out"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"written": 3' in done.stdout
    assert len(files(tmp_path / "out")) == 3


@pytest.mark.parametrize(("axes", "shape", "expected"), [
    ("CZYX", (1, 4, 5, 6), (6, 5, 4)),
    ("CZYX", (3, 4, 5, 6), (6, 5, 4, 1, 3)),
    ("CYX", (1, 5, 6), (6, 5, 1)),
    ("TYX", (2, 5, 6), (6, 5, 1, 2)),
    ("YX", (5, 40_000), (40_000, 5, 1)),
])  # fmt: skip
def test_axes_take_the_order_of_nifti(axes: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    voxels = np.random.default_rng(0).random(shape).astype(np.float16)
    image = nifti_image(voxels, ROW | {"axes": axes, "spacing_mm": [2.0] * len(axes.strip("CT"))})
    assert image.shape == expected
    assert image.header.get_zooms()[:2] == (2.0, 2.0)
    found = type(image).from_bytes(image.to_bytes()).get_fdata()
    assert np.array_equal(np.sort(found.ravel()), np.sort(voxels.ravel()))


def test_colours_of_more_than_eight_bits_are_the_fifth_axis() -> None:
    voxels = np.random.default_rng(0).integers(0, 65535, (4, 5, 6, 3)).astype(np.uint16)
    image = nifti_image(voxels, ROW | {"axes": "ZYXC", "spacing_mm": [1.0] * 3})
    assert np.array_equal(np.asanyarray(image.dataobj)[..., 0, :], voxels.transpose(2, 1, 0, 3))
