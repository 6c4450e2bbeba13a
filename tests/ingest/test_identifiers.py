"""Nothing planted in the input is found anywhere in the pool, decoded; a build that leaks on purpose is caught."""

from __future__ import annotations

import json
import logging
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
import planted
import polars as pl
import pytest
from PIL import Image, ImageDraw, ImageFont
from planted import PLANTED, TEXT, found_in, full_export, leaks
from pydicom import uid
from synthetic_dicom import dataset, radiograph, save, with_pixels

from medssl.core.errors import MedsslError
from medssl.dicom import deidentify, segmentation, vocabulary
from medssl.dicom.deidentify import Pseudonyms
from medssl.ingest import volumes
from medssl.ingest.executors import Workers
from medssl.ingest.ingest import ingest
from medssl.ingest.labels import LabelFile
from medssl.ingest.rules import Rules
from medssl.pool import frames, shards
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.review.html import data_uri
from medssl.tracking.journal import Journal
from medssl.tracking.mlflow_sink import MlflowSink
from medssl.verbs.ingest import ingest as ingest_verb
from medssl.verbs.pool import info


@pytest.fixture
def export(source: Path) -> Path:
    """Images, broken files, reports and texts, with identifiers in headers, names and tables."""
    return planted.export(source)


@pytest.fixture
def labels(tmp_path: Path) -> LabelFile:
    path = tmp_path / "labels.csv"
    path.write_text("path,patient_name,finding\nPlantedPath_Quillfeather/Ottoline0.dcm,Quillfeather,nodule\n")
    return LabelFile.read(path, ["finding"])


@dataclass(frozen=True)
class Made:
    """What the verbs left: the pool, a workspace with MLflow, a page, and what they printed."""

    root: Path
    source: Path
    shown: str
    told: str

    @property
    def pool(self) -> Path:
        return self.root / "pool"


def make(
    root: Path, source: Path, capfd: pytest.CaptureFixture[str], *, with_mlflow: bool = True, **options: object
) -> Made:
    """Ingest, push to MLflow, write the page."""
    (root / "key").write_bytes(b"k" * 32)
    (root / "made").mkdir()
    workspace, pool = root / "made" / "workspace", root / "made" / "pool"
    done = ingest_verb([source], pool, key_file=root / "key", workspace=workspace, **options)
    assert not with_mlflow or MlflowSink(workspace, None, "planted").sync_all()
    page = info(pool, html=root / "made" / "pool.html")
    printed = capfd.readouterr()
    shown = f"{done.data} {done.shown} {page.data} {page.shown} {printed.out}"
    return Made(root / "made", source, shown, printed.err)


def test_nothing_planted_anywhere_in_the_input_is_in_anything_that_was_made(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    full_export(source)
    images, given = tmp_path / "images.csv", tmp_path / "labels.csv"
    images.write_text("path,patient,modality\nPlantedPath_Ottoline/Quillfeather.png,MRN7719204,DX\n")
    given.write_text("path,patient_name,finding\nPlantedPath_Quillfeather/Ottoline0.dcm,Quillfeather,nodule\n")
    with caplog.at_level(logging.DEBUG):
        made = make(tmp_path, source, capfd, labels=given, tasks=["finding"], images=images)
    found = Pool.open(made.pool)
    kinds = found.catalog.volumes.group_by("modality").len().sort("modality").rows()
    assert dict(kinds) == {"CT": 3, "DX": 8, "MR": 1}
    assert sorted(found.masks["labels"].to_list()) == [["segment 1", "segment 2"], ["segment 4"]]
    assert leaks(made.root) == set()
    assert found_in(iter([("", made.shown), ("", caplog.text)])) == set()
    assert not (tmp_path / "made" / "pool.ingest").exists()
    told = [line for line in made.told.splitlines() if not line.startswith("quarantined (")]
    assert found_in(iter([("", "\n".join(told))])) == set()


def in_tar_header(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaky(shards.tarfile.TarInfo):
        def __init__(self, name: str = "") -> None:
            super().__init__(name)
            self.uname = "Quillfeather"

    monkeypatch.setattr(shards.tarfile, "TarInfo", Leaky)


def in_metalayer(monkeypatch: pytest.MonkeyPatch) -> None:
    make_array = blosc2.asarray

    def leaky(*args: object, **kwargs: object) -> object:
        made = make_array(*args, **kwargs)
        made.schunk.vlmeta["note"] = "".join(chr(ord(c)) for c in "Quillfeather")
        return made

    monkeypatch.setattr(frames.blosc2, "asarray", leaky)


def in_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pseudonyms, "source", lambda self, relative: f"{relative} 00000000")


def in_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    make_picture = volumes.picture

    def leaky(decoded: object, header: object) -> object:
        made = make_picture(decoded, header)
        made.array.reshape(-1).view(np.uint8)[:12] = np.frombuffer(b"Quillfeather", np.uint8)
        return made

    monkeypatch.setattr(volumes, "picture", leaky)


def in_labels_of_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "name_of", lambda number, names, *labels: labels[0])


def in_journal_and_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Journal.start.__func__  # type: ignore[attr-defined]

    def leaky(cls: type[Journal], workspace: Path, kind: str, study: str, params: dict, **more: object) -> Journal:
        return start(cls, workspace, kind, study, params | {"sources": "Quillfeather"}, **more)

    monkeypatch.setattr(Journal, "start", classmethod(leaky))


LEAKS = {
    in_tar_header: r"\.tar$",
    in_metalayer: r"\.tar$",
    in_cells: r"instances\.parquet$",
    in_voxels: r"\.tar$",
    in_labels_of_masks: r"masks\.parquet$",
    in_journal_and_mlflow: r"journal\.jsonl$",
}


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.__name__)
def test_the_search_finds_what_a_build_leaks_on_purpose(
    leak, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(radiograph("x", np.arange(1600, dtype=np.uint16).reshape(40, 40)), source / "PlantedPath_x.dcm")
    planted.segmented(source)
    leak(monkeypatch)
    monkeypatch.setattr("medssl.verbs.ingest.Workers", lambda num, guarded: Workers(num))  # here, where it leaks
    made = make(tmp_path, source, capfd, with_mlflow=leak is in_journal_and_mlflow)
    places = {name for name, text in planted.contents(made.root) if found_in(iter([("", text)]))}
    assert any(re.search(LEAKS[leak], place) for place in places)
    if leak is in_journal_and_mlflow:
        assert any(place.endswith("mlflow.db") for place in places)


def test_the_search_finds_text_in_the_pictures_of_a_page(tmp_path: Path) -> None:
    text = np.frombuffer(b"Quillfeather", np.uint8)[None]
    page = tmp_path / "page.html"
    Image.fromarray(text).save(tmp_path / "x.png")
    page.write_text(f'<img src="{data_uri(tmp_path / "x.png")}">')
    (tmp_path / "x.png").unlink()
    assert leaks(tmp_path) == {"Quillfeather"}


@pytest.mark.parametrize("sop_class", [uid.UltrasoundImageStorage, uid.XRayAngiographicImageStorage])
def test_a_name_burned_into_the_pixels_of_a_risky_class_is_quarantined_by_default(
    sop_class: str, source: Path, pool: Pool, key: Key
) -> None:
    canvas = Image.new("L", (320, 240))
    ImageDraw.Draw(canvas).text((10, 10), TEXT[:21], 255, ImageFont.load_default(16))
    save(
        with_pixels(dataset(sop_class, "us", Modality="US", BurnedInAnnotation="NO"), np.asarray(canvas)), source / "us"
    )
    ingest([source], pool, key)
    assert Pool.open(pool.path).instances["reason"].to_list() == ["burned_in_risk"]
    ingest([source], Pool.open(pool.path), key, rules=Rules(burned_in="mask"))
    found = Pool.open(pool.path)
    assert found.instances["reason"].to_list() == [None]
    assert found.catalog.volumes["flags"].to_list() == [["burned_in_risk", "pixels_masked"]]
    assert found.reader().read(0)[8:32].max() == 0


CODE = """
import json, sys
from pathlib import Path
from medssl.dicom.deidentify import Pseudonyms
from medssl.pool.key import Key
names = Pseudonyms(Key.load(Path(sys.argv[1])))
made = [names.patient("MRN1", "north", "1.2"), names.uid("study", "1.2"), names.site("Clinic"), names.source("a/b")]
print(json.dumps([*made, names.day("20170203", "p"), names.key.fingerprint, names.key.uniform("role", made[0])]))
"""


def test_one_key_gives_the_same_pseudonyms_on_two_machines(tmp_path: Path) -> None:
    made = []
    for machine in ("one", "two"):
        home = tmp_path / machine
        home.mkdir()
        (home / f"key of {machine}").write_text("0f" * 32 + "\n" * (machine == "two"))
        env = {"HOME": str(home), "PYTHONHASHSEED": "1" if machine == "one" else "2", "TZ": "Asia/Tokyo", "LANG": "C"}
        code = [sys.executable, "-c", CODE, f"key of {machine}"]
        done = subprocess.run(code, cwd=home, env=env, capture_output=True, text=True, check=True)
        made.append(json.loads(done.stdout))
    assert made[0] == made[1]
    assert len(set(map(str, made[0]))) == 7


def test_nothing_planted_is_in_the_pool_or_in_any_log(
    export: Path,
    labels: LabelFile,
    pool: Pool,
    key: Key,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.DEBUG):
        report = ingest([export], pool, key, labels=labels)
    assert (report.num_volumes, report.num_labels) == (4, 1)
    assert leaks(pool.path) == set()
    printed = capfd.readouterr()
    assert (caplog.text, printed.out, printed.err) == ("", "", "")


def test_the_search_finds_what_a_leaky_build_leaves(
    export: Path, pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "known", lambda value, words: value)
    monkeypatch.setattr(vocabulary, "model", lambda value, private: value)
    monkeypatch.setattr(deidentify, "_describe", deidentify._describe.__wrapped__)  # no answers of other tests
    ingest([export], pool, key)
    assert leaks(pool.path) >= {"Ottoline", "Quillfeather"}


def test_the_search_finds_text_in_voxels(source: Path, pool: Pool, key: Key) -> None:
    ds = radiograph("x")
    ds.BitsStored, ds.HighBit = 16, 15
    ds.PixelData = b"Quillfeather" + ds.PixelData[12:]
    save(ds, source / "x")
    ingest([source], pool, key)
    assert leaks(pool.path) == {"Quillfeather"}


def test_no_error_names_a_patient(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("patient_id,finding\nMRN7719204,a\nMRN7719299,a\nMRN7719204,b\n")
    with pytest.raises(MedsslError) as caught:
        ingest([export], pool, key, labels=LabelFile.read(path))
    path.write_text("patient_id,finding\nMRN7719204,a\nMRN7719299,a\n")
    with pytest.raises(MedsslError) as later:
        ingest([export], pool, key, labels=LabelFile.read(path))
    assert not any(word in f"{caught.value} {later.value}" for word in PLANTED)


def test_the_linkage_file_holds_what_the_pool_does_not(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    path = tmp_path / "linkage.csv"
    ingest([export], pool, key, linkage=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = pl.read_csv(path, infer_schema_length=0)
    assert rows.height == pool.instances.height
    joined = rows.join(pool.instances.drop("volume", "patient"), on="source_key").join(
        pool.catalog.volumes, on="volume"
    )
    assert joined.height == 6
    assert (joined["patient"] == joined["patient_right"]).all()
    assert (joined["study"] == joined["study_right"]).all()
    assert (joined["sop"] == joined["sop_right"]).all()
    assert set(joined["patient_id"]) == {"MRN7719204"}
    assert set(joined["path"]) == {str(p) for p in export.rglob("*") if p.suffix == ".dcm" and p.stem != "cut"} | {
        str(p) for p in export.rglob("ct*") if p.is_file()
    }
    assert leaks(pool.path) == set()
    before = path.read_bytes()
    ingest([export], pool, key, linkage=path)
    assert path.read_bytes() == before


def test_a_linkage_file_stays_outside_the_pool_and_overwrites_nothing_else(
    export: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    with pytest.raises(MedsslError, match="would undo its pseudonyms"):
        ingest([export], pool, key, linkage=pool.path / "catalog" / "linkage.csv")
    other = tmp_path / "thesis.txt"
    other.write_text("years of work")
    with pytest.raises(MedsslError, match="not a linkage file"):
        ingest([export], pool, key, linkage=other)
    assert other.read_text() == "years of work"
    assert pool.instances.height == 0
