"""Labels are joined while identifiers are still in memory; a wrong row imports nothing and is named by its number."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from pydicom import uid
from synthetic_dicom import ROOT, ct_slice, dataset, radiograph, save

from medssl.core.errors import LabelError
from medssl.ingest.ingest import ingest
from medssl.ingest.labels import LabelFile, read_answers
from medssl.ingest.report import IngestReport
from medssl.pool.key import Key
from medssl.pool.pool import Pool

NUM = 4


def uids(i: int) -> dict[str, str]:
    return {"StudyInstanceUID": f"1.2.{i}", "SeriesInstanceUID": f"1.2.{i}.1", "PatientID": f"MRN{i}"}


def sop(name: str) -> str:
    return str(uid.generate_uid(ROOT, entropy_srcs=["sop", name]))


@pytest.fixture
def export(source: Path) -> Path:
    """Four radiographs of four patients, a CT of a fifth, a cut file and a report."""
    for i in range(NUM):
        save(radiograph(f"x{i}", **uids(i)), source / f"{i}.dcm")
    for z in range(3):
        save(ct_slice(z, **uids(9)), source / "ct" / f"{z}.dcm")
    cut = save(radiograph("cut", **uids(7)), source / "cut.dcm")
    cut.write_bytes(cut.read_bytes()[:-100])
    save(dataset(uid.BasicTextSRStorage, "report", **uids(8)), source / "report.dcm")
    return source


def table(tmp_path: Path, header: Sequence[str], *rows: Sequence[object]) -> Path:
    path = tmp_path / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def given(pool: Pool, task: str = "finding") -> dict[str, str]:
    return dict(pool.catalog.targets(task).iter_rows())


def run(export: Path, pool: Pool, key: Key, path: Path, *tasks: str) -> IngestReport:
    return ingest([export], pool, key, labels=LabelFile.read(path, tasks))


@pytest.mark.parametrize(
    ("column", "ids", "level"),
    [
        ("path", [f"{i}.dcm" for i in range(NUM)], "volume"),
        ("file", [f"export/{i}.dcm" for i in range(NUM)], "volume"),
        ("Path", [f".\\{i}.dcm" for i in range(NUM)], "volume"),
        ("SOPInstanceUID", [sop(f"x{i}") for i in range(NUM)], "volume"),
        ("series_uid", [f"1.2.{i}.1" for i in range(NUM)], "series"),
        ("Study Instance UID", [f"1.2.{i}" for i in range(NUM)], "study"),
        ("PatientID", [f"MRN{i}" for i in range(NUM)], "patient"),
    ],
)
def test_labels_find_their_volumes_by_any_key(
    column: str, ids: list[str], level: str, export: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    path = table(tmp_path, [column, "finding"], *[(id_, f"class{i}") for i, id_ in enumerate(ids)])
    report = run(export, pool, key, path)
    assert report.num_labels == NUM
    labels = pool.catalog.labels
    assert set(labels["level"]) == {level}
    by_patient = dict(pool.catalog.volumes.select("volume", "patient").iter_rows())
    found = {by_patient[volume]: value for volume, value in given(pool).items()}
    assert found == {key.hmac("patient", "", f"MRN{i}"): f"class{i}" for i in range(NUM)}


def test_the_finest_key_is_used_and_the_others_are_no_tasks(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    path = table(tmp_path, ["patient_id", "study_uid", "path", "finding"], ("MRN1", "1.2.0", "0.dcm", "a"))
    run(export, pool, key, path)
    (volume,) = given(pool)
    row = pool.catalog.volumes.filter(pl.col("volume") == volume)
    assert row["patient"].item() == key.hmac("patient", "", "MRN0")


def test_a_label_of_one_slice_is_a_label_of_its_volume(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    run(export, pool, key, table(tmp_path, ["path", "finding"], ("ct/1.dcm", "a"), ("ct/2.dcm", "a")))
    assert list(given(pool).values()) == ["a"]
    with pytest.raises(LabelError, match="rows that contradict each other: 2, 3"):
        run(export, pool, key, table(tmp_path, ["path", "finding"], ("ct/1.dcm", "a"), ("ct/2.dcm", "b")))


def test_a_label_of_a_copy_is_a_label_of_the_original(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    (export / "zcopy.dcm").write_bytes((export / "0.dcm").read_bytes())
    run(export, pool, key, table(tmp_path, ["path", "finding"], ("zcopy.dcm", "a")))
    assert list(given(pool).values()) == ["a"]


def test_rows_of_files_that_were_not_stored_are_counted(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    rows = [("1.2.0", "a"), ("1.2.7", "a"), ("1.2.8", "b")]
    report = run(export, pool, key, table(tmp_path, ["study_uid", "finding"], *rows))
    assert (report.num_labels, report.num_labels_not_stored) == (1, 2)
    again = run(export, pool, key, table(tmp_path, ["study_uid", "finding"], *rows))
    assert (again.num_labels, again.num_labels_not_stored, again.num_known) == (0, 2, 9)
    assert pool.catalog.labels.height == 1


def test_labels_may_come_with_a_later_run(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    ingest([export], pool, key)
    report = run(export, pool, key, table(tmp_path, ["path", "finding"], ("1.dcm", "a")))
    assert (report.num_files, report.num_labels, len(given(pool))) == (0, 1, 1)
    with pytest.raises(LabelError, match="rows that contradict labels in the pool: 2"):
        run(export, pool, key, table(tmp_path, ["path", "finding"], ("1.dcm", "b")))


def test_empty_values_are_no_labels(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    report = run(export, pool, key, table(tmp_path, ["path", "finding"], ("0.dcm", "a"), ("1.dcm", ""), ("2.dcm", " ")))
    assert report.num_labels == 1


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["path", "f"], [("0.dcm", "a"), ("9.dcm", "a"), ("8.dcm", "")], "name nothing that was ingested: 3;"),
        (["study_uid", "f"], [("1.2.0", "a"), ("1.2.0", "b")], "contradict each other: 2, 3;"),
        (["path", "f"], [("0.dcm", "a"), ("", "b")], "without a key: 3;"),
        (["path", "f"], [("0.dcm", "a", "b")], "without exactly 2 cells: 2;"),
        (["path", "f"], [(f"{i}.dcm", f"t{i}") for i in range(65)], "65 different texts, which look like identifiers"),
        (["name", "f"], [("0.dcm", "a")], "no key column, expected one of path, sop_uid"),
        (["path", "f", "g"], [("0.dcm", "a", "b")], "which column is the task.*: f, g"),
        (["path"], [("0.dcm",)], "which column is the task.*: none left"),
        (["path", "f"], [("0.dcm", "MRN1")], "numbers or names of patients"),
        (["path", "f"], [("0.dcm", "Ottoline Quillfeather")], "numbers or names of patients"),
    ],
)
def test_a_wrong_table_imports_nothing_and_says_why(
    header: list[str], rows: list[tuple[str, ...]], message: str, export: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        run(export, pool, key, table(tmp_path, header, *rows))
    text = str(caught.value).replace(str(tmp_path), "")
    assert not any(cell in text for row in rows for cell in row if len(cell) > 1)
    assert pool.catalog.labels.height == 0
    assert pool.instances.height == 0
    assert list(pool.shards.glob("*")) == []


def test_tasks_are_chosen_and_renamed(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    path = table(tmp_path, ["path", "f", "g"], ("0.dcm", "a", "1.5"), ("1.dcm", "b", ""))
    run(export, pool, key, path, "finding=f", "g")
    assert sorted(given(pool).values()) == ["a", "b"]
    assert list(given(pool, "g").values()) == ["1.5"]
    with pytest.raises(LabelError, match="no column 'h', expected one of f, g"):
        LabelFile.read(path, ["h"])


def test_many_different_numbers_are_no_identifiers(tmp_path: Path) -> None:
    path = table(tmp_path, ["path", "volume_ml"], *[(f"{i}.dcm", f"{i}.25") for i in range(100)])
    assert len(LabelFile.read(path).rows) == 100


def test_semicolons_tabs_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    for mark in ";\t":
        path = tmp_path / "x.csv"
        path.write_text(f"\ufeffpath{mark}finding\r\na{mark}1\r\n\r\n", encoding="utf-8")
        file = LabelFile.read(path)
        assert [(row.number, row.id, row.value) for row in file.rows] == [(2, "a", "1")]


def test_one_number_of_two_issuers_is_ambiguous(source: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    for i in range(2):
        elements = uids(i) | {"PatientID": "MRN1", "IssuerOfPatientID": f"site{i}"}
        save(radiograph(f"x{i}", **elements), source / f"{i}.dcm")
    with pytest.raises(LabelError, match="key stands for several things: 2"):
        run(source, pool, key, table(tmp_path, ["patient_id", "f"], ("MRN1", "a")))


@pytest.mark.parametrize("column", ["volume", "series", "study", "patient"])
def test_answers_come_back_by_the_pseudonyms_of_a_worklist(
    column: str, export: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    ingest([export], pool, key)
    names = pool.catalog.volumes[column].to_list()
    path = table(tmp_path, [column, "finding"], *[(name, "yes" if i else "") for i, name in enumerate(names)])
    answers = read_answers(path, pool, key, ["finding"], annotator="reader 1")
    assert answers.num_unanswered == 1
    assert pool.add_labels(answers.labels) == len(names) - 1
    assert set(pool.catalog.labels["annotator"]) == {"reader 1"}
    assert len(given(pool)) == len(names) - 1


@pytest.mark.parametrize(
    ("column", "id_"),
    [
        ("path", "export/2.dcm"),
        ("sop_uid", sop("x2")),
        ("series_uid", "1.2.2.1"),
        ("study_uid", "1.2.2"),
        ("patient_id", "MRN2"),
    ],
)
def test_answers_come_back_by_original_ids(
    column: str, id_: str, export: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    ingest([export], pool, key)
    pool.add_labels(read_answers(table(tmp_path, [column, "finding"], (id_, "yes")), pool, key).labels)
    (volume,) = given(pool)
    patient = pool.catalog.volumes.filter(pl.col("volume") == volume)["patient"].item()
    assert patient == key.hmac("patient", "", "MRN2")


def test_answers_that_are_unknown_or_contradict_are_refused(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    ingest([export], pool, key)
    study = pool.catalog.volumes["study"][0]
    for rows, message in (
        ([(study, "a"), ("f" * 32, "a")], "name nothing that was ingested: 3"),
        ([(study, "a"), (study, "b")], "contradict each other: 2, 3"),
    ):
        with pytest.raises(LabelError, match=message):
            read_answers(table(tmp_path, ["study", "finding"], *rows), pool, key)
    pool.add_labels(read_answers(table(tmp_path, ["study", "finding"], (study, "a")), pool, key).labels)
    with pytest.raises(LabelError, match="contradict labels in the pool: 2"):
        read_answers(table(tmp_path, ["study", "finding"], (study, "b")), pool, key)
    again = read_answers(table(tmp_path, ["study", "finding"], (study, "a")), pool, key)
    assert pool.add_labels(again.labels) == 0
    other = read_answers(table(tmp_path, ["study", "finding"], (study, "b")), pool, key, annotator="second")
    assert pool.add_labels(other.labels) == 1
