"""Preparation: the right window for each modality, stored once, rebuilt only when a setting changes."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from small_pool import KEY, make_pool

from medssl.core.errors import CorruptShard, PoolError, StudyError
from medssl.core.types import Role
from medssl.data.prepare import PrepareConfig, normalise, prepare
from medssl.data.transforms import place
from medssl.ingest.ingest import ingest
from medssl.ingest.rules import Rules
from medssl.pool.catalog import INSTANCES, LABELS, VOLUMES, time_point, whole
from medssl.pool.pool import Pool
from medssl.pool.shards import ShardWriter

ROW: dict[str, Any] = {
    "axes": "YX", "units": "stored", "slope": 1.0, "intercept": 0.0, "padding": None, "window_center": None,
    "window_width": None, "modality": "DX", "dtype": "uint16", "spacing_mm": None, "affine": None, "flags": [],
}  # fmt: skip
CONFIG = PrepareConfig()
ADD = ShardWriter.add


def test_ct_is_windowed_in_hounsfield_units() -> None:
    stored = np.array([[0, 24, 1024, 2024, 4000]], np.int16)
    made = normalise(stored, ROW | {"units": "HU", "intercept": -1024.0}, CONFIG)
    assert made[0, 0].tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_a_voi_window_maps_as_the_standard_says_where_the_study_asks_for_it() -> None:
    row = ROW | {"window_center": 2048.0, "window_width": 4096.0}
    made = normalise(np.array([[0, 4095]], np.uint16), row, PrepareConfig(window="voi"))
    assert made[0, 0].tolist() == [0.0, 1.0]


def test_padding_becomes_zero_and_does_not_shift_the_percentiles() -> None:
    stored = np.full((20, 20), -2000, np.int16)
    stored[5:15, 5:15] = np.arange(100).reshape(10, 10)
    made = normalise(stored, ROW | {"padding": -2000.0}, CONFIG)[0]
    assert made[0, 0] == 0
    assert made[5:15, 5:15].mean() == pytest.approx(0.5, abs=0.01)


@given(arrays(np.int16, (6, 7)))
def test_anything_becomes_finite_and_lies_between_0_and_1(stored: np.ndarray) -> None:
    made = normalise(stored, ROW, CONFIG)
    assert made.shape == (1, 6, 7)
    assert np.isfinite(made).all()
    assert made.min() >= 0
    assert made.max() <= 1


def test_colour_becomes_grey_and_grey_becomes_colour_as_the_encoder_asks() -> None:
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[..., 1] = 255
    assert normalise(colour, ROW | {"axes": "YXC"}, CONFIG)[0, 0, 0] == pytest.approx(0.587)
    three = normalise(np.arange(16, dtype=np.uint16).reshape(4, 4), ROW, PrepareConfig(channels=3))
    assert three.shape == (3, 4, 4)
    assert (three[0] == three[2]).all()


def test_ultrasound_of_8_bits_is_taken_as_shown() -> None:
    row = ROW | {"modality": "US", "dtype": "uint8"}
    made = normalise(np.array([[0, 51, 102]], np.uint8), row, CONFIG)
    assert made[0, 0].tolist() == pytest.approx([0, 0.2, 0.4])


def test_an_empty_background_does_not_count_in_mr() -> None:
    volume = np.zeros((10, 20, 20), np.int32)
    volume[4:6] = np.arange(1000, 1800).reshape(2, 20, 20)
    made = normalise(volume, ROW | {"axes": "ZYX", "modality": "MR"}, CONFIG)[0]
    assert made[4:6].mean() == pytest.approx(0.5, abs=0.01)
    assert made[:4].max() == 0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1.7e6])
def test_the_scale_of_mr_does_not_matter(scale: float) -> None:
    volume = np.random.default_rng(0).gamma(2, 1, (12, 20, 20)).astype(np.float32)
    row = ROW | {"axes": "ZYX", "modality": "MR", "dtype": "float32"}
    assert np.allclose(normalise(volume * np.float32(scale), row, CONFIG), normalise(volume, row, CONFIG), atol=1e-5)


def test_what_is_no_number_becomes_zero_and_spoils_nothing() -> None:
    volume = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    volume[0, 0, :3] = [np.nan, np.inf, -np.inf]
    made = normalise(volume, ROW | {"axes": "ZYX", "dtype": "float32"}, CONFIG)[0]
    assert made[0, 0, :3].tolist() == [0, 0, 0]
    assert made[5].mean() == pytest.approx(0.55, abs=0.01)


def test_percentiles_of_a_large_volume_are_those_of_a_sample_of_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = np.random.default_rng(1).permutation(27_000).reshape(30, 30, 30).astype(np.int32)
    row = ROW | {"axes": "ZYX", "modality": "CT"}
    whole = normalise(volume, row, CONFIG)
    monkeypatch.setattr("medssl.data.intensity.SAMPLED", 3000)
    assert np.allclose(normalise(volume, row, CONFIG), whole, atol=0.02)


def test_sixteen_bit_colour_is_scaled_by_its_own_white() -> None:
    made = normalise(np.full((2, 2, 3), 65535, np.uint16), ROW | {"axes": "YXC"}, PrepareConfig(channels=3))
    assert made.min() == made.max() == 1


def test_a_spacing_for_another_number_of_axes_is_refused() -> None:
    with pytest.raises(StudyError, match="spacing_mm with one number for each of the 2 axes of shape"):
        PrepareConfig.parse({"spacing_mm": [1, 1, 1]}, "prepare")


def test_a_square_image_is_shrunk_to_means_over_areas() -> None:
    image = np.random.default_rng(0).random((1, 32, 32)).astype(np.float32)
    wanted = image.reshape(1, 16, 2, 16, 2).mean((2, 4))
    assert np.allclose(place(image, ROW, PrepareConfig(shape=(16, 16))).array, wanted, atol=1e-3)


def test_unchanged_settings_find_the_prepared_data_and_changed_ones_make_new(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", 6)
    first = prepare(pool, PrepareConfig(shape=(16, 16)))
    stamp = (first.shards / "00000.tar").stat().st_mtime_ns
    again = prepare(pool, PrepareConfig(shape=(16, 16)))
    assert (again.shards / "00000.tar").stat().st_mtime_ns == stamp
    other = prepare(pool, PrepareConfig(shape=(16, 16), fit="stretch"))
    assert other.shards != first.shards
    assert again.images(np.arange(3)).shape == (3, 1, 16, 16)
    assert first.catalog.volumes["volume"].equals(pool.catalog.volumes["volume"])
    assert set(first.role(Role.DEV).catalog.volumes["role"]) == {"dev"}


def test_a_flipped_byte_in_a_shard_is_refused_and_nothing_is_prepared(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", 6)
    shard = pool.shards / "00000.tar"
    data = bytearray(shard.read_bytes())
    row = pool.catalog.volumes.row(3, named=True)
    data[row["offset"] + row["length"] // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CorruptShard, match=row["volume"]):
        prepare(pool, PrepareConfig(shape=(16, 16)))
    assert not [p for p in (tmp_path / "pool" / "prepared").glob("*") if not p.name.startswith(".")]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool of 6 tilted volumes of different shapes, 1 flat image and 1 volume over time."""
    return make_volumes(tmp_path_factory.mktemp("volumes") / "pool")


def make_volumes(path: Path) -> Pool:
    pool, rng = Pool.create(path, KEY), np.random.default_rng(0)
    shapes = [*((20 + i, 30 - i, 24) for i in range(6)), (30, 30), (4, 12, 30, 30)]
    rows, instances = [], []
    with ShardWriter(pool.shards, 0, "zstd") as shard:
        for i, shape in enumerate(shapes):
            ids = {level: KEY.hmac(level, str(i)) for level in ("volume", "patient", "study", "series")}
            voxels = (rng.random(shape) * 50).astype(np.int16)
            voxels[..., shape[-2] // 3 :, :] += 400
            affine = np.diag([1.5, -1.0, 2.0, 1.0]).ravel().tolist() if voxels.ndim == 3 else None
            rows.append(dict.fromkeys(VOLUMES) | ids | asdict(shard.add(ids["volume"], voxels)) | {
                "role": str(pool.role_of(ids["patient"], KEY)), "modality": "MR", "axes": "TZYX"[-voxels.ndim :],
                "shape": list(shape), "dtype": "int16", "units": "stored", "slope": 1.0, "intercept": 0.0, "flags": [],
                "spacing_mm": [2.0, 1.0, 1.5] if affine else None, "affine": affine, "photometric": "MONOCHROME2",
            })  # fmt: skip
            instances.append({"source_key": KEY.hmac("file", str(i)), "bytes": 1, "outcome": "stored"} | {
                "volume": ids["volume"]})  # fmt: skip
    pool.append(pl.DataFrame(rows, schema=VOLUMES), pl.DataFrame(instances, schema=INSTANCES))
    return pool


CROP = PrepareConfig(shape=(16, 16, 16), fit="crop", spacing_mm=(2.0, 2.0, 2.0), codec="none")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_volumes_that_keep_their_extent_are_described_as_they_are_stored(
    volumes: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(volumes, CROP)
    assert len(data) == 6 + 4
    assert "1 of 8 volumes left out, whose axes are YX" in capsys.readouterr().err
    assert data.cropped
    assert (data.shapes >= 16).all()
    for index, row in enumerate(data.catalog.volumes.iter_rows(named=True)):
        array = data.reader.read(index)
        assert list(array.shape) == row["shape"]
        assert (row["axes"], row["dtype"], row["units"], row["slope"]) == ("CZYX", "float16", "prepared", 1.0)
        assert (array[0][tuple(data.foreground[index].T)] > 0.1).all()
        if row["affine"] is None:
            continue
        assert row["spacing_mm"] == pytest.approx([2.0, 2.0, 2.0])
        assert np.diag(np.reshape(row["affine"], (4, 4)))[:3] == pytest.approx([-2.0, -2.0, 2.0])  # RAS, told in LPS
    assert data.foreground.shape == (10, 32, 3)
    some = data.of(data.catalog.only([data.catalog.volumes["volume"][4]]))
    assert np.array_equal(some.foreground, data.foreground[4:5])
    assert data.images(np.array([0, 3])).shape == (2, 1, 16, 16, 16)


def test_hippocampus_comes_out_as_nibabel_turns_it(shared: Path, tmp_path: Path) -> None:
    config = PrepareConfig(shape=(8, 8, 8), fit="crop", percentiles=(0.0, 1.0))
    folder, pool = tmp_path / "hippocampus" / "images", Pool.create(tmp_path / "pool", KEY)
    folder.mkdir(parents=True)
    for path in sorted((shared / "data" / "hippocampus" / "images").glob("*.nii.gz"))[:12]:
        (folder / path.name).symlink_to(path)
    ingest([folder.parent], pool, KEY, rules=Rules(follow_links=True))
    data = prepare(pool, config)
    names = {KEY.hmac("source", f"hippocampus/images/{path.name}"): path for path in folder.iterdir()}
    source = dict(pool.instances.select("volume", "source_key").iter_rows())
    for index, row in enumerate(data.catalog.volumes.iter_rows(named=True)):
        image = nibabel.as_closest_canonical(nibabel.load(names[source[row["volume"]]]))
        voxels = image.get_fdata().T
        made = data.reader.read(index)[0]
        assert made.shape == voxels.shape
        assert row["spacing_mm"] == pytest.approx(image.header.get_zooms()[::-1])
        assert np.allclose(np.diag([-1, -1, 1, 1]) @ np.reshape(row["affine"], (4, 4)), image.affine)
        tissue = voxels[voxels != 0]
        wanted = np.clip((voxels - tissue.min()) / np.ptp(tissue), 0, 1) * (voxels != 0)
        assert np.abs(made - wanted).max() < 1e-3


def test_any_number_of_workers_prepares_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl.data.prepare.FEW", 0)  # small pools are prepared here otherwise
    monkeypatch.setattr("medssl.data.prepare_tasks.MIN_SHARD_BYTES", 30_000)
    found = []
    for workers in (1, 2):
        pool = make_volumes(tmp_path / str(workers))
        found.append(contents(prepare(pool, CROP, workers=workers).shards.parent))
    assert len([name for name in found[0] if name.startswith("shards")]) > 1
    assert found[0] == found[1]


def test_a_preparation_that_was_stopped_goes_on_where_it_stood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl.data.prepare_tasks.MIN_SHARD_BYTES", 30_000)
    whole = contents(prepare(make_volumes(tmp_path / "whole"), CROP).shards.parent)
    pool, written = make_volumes(tmp_path / "stopped"), []

    def add(self: ShardWriter, name: str, array: np.ndarray) -> object:
        written.append(name)
        if len(written) == 4:
            raise KeyboardInterrupt
        return ADD(self, name, array)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ShardWriter, "add", add)
        prepare(pool, CROP)
    folder = next((pool.path / "prepared").glob(".*.partial"))
    stamps = {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("*.tar")}
    assert stamps
    made = prepare(pool, CROP).shards
    assert contents(made.parent) == whole
    assert {name: (made / name).stat().st_mtime_ns for name in stamps} == stamps
    assert [p.name for p in (pool.path / "prepared").iterdir() if ".partial" in p.name] == []


def test_a_pool_without_volumes_of_the_asked_dimension_is_refused(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", 4)
    with pytest.raises(PoolError, match="none of its 8 volumes is 3D"):
        prepare(pool, PrepareConfig(shape=(16, 16, 16)))


def test_every_time_point_is_a_sample_of_its_own_with_the_labels_of_its_volume(tmp_path: Path) -> None:
    pool = Pool.create(tmp_path / "pool", KEY)
    voxels = np.random.default_rng(0).integers(0, 1000, (3, 6, 10, 12)).astype(np.uint16)
    names = {level: KEY.hmac(level, "one") for level in ("volume", "patient", "study", "series")}
    row = dict.fromkeys(VOLUMES) | ROW | names | {
        "axes": "TZYX", "modality": "MR", "role": "dev", "shape": list(voxels.shape), "spacing_mm": [1.0] * 3,
        "photometric": "MONOCHROME2",
    }  # fmt: skip
    with ShardWriter(pool.shards, 0, "zstd") as shard:
        row |= asdict(shard.add(names["volume"], voxels))
    stored = {"source_key": "f", "bytes": 1, "outcome": "stored", "volume": names["volume"], "slice": 0}
    pool.append(pl.DataFrame([row], schema=VOLUMES), pl.DataFrame([stored], schema=INSTANCES))
    label = {"id": names["volume"], "level": "volume", "task": "t", "value": "yes", "source": "s", "annotator": "a"}
    pool.add_labels(pl.DataFrame([label | {"time": "2026-01-01T00:00:00+00:00"}], schema=LABELS))
    data = prepare(pool, PrepareConfig(shape=(6, 10, 12)))
    assert data.catalog.volumes.select(whole(), time_point()).rows() == [(names["volume"], i) for i in range(3)]
    assert len(set(data.keys.tolist())) == 3
    assert data.catalog.targets("t")["value"].to_list() == ["yes"] * 3
    for index in range(3):
        alone = normalise(voxels[index], row | {"axes": "ZYX"}, PrepareConfig(shape=(6, 10, 12)))
        assert np.allclose(data.images(np.array([index]))[0], alone, atol=1e-3)
