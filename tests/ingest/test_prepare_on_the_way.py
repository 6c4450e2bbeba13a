"""``ingest --prepare``: the pool holds what preparation makes of the volumes, and is prepared already."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_dicom import ct_slice, radiograph, save
from typer.testing import CliRunner

from medssl.cli import app
from medssl.core.errors import PoolError
from medssl.data.prepare import PrepareConfig, Preparer, picture, prepare
from medssl.ingest.ingest import ingest
from medssl.pool.key import Key
from medssl.pool.pool import Pool

FLAT = PrepareConfig(shape=(16, 16))
DEEP = PrepareConfig(shape=(4, 4, 4), fit="crop", spacing_mm=(2.0, 1.0, 1.0), codec="none")


@pytest.fixture
def mixed(source: Path) -> Path:
    """An export of 5 radiographs of 3 patients and 2 CT series."""
    for i in range(5):
        elements = {"PatientID": f"MRN{i // 2}", "StudyInstanceUID": f"1.2.{i}", "SeriesInstanceUID": f"1.2.{i}.1"}
        save(radiograph(f"x{i}", **elements), source / f"{i}.dcm")
    for series in range(2):
        for z in range(4):
            elements = {"SeriesInstanceUID": f"1.9.{series}", "SOPInstanceUID": f"1.9.{series}.{z}"}
            save(ct_slice(z + 10 * series, **elements), source / f"ct{series}" / str(z))
    return source


def make(folder: Path, source: Path, key: Key, config: PrepareConfig, workers: int = 1) -> Pool:
    transform = Preparer(config)
    pool = Pool.create(folder, key, prepare=transform.settings)
    ingest([source], pool, key, transform=transform, workers=workers)
    return Pool.open(folder, key)


@pytest.mark.parametrize("config", [FLAT, DEEP])
def test_the_pool_holds_what_preparing_an_ordinary_one_gives(
    config: PrepareConfig, mixed: Path, tmp_path: Path, pool: Pool, key: Key
) -> None:
    ingest([mixed], pool, key)
    wanted, made = prepare(pool, config), prepare(make(tmp_path / "small", mixed, key, config), config)
    assert len(made) == (5 if config is FLAT else 2)
    assert made.catalog.volumes["volume"].to_list() == wanted.catalog.volumes["volume"].to_list()
    place = ["shard", "offset", "length"]
    assert made.catalog.volumes.drop(place).equals(wanted.catalog.volumes.drop(place))
    for row in range(len(made)):
        assert np.array_equal(made.reader.read(row), wanted.reader.read(row))
    assert (made.cropped, made.geometry) == (wanted.cropped, wanted.geometry)
    assert np.array_equal(made.foreground, wanted.foreground)


def test_it_is_a_sound_pool_that_is_prepared_at_once(mixed: Path, tmp_path: Path, key: Key) -> None:
    pool = make(tmp_path / "small", mixed, key, FLAT)
    assert pool.verify() == []
    assert prepare(pool, FLAT).shards == pool.shards
    assert not (pool.path / "prepared").exists()
    reasons = dict(pool.instances.group_by("outcome", "reason").len().select("reason", "len").iter_rows())
    assert reasons == {None: 5, "other_dimension": 8}
    assert {outcome.reason for outcome in pool.info().outcomes} == {None, "other_dimension"}
    row = pool.catalog.volumes.row(0, named=True)
    assert picture(pool.reader().read(0), row, FLAT).shape == (16, 16)


def test_workers_change_nothing_and_a_second_run_adds_nothing(mixed: Path, tmp_path: Path, key: Key) -> None:
    one, two = (make(tmp_path / str(workers), mixed, key, FLAT, workers) for workers in (1, 2))
    assert one.catalog.volumes.equals(two.catalog.volumes)
    assert [p.read_bytes() for p in sorted(one.shards.iterdir())] == [
        p.read_bytes() for p in sorted(two.shards.iterdir())
    ]
    assert ingest([mixed], one, key, transform=Preparer(FLAT)).num_files == 0
    save(radiograph("late", SeriesInstanceUID="1.2.99"), mixed / "late.dcm")
    assert ingest([mixed], one, key, transform=Preparer(FLAT)).num_volumes == 1
    assert len(prepare(one, FLAT)) == 6


def test_another_preparation_is_refused_and_named(mixed: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    small = make(tmp_path / "small", mixed, key, FLAT)
    other = PrepareConfig(shape=(16, 16), window="voi")
    with pytest.raises(PoolError, match="prepared with window 'percentiles', not 'voi'"):
        prepare(small, other)
    with pytest.raises(PoolError, match="prepared with window 'percentiles', not 'voi'"):
        ingest([mixed], small, key, transform=Preparer(other))
    with pytest.raises(PoolError, match="give --prepare"):
        ingest([mixed], small, key)
    with pytest.raises(PoolError, match="leave --prepare out"):
        ingest([mixed], pool, key, transform=Preparer(FLAT))


def test_the_command_line_takes_the_study_and_says_what_is_wrong(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_bytes(b"k" * 32)
    study = tmp_path / "flat.yaml"
    encoder = "{name: vit, width: 48, depth: 1, heads: 2, patch: 8}"
    study.write_text(
        f"pool: pool\nprepare: {{shape: [16, 16]}}\nencoder: {encoder}\n"
        "method: {name: mae, decoder_width: 32, decoder_depth: 1, decoder_heads: 2}\nloop: {}\ntasks: {}\n"
    )
    options = ["ingest", str(mixed), "--pool", "pool", "--key", "key", "--json"]
    made = CliRunner().invoke(app, [*options, "--prepare", str(study)])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["prepare"]["shape"] == [16, 16]
    assert len(prepare(Pool.open(tmp_path / "pool"), FLAT)) == 5
    refused = CliRunner().invoke(app, options)
    assert isinstance(refused.exception, PoolError)
    unknown = CliRunner().invoke(app, ["ingest", str(mixed), "--pool", "new", "--key", "key", "--modality", "XYZ"])
    assert "modality 'XYZ': expected one of CR, CT" in str(unknown.exception)
    assert not (tmp_path / "new").exists()
