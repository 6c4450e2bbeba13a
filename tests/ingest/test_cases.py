"""Whose NIfTI files are: the scans of one case never become two patients, and two cases never one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from test_nifti import ramp, write

from medssl.core.places import LocalFile
from medssl.ingest.cases import with_cases
from medssl.ingest.ingest import ingest
from medssl.ingest.sources import SourceFile
from medssl.pool.key import Key
from medssl.pool.pool import Pool


def cases(*names: str) -> dict[str, str | None]:
    files = [SourceFile(LocalFile(Path(name)), f"export/{name}", 1) for name in names]
    return {file.relative.removeprefix("export/"): file.case for file in with_cases(files)}


@pytest.mark.parametrize(
    ("expected"),
    [
        {"BraTS_001/BraTS_001_t1.nii.gz": "BraTS_001", "BraTS_001/BraTS_001_flair.nii.gz": "BraTS_001"},
        {"train/P-1/P-1_t1.nii": "P-1", "cut/P-1/P-1_t1.nii": "P-1", "train/P-1/extra.nii": "P-1"},
        {"B2021/B2021_01/B2021_01_t1.nii": "B2021_01", "B2021/B2021_02/B2021_02_t1.nii": "B2021_02"},
        {"p1/t1.nii.gz": "p1", "p2/t1.nii.gz": "p2", "p1/flair.nii.gz": "p1", "p2/t2.nii": "p2"},
        {"p1/anat/t1.nii": "p1", "p2/anat/t1.nii": "p2", "p1/late/t1.nii": "p1", "p2/late/t1.nii": "p2"},
        {"p1/s1/t1.nii": "p1", "p1/s2/t1.nii": "p1", "p2/s1/t1.nii": "p2"},
        {"a/p1/t1_0000.nii": "a/p1", "a/p1/t1_0001.nii": "a/p1", "b/p2/t1_0000.nii": "b/p2"},
        {"t1.nii": None, "p1/t1.nii": "p1", "p2/t1.nii": "p2"},
        {"imagesTr/case_000.nii": None, "labelsTr/case_000.nii": None, "imagesTs/case_001.nii": None},
        {"lung/lung_001.nii": None, "lung/lung_002.nii": None, "mr2/mr2_001.nii": None, "spine/spine_7.nii": None},
        {"sub-01/anat/T1w.nii": None, "sub-02/anat/T1w.nii": None},
        {f"{kind}/{case:02}.nii": None for kind in ("t1", "t2") for case in range(1, 40)},
        {"p1/notes.txt": None, "p2/notes.txt": None, "p1/image.dcm": None, "p2/image.dcm": None},
    ],
)  # fmt: skip
def test_folders_are_cases_where_names_say_so(expected: dict[str, str | None]) -> None:
    names = [*expected]
    assert cases(*names) == expected
    random.Random(0).shuffle(names)
    assert cases(*names) == expected


def test_sources_that_are_case_folders_themselves_are_told_apart() -> None:
    files = [
        SourceFile(LocalFile(Path(name)), name, 1) for name in ("p1/t1.nii", "p1/t2.nii", "p2/t1.nii", "p2/t2.nii")
    ]
    assert [file.case for file in with_cases(files)] == ["p1", "p1", "p2", "p2"]


def test_the_scans_of_a_case_folder_are_one_patient_of_one_study_and_role(source: Path, pool: Pool, key: Key) -> None:
    for case in range(4):
        for i, kind in enumerate(("t1", "flair")):
            write(source / f"B_00{case}" / f"B_00{case}_{kind}.nii.gz", ramp(start=2 * case + i))
            write(source / f"anna{case}" / f"{kind}.nii.gz", ramp(start=100 + 2 * case + i))
    ingest([source], pool, key)
    volumes = pool.catalog.volumes
    assert volumes.height == 16
    assert sorted(volumes["patient"].unique()) == sorted(
        key.hmac("patient", "", name) for case in range(4) for name in (f"B_00{case}", f"anna{case}")
    )
    assert np.all(volumes.group_by("patient").n_unique().select("study", "role").to_numpy() == 1)
    assert {*volumes["flags"].explode()} - {"near_duplicate"} == {"patient_from_folder_name", "assumed_modality"}


def test_folders_called_after_nobody_stay_apart_and_whole(source: Path, pool: Pool, key: Key) -> None:
    for i, name in enumerate(("000/t1.nii", "000/t2.nii", "anon/t1.nii", "anon/t2.nii")):
        write(source / name, ramp(start=i))
    ingest([source], pool, key)
    assert pool.catalog.volumes["patient"].n_unique() == pool.catalog.volumes["study"].n_unique() == 2
