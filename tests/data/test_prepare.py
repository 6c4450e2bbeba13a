"""Preparation: the right window for each modality, stored once, rebuilt only when a setting changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from small_pool import make_pool

from medssl.core.errors import CorruptShard, PoolError
from medssl.core.types import Role
from medssl.data.prepare import PrepareConfig, normalise, prepare, resizer

ROW: dict[str, Any] = {
    "axes": "YX", "units": "stored", "slope": 1.0, "intercept": 0.0, "padding": None, "window_center": None,
    "window_width": None,
}  # fmt: skip
CONFIG = PrepareConfig()


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


def test_resizing_keeps_proportions_unless_told_to_stretch() -> None:
    wide = np.ones((1, 20, 40), np.float32)
    padded = resizer(PrepareConfig(shape=(16, 16)))(wide)
    assert padded.shape == (1, 16, 16)
    assert padded[0, :4].max() == 0
    assert padded[0, 4:12].min() == 1
    assert resizer(PrepareConfig(shape=(16, 16), fit="stretch"))(wide).min() == 1


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


def test_a_pool_without_volumes_of_the_asked_dimension_is_refused(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", 4)
    with pytest.raises(PoolError, match="none of its 8 volumes is 3D"):
        prepare(pool, PrepareConfig(shape=(16, 16, 16)))
