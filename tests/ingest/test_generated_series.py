"""Series made up in every way: whatever the order, names and numbers of the files, the pool holds what was scanned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation
from synthetic_dicom import MR, dataset, save, with_pixels

from medssl.ingest.export import nifti_image
from medssl.ingest.ingest import ingest
from medssl.pool.key import Key
from medssl.pool.pool import Pool

ROWS, COLUMNS = 5, 7
TAGS = ["TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", "AcquisitionTime", None]
KEY = Key(b"k" * 32)


@dataclass(frozen=True)
class Scan:
    """One series: ``echoes`` arrays ``T Z Y X`` on one grid, from voxel (x, y, z) to LPS mm by ``affine``.

    ``lost`` slices (echo, time, place) were not exported, ``copied`` ones twice under other UIDs.
    """

    echoes: NDArray[np.int16]
    affine: NDArray[np.float64]
    degrees: float
    tag: str | None
    lost: frozenset[tuple[int, int, int]]
    copied: frozenset[tuple[int, int, int]]
    shares_uid: bool
    order: NDArray[np.int64]

    def objects(self) -> list[Dataset]:
        """Return the files in some order."""
        made = []
        places = np.ndindex(self.echoes.shape[:3])
        for number, place in enumerate(p for p in places if p not in self.lost):
            made.append(self._object(number, place, ""))
            if place in self.copied:
                made.append(self._object(number, place, "copy"))
        return [made[i] for i in self.order.argsort()[: len(made)].argsort()]

    def _object(self, number: int, place: tuple[int, ...], name: str) -> Dataset:
        echo, t, z = place
        ds = dataset(MR, f"{echo} {t} {'' if self.shares_uid else z} {name}", Modality="MR", ImageType=["ORIGINAL"])
        step, corner = self.affine[:3, 2], self.affine[:3, 3]
        axes = self.affine[:3, :2]
        spacing = np.linalg.norm(axes, axis=0)
        ds.ImagePositionPatient = [round(float(v), 6) for v in corner + z * step]
        ds.ImageOrientationPatient = [round(float(v), 8) for v in (axes / spacing).T.ravel()]
        ds.PixelSpacing = [round(float(v), 6) for v in spacing[::-1]]
        ds.EchoTime, ds.EchoNumbers, ds.SeriesNumber = 10 * (1 + echo), 1 + echo, 4
        ds.InstanceNumber = 1 + number
        if self.tag == "AcquisitionTime":
            ds.AcquisitionTime = f"1015{10 + 3 * t:02d}"
        elif self.tag is not None:
            setattr(ds, self.tag, 1 + 3 * t)
        return with_pixels(ds, self.echoes[echo, t, z], SliceThickness=1, RepetitionTime=1000, ScanningSequence="GR")


@st.composite
def scans(draw: st.DrawFn, most_moments: int = 3) -> Scan:
    """Draw a scan: oblique, tilted, of one or two echoes, up to three time points, a part of it lost or sent twice."""
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True).as_matrix()
    spacing = [draw(st.floats(0.4, 3)), draw(st.floats(0.4, 3)), draw(st.floats(0.6, 6))]
    degrees = draw(st.sampled_from([0.0, 0.0, 12.0, -25.0]))
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 2] += turn[:, 1] * spacing[2] * np.tan(np.radians(degrees))
    affine[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    shape = draw(st.integers(1, 2)), draw(st.integers(1, most_moments)), draw(st.integers(4, 6)), ROWS, COLUMNS
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    everything = list(np.ndindex(shape[:3]))
    lost = draw(st.sampled_from(["nothing", "nothing", "inside", "end"]))
    gone = [] if lost == "nothing" else [(0, shape[1] - 1, 1 if lost == "inside" else shape[2] - 1)]
    copied = draw(st.sets(st.sampled_from([p for p in everything if p not in gone]), max_size=3))
    return Scan(
        echoes=rng.integers(-2000, 2000, shape).astype(np.int16),
        affine=affine,
        degrees=degrees,
        tag=draw(st.sampled_from(TAGS)),
        lost=frozenset(gone),
        copied=frozenset(copied),
        shares_uid=draw(st.booleans()),
        order=rng.permutation(2 * len(everything)),
    )


def expected(scan: Scan, echo: int) -> tuple[NDArray[np.int16], Counter[str], set[str]]:
    """Return the voxels that are stored, the reasons of the files that are not, the flags."""
    moments, num = scan.echoes[echo], scan.echoes.shape[2]
    mine = [place for place in scan.lost if place[0] == echo]
    flags = {"gantry_tilt"} if scan.degrees else set()
    if not mine:
        return moments, Counter(), flags
    if len(moments) > 1:  # the last moment is incomplete
        if scan.tag is None and mine[0][2] < num - 1:
            return moments[:0], Counter(duplicate_position=len(moments) * num - 1), set()
        return moments[:-1], Counter(incomplete_time_point=num - 1), flags | {"incomplete_series"}
    if mine[0][2] == num - 1:
        return moments[:, :-1], Counter(), flags  # nothing shows that there was one more
    return moments[:, :0], Counter(missing_slices=num - 1), set()


def ingested(scan: Scan, folder: Path) -> Pool:
    """Return a pool of the scan, whose files are left in ``folder/export``."""
    for i, ds in enumerate(scan.objects()):
        save(ds, folder / "export" / f"{i:03d}")
    pool = Pool.create(folder / "pool", KEY)
    ingest([folder / "export"], pool, KEY)
    return pool


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(scans())
def test_the_pool_holds_what_was_scanned_or_says_why_not(tmp_path_factory: Any, scan: Scan) -> None:
    folder = tmp_path_factory.mktemp("series")
    pool = ingested(scan, folder)
    assert pool.verify() == []
    found = {pool.reader().read(i).tobytes(): row for i, row in enumerate(pool.catalog.volumes.to_dicts())}
    reasons: Counter[str] = Counter()
    num_volumes = num_copies = 0
    for echo in range(len(scan.echoes)):
        voxels, rejected, flags = expected(scan, echo)
        stored = len(voxels) if voxels.size else 0
        again = [place for place in scan.copied if place[0] == echo and place[1] >= stored]  # of what is not stored
        num_copies += sum(place[0] == echo for place in scan.copied) - len(again)
        reasons += Counter({reason: num + len(again) for reason, num in rejected.items()})
        if not voxels.size:
            continue
        num_volumes += 1
        row = found[voxels.tobytes()]
        assert row["shape"] == list(voxels.shape if len(voxels) > 1 else voxels.shape[1:])
        assert row["axes"] == ("TZYX" if len(voxels) > 1 else "ZYX")
        assert np.allclose(np.reshape(row["affine"], (4, 4)), scan.affine, atol=1e-4)
        assert {f for f in row["flags"] if not f.startswith("t_")} - {"reused_sop_uid"} == flags
    assert len(found) == num_volumes
    said = Counter(pool.instances["reason"].drop_nulls())
    assert said.pop("same_pixels", 0) == num_copies
    assert said == reasons
    shutil.rmtree(folder)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(scans())
def test_dcm2niix_makes_the_same_of_whole_straight_scans(tmp_path_factory: Any, scan: Scan) -> None:
    program = shutil.which("dcm2niix", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("dcm2niix is not installed (PyPI: dcm2niix)")
    scan = replace(scan, lost=frozenset(), copied=frozenset(), shares_uid=False)
    assume(scan.degrees == 0)
    folder = tmp_path_factory.mktemp("series")
    pool = ingested(scan, folder)
    (folder / "theirs").mkdir()
    command = [program, "-z", "n", "-b", "n", "-f", "%s_%e", "-o", folder / "theirs", folder / "export"]
    subprocess.run(command, check=True, capture_output=True)
    theirs = [nibabel.as_closest_canonical(nibabel.load(path)) for path in (folder / "theirs").glob("*.nii")]
    rows = pool.catalog.volumes.to_dicts()
    assert len(theirs) == len(rows) == len(scan.echoes)
    for i, row in enumerate(rows):
        ours = nifti_image(pool.reader().read(i), row)
        assert any(
            np.array_equal(np.asanyarray(ours.dataobj), np.asanyarray(other.dataobj))
            and np.abs(ours.affine - other.affine).max() < 1e-3
            for other in theirs
        )
    shutil.rmtree(folder)
