"""The table of raster images: what it names becomes volumes with what it says, what is wrong with it is said by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, PngImagePlugin
from synthetic_dicom import radiograph, save
from test_archives import packed_zip
from test_raster import COLOUR, DEEP, GREY, encoded

from medssl.core.errors import LabelError
from medssl.ingest.images import ImageTable
from medssl.ingest.ingest import ingest
from medssl.pool.key import Key
from medssl.pool.pool import Pool


@pytest.fixture
def export(source: Path) -> Path:
    (source / "p1").mkdir()
    (source / "p1" / "a.png").write_bytes(encoded(GREY, "PNG"))
    (source / "p1" / "b.jpg").write_bytes(encoded(COLOUR, "JPEG"))
    (source / "c.tif").write_bytes(encoded(DEEP, "TIFF"))
    (source / "d.png").write_bytes(encoded(GREY[::-1], "PNG"))
    (source / "unknown.png").write_bytes(encoded(GREY[:, ::-1], "PNG"))
    return source


def table(folder: Path, text: str) -> ImageTable:
    (folder / "images.csv").write_text(text)
    return ImageTable.read(folder / "images.csv")


ROWS = """path,patient,study,modality,body_part,View,laterality,sex,age,spacing mm
export/p1/a.png,Quillfeather,1,DX,chest,PA,,F,44,0.2x0.1
p1\\b.jpg,Quillfeather,2,DX,CHEST,LATERAL,L,F,94.5,
./c.tif,,,MG,,MLO,R,,,0.07
unknown.png,,,,,,,,,
"""


def test_a_table_makes_its_images_volumes_and_others_stay_out(
    export: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    report = ingest([export], pool, key, images=table(tmp_path, ROWS))
    assert {(o.outcome, o.reason, o.files) for o in report.outcomes} == {
        ("stored", None, 4), ("excluded", "other_image_format", 1)
    }  # fmt: skip
    volumes = {row["modality"] or "": row for row in pool.catalog.volumes.filter(pl.col("view") != "PA").to_dicts()}
    first = pool.catalog.volumes.filter(pl.col("view") == "PA").to_dicts()[0]
    assert (first["patient"], first["age"], first["spacing_mm"]) == (
        key.hmac("patient", "", "Quillfeather"),
        44.0,
        [0.2, 0.1],
    )
    assert (first["axes"], first["shape"], first["body_part"], first["sex"]) == ("YX", [7, 5], "CHEST", "F")
    assert (volumes["DX"]["age"], volumes["DX"]["axes"], volumes["DX"]["photometric"]) == (90.0, "YXC", "RGB")
    assert volumes["DX"]["patient"] == first["patient"]
    assert volumes["DX"]["study"] != first["study"]
    assert (volumes["MG"]["spacing_mm"], volumes["MG"]["flags"]) == ([0.07, 0.07], ["patient_from_file_name"])
    row = pool.catalog.volumes["volume"].to_list().index(volumes["MG"]["volume"])
    assert np.array_equal(pool.reader().read(row), DEEP)
    assert pool.verify() == []
    assert ingest([export], pool, key, images=table(tmp_path, ROWS)).num_files == 0


def test_without_a_table_nothing_is_taken_and_a_later_table_takes_it(
    export: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    save(radiograph("x"), export / "x")
    ingest([export], pool, key)
    assert pool.catalog.volumes.height == 1
    report = ingest([export], pool, key, images=table(tmp_path, ROWS))
    assert (report.num_files, report.num_volumes) == (4, 4)
    assert ingest([export], pool, key, images=table(tmp_path, ROWS)).num_files == 0
    assert pool.verify() == []


def test_an_archive_of_images_gives_the_same_volumes(export: Path, tmp_path: Path, key: Key) -> None:
    pools = [Pool.create(tmp_path / name, key) for name in ("plain", "packed")]
    ingest([export], pools[0], key, images=table(tmp_path, ROWS))
    (tmp_path / "there").mkdir()
    archive = packed_zip(export, tmp_path / "there" / "export")
    ingest([archive], pools[1], key, images=table(tmp_path, ROWS))
    assert pools[0].catalog.volumes.equals(pools[1].catalog.volumes)


def test_no_text_and_no_exif_enters_the_pool(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    about, exif = PngImagePlugin.PngInfo(), Image.Exif()
    about.add_text("Comment", "Quillfeather Ottoline")
    exif[0x010E], exif[0x9286] = "Quillfeather Ottoline", b"Quillfeather"
    (export / "p1" / "a.png").write_bytes(encoded(GREY, "PNG", pnginfo=about, exif=exif))
    (export / "p1" / "b.jpg").write_bytes(encoded(COLOUR, "JPEG", exif=exif, comment="Quillfeather"))
    ingest([export], pool, key, images=table(tmp_path, ROWS))
    found = b"".join(path.read_bytes() for path in pool.path.rglob("*") if path.is_file())
    assert b"Quillfeather" not in found
    assert (
        not pool.catalog.volumes.select(pl.col(pl.String))
        .to_pandas()
        .apply(lambda column: column.astype(str).str.contains("Quillfeather|p1|c.tif").any())
        .any()
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,modality\nQuillfeather,DX\n", "a column is missing"),
        ("path,lateralty\nsecret.png,L\n", "column 2 is unknown"),
        ("path,sex,Sex\na.png,F,F\n", "a column is missing or there twice"),
        ("path,modality\nsecret.png,DX\nother.png,Quillfeather\n", "rows whose modality is not one of .*: 3;"),
        ("path,age\nsecret.png,birthday\n", "rows whose age is not a number"),
        ("path,spacing_mm\nsecret.png,0.1x0\n", "rows whose spacing_mm is not"),
        ("path,age\nsecret.png,3\nsecret.png,4\n", "that name an image again: 3;"),
        ("path,age\n,3\n", "rows without a path: 2;"),
        ("path,age\nsecret.png\n", "without exactly 2 cells: 2;"),
    ],
)
def test_a_wrong_table_is_refused_by_row_numbers(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        table(tmp_path, text)
    assert not [word for word in ("Quillfeather", "secret", "birthday") if word in str(caught.value)]


def test_rows_that_name_no_image_are_refused_and_nothing_is_added(
    export: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    (export / "v.nii").write_bytes(b"x")
    for text, message in {
        "path\nsecret.png\n": "that name no file of the sources: 2;",
        "path\nv.nii\n": "that name NIfTI files: 2;",
    }.items():
        with pytest.raises(LabelError, match=message):
            ingest([export], pool, key, images=table(tmp_path, text))
    assert pool.instances.height == 0


def test_a_named_dicom_file_keeps_its_own_header(export: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    save(radiograph("x"), export / "x.png")
    ingest([export], pool, key, images=table(tmp_path, "path,patient,sex\nx.png,other,M\n"))
    (row,) = pool.catalog.volumes.to_dicts()
    assert (row["patient"], row["sex"]) == (key.hmac("patient", "", "MRN7719204"), "F")
