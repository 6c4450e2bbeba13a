"""``medssl pool remove``: by original id or pseudonym; every run and worklist that used the patient is named."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "dicom"))

from synthetic_dicom import radiograph, save

from medssl.core.errors import MedsslError
from medssl.pool.pool import Pool
from medssl.tracking.journal import Journal
from medssl.verbs.ingest import ingest
from medssl.verbs.remove import remove


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Radiographs of six patients, the last one with an issuer, and a file of the first that is damaged."""
    (tmp_path / "key").write_bytes(b"k" * 32)
    for n in range(6):
        ds = radiograph(f"image {n}", PatientID=f"MRN{n}", **({"IssuerOfPatientID": "north"} if n == 5 else {}))
        ds.StudyInstanceUID = f"1.2.3.{n}"
        save(ds, tmp_path / "export" / f"{n}.dcm")
    cut = save(radiograph("cut", PatientID="MRN0"), tmp_path / "export" / "cut.dcm")
    cut.write_bytes(cut.read_bytes()[:-100])
    ingest([tmp_path / "export"], tmp_path / "pool", key_file=tmp_path / "key", workspace=tmp_path / "workspace")
    return tmp_path / "pool"


def test_by_original_id_all_files_of_a_patient_go_quarantined_ones_too_and_can_come_again(pool: Path) -> None:
    key, workspace = pool.parent / "key", pool.parent / "workspace"
    before = Pool.open(pool)
    num_files = before.instances.height
    done = remove(pool, ["MRN0"], key_file=key, workspace=workspace)
    assert (done.data["volumes"], done.data["files"]) == (1, 2)
    assert Pool.open(pool).instances.height == num_files - 2
    assert Pool.open(pool).verify() == []
    assert "MRN0" not in f"{done.data} {done.shown}"
    ingest([pool.parent / "export"], pool, key_file=key, workspace=workspace)
    assert Pool.open(pool).fingerprints.images == before.fingerprints.images


def test_an_id_of_an_issuer_needs_the_issuer(pool: Path) -> None:
    key = pool.parent / "key"
    with pytest.raises(
        MedsslError, match=r"patient number 1 of 1 is not in it under this id and issuer \(none\)"
    ) as caught:
        remove(pool, ["MRN5"], key_file=key)
    assert "MRN5" not in str(caught.value)
    assert remove(pool, ["MRN5"], issuer="north", key_file=key).data["volumes"] == 1


def test_pseudonyms_need_no_key_and_a_file_names_many(pool: Path) -> None:
    names = sorted(set(Pool.open(pool).catalog.volumes["patient"]))
    listed = pool.parent / "list.txt"
    listed.write_text(f"\ufeff{names[0]}\n\n {names[1]} \n{names[0]}\n")
    done = remove(pool, [names[2]], listed=listed, key_file=pool.parent / "no key")
    assert done.data["patients"] == 3
    assert set(Pool.open(pool).catalog.volumes["patient"]) == set(names[3:])


def test_nobody_nothing_and_another_key_are_refused(pool: Path) -> None:
    other = pool.parent / "other"
    other.write_bytes(b"o" * 32)
    with pytest.raises(MedsslError, match="no patient named"):
        remove(pool, [])
    with pytest.raises(MedsslError, match="stands for nobody"):
        remove(pool, ["ANON"], key_file=pool.parent / "key")
    with pytest.raises(MedsslError, match="made with the key"):
        remove(pool, ["MRN1"], key_file=other)
    with pytest.raises(MedsslError, match="cannot read the key"):
        remove(pool, ["MRN1"], key_file=pool.parent / "no key")
    with pytest.raises(MedsslError, match="one patient a line"):
        remove(pool, [], listed=pool.parent / "no list")
    assert len(Pool.open(pool).catalog) == 6


def test_runs_worklists_and_scores_that_hold_the_patient_are_named_or_deleted(pool: Path) -> None:
    workspace, found = pool.parent / "workspace", Pool.open(pool)
    row = found.catalog.volumes.filter(pl.col("role") == "dev").row(0, named=True)
    prints = {"pool.images": found.fingerprints.images}
    for kind, marks in (("pretrain", prints), ("evaluate", prints), ("pretrain", {"pool.images": "0" * 12})):
        with Journal.start(workspace, kind, "study", {}, fingerprints=marks):
            pass
    for number, study in enumerate([row["study"], "another"]):
        folder = workspace / "rounds" / "study" / "task" / str(number)
        folder.mkdir(parents=True)
        (folder / "worklist.jsonl").write_text(f'{{"study": "{study}"}}\n')
    scores = workspace / "scores" / "abc" / "select"
    scores.mkdir(parents=True)
    pl.DataFrame({"volume": [row["volume"], "x"]}).write_parquet(scores / "loss-0.parquet")
    pl.DataFrame({"volume": ["x"]}).write_parquet(scores / "loss-1.parquet")
    done = remove(pool, [row["patient"]], workspace=workspace)
    assert [name.split("-")[0] for name in done.data["trained"]] == ["pretrain"]
    assert [name.split("-")[0] for name in done.data["used"]] == ["evaluate"]
    assert done.data["rounds"] == ["rounds/study/task/0"]
    assert [path.name for path in scores.iterdir()] == ["loss-1.parquet"]
    assert "a model cannot forget" in str(done.shown)


def test_while_the_work_of_an_ingest_lies_beside_the_pool_nothing_is_removed(pool: Path) -> None:
    work = pool.with_name("pool.ingest")
    work.mkdir(mode=0o700)
    before = Pool.open(pool).fingerprints
    with pytest.raises(MedsslError, match="an ingest that has not finished, which may hold these patients"):
        remove(pool, ["MRN0"], key_file=pool.parent / "key")
    assert Pool.open(pool).fingerprints == before
    work.rmdir()
    assert remove(pool, ["MRN0"], key_file=pool.parent / "key").data["patients"] == 1
