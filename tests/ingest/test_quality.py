"""The quality record: each word where it belongs, and a hash that near duplicates share and other images do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from synthetic_dicom import ROOT, radiograph, save

from medssl.ingest.ingest import ingest
from medssl.ingest.likeness import near, perceptual_hash
from medssl.ingest.quality import columns
from medssl.pool.key import Key
from medssl.pool.pool import Pool

AXIAL = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 3, 0, 0, 0, 0, 1]
SAGITTAL = [0.0, 0, 3, 0, 1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 1]


def scene(seed: int = 0, size: int = 200) -> NDArray[np.uint16]:
    """Return a smooth image with edges, in 12 bits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = 800 + 600 * x * rng.random() + 700 * y * rng.random()
    for _ in range(8):
        cy, cx, r = *rng.random(2), 0.05 + 0.2 * rng.random()
        image += 900 * rng.random() * ((y - cy) ** 2 + (x - cx) ** 2 < r**2)
    return (image + rng.normal(0, 10, image.shape)).clip(0, 4095).astype(np.uint16)


def words(voxels: NDArray[Any], **row: Any) -> list[str]:
    given = {"axes": "ZYX"[-voxels.ndim :], "padding": None, "modality": "DX", "flags": [], "affine": None}
    found: list[str] = columns(voxels, given | {"units": "stored", "slope": 1.0, "intercept": 0.0} | row)["quality"]
    return found


def test_an_image_that_shows_something_is_not_conspicuous() -> None:
    assert words(scene()) == []
    assert words(np.stack([scene(n) for n in range(3)]), modality="MR") == []


def test_constant_is_exact_and_blank_is_nearly_so() -> None:
    image = np.full((900, 700), 5, np.int16)
    assert words(image) == ["constant", "low_contrast"]
    image[421, 317] = 6
    assert words(image) == ["blank", "low_contrast"]


def test_a_padded_volume_is_judged_by_what_was_measured() -> None:
    image = np.full((200, 200), -2000, np.int16)
    image[50:150, 50:150] = scene(size=100)
    assert "blank" not in words(image, padding=-2000)
    assert words(np.full((64, 64), -2000, np.int16), padding=-2000) == ["blank"]


def test_saturated_low_contrast_noise_and_tiny() -> None:
    bright = scene().astype(int)
    assert words(np.minimum(bright, int(np.percentile(bright, 85))).astype(np.uint16)) == ["saturated"]
    assert words((scene() // 400).astype(np.uint8)) == ["low_contrast"]
    assert words(np.random.default_rng(0).integers(0, 4096, (100, 100)).astype(np.uint16)) == ["noise_only"]
    assert words(scene(size=28)) == ["tiny"]


def test_geometry_warnings_are_carried_over() -> None:
    assert words(scene(), flags=["gantry_tilt", "derived"]) == ["gantry_tilt"]


def body(radius: float, shift: float = 0.0) -> NDArray[np.int16]:
    """Return an axial CT of a cylinder in air."""
    y, x = np.mgrid[-1:1:160j, -1:1:160j]
    inside = (y**2 + (x - shift) ** 2 < radius**2) * (1000 + 60 * np.sin(9 * x) * np.cos(7 * y))
    return np.stack([(inside - 1000).astype(np.int16)] * 6)


def test_a_body_that_leaves_the_field_of_an_axial_ct_is_cropped() -> None:
    ct = {"modality": "CT", "units": "HU", "affine": AXIAL}
    assert words(body(0.8), **ct) == []
    assert words(body(0.8, shift=0.6), **ct) == ["cropped"]
    assert words(body(0.8, shift=0.6), **ct | {"affine": SAGITTAL}) == []
    y, x = np.mgrid[-1:1:160j, -1:1:160j]
    field = body(1.3)
    field[:, y**2 + x**2 > 0.9] = -2000
    assert words(field, **ct | {"padding": -2000}) == ["cropped"]  # a round field that the body fills
    assert words((body(0.8) + 1000).astype(np.uint16), modality="MR", affine=AXIAL) == []
    assert words((body(1.2) + 1000).astype(np.uint16), modality="MR", affine=AXIAL) == ["cropped"]


def test_possible_text_is_flagged_and_pixels_stay() -> None:
    image = Image.fromarray((scene(size=400) // 16).astype(np.uint8))
    ImageDraw.Draw(image).text((20, 20), "Quillfeather, Ottoline", 255, ImageFont.load_default(20))
    assert words(np.asarray(image)) == ["possible_text"]
    assert words(np.asarray(image), modality="MR") == []


@pytest.mark.parametrize("axes", ["YX", "ZYX", "TYX", "YXC", "TZYX", "TYXC", "ZYXC"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_every_layout_has_a_record(axes: str, dtype: type) -> None:
    shape = [{"T": 3, "Z": 4, "Y": 40, "X": 36, "C": 3}[axis] for axis in axes]
    row = {"axes": axes, "padding": None, "modality": "US", "flags": [], "affine": AXIAL, "units": "stored"}
    for voxels in (np.zeros(shape, dtype), np.random.default_rng(0).integers(0, 99, shape).astype(dtype)):
        found = columns(voxels, row | {"slope": 1.0, "intercept": 0.0})
        assert found["quality"]
        assert found["phash"] is None


def test_no_number_in_a_volume_upsets_the_record() -> None:
    image = scene().astype(np.float32)
    image[::2] = np.nan
    image[1, 1] = np.inf
    assert isinstance(words(image), list)
    assert words(np.full((50, 50), np.nan, np.float32)) == ["blank"]


def bits(one: NDArray[Any], other: NDArray[Any]) -> int:
    hashes = np.array([perceptual_hash(one), perceptual_hash(other)], np.int64).view(np.uint64)
    return int(np.bitwise_count(hashes[0] ^ hashes[1]))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.2, 3.0), st.integers(0, 500), st.integers(60, 500))
def test_the_hash_survives_brightness_contrast_and_size(seed: int, gain: float, offset: int, size: int) -> None:
    image = scene(seed)
    resized = np.asarray(Image.fromarray(image.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))
    assert bits(image, resized * gain + offset) <= 8


def test_the_hash_tells_different_images_apart() -> None:
    hashes = np.array([perceptual_hash(scene(seed)) for seed in range(60)], np.int64).view(np.uint64)
    distances = [np.bitwise_count(a ^ b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert np.median(distances) > 20
    assert min(distances) > 4


@settings(max_examples=60)
@given(st.data(), st.integers(0, 5))
def test_near_finds_what_comparing_all_pairs_finds(data: st.DataObject, most_bits: int) -> None:
    base = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    flips = data.draw(st.lists(st.tuples(st.sampled_from(base), st.sets(st.integers(0, 63), max_size=7)), min_size=2))
    hashes = np.array([b ^ sum(1 << bit for bit in flipped) for b, flipped in flips], np.uint64)
    owners = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(flips), max_size=len(flips))))
    close = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= most_bits
    expected = (close & (owners[:, None] != owners[None])).any(axis=1)
    assert np.array_equal(near(hashes.view(np.int64), owners, most_bits), expected)


def test_near_duplicates_are_flagged_across_studies_and_against_what_the_pool_holds(
    source: Path, pool: Pool, key: Key
) -> None:
    def give(name: str, image: NDArray[Any], patient: str) -> None:
        ds = radiograph(name, image, PatientID=patient)
        ds.StudyInstanceUID = f"{ROOT}{patient.removeprefix('P')}"
        save(ds, source / name)

    image = scene(3)
    give("original", image, "P1")
    give("other view", image + 3, "P1")  # of the same study: not flagged
    give("different", scene(5), "P2")
    ingest([source], pool, key)
    assert all("near_duplicate" not in flags for flags in Pool.open(pool.path).catalog.volumes["flags"])
    give("brighter", (image * 0.8 + 90).astype(np.uint16), "P3")
    give("far", scene(6), "P4")
    ingest([source], pool, key)
    flagged = Pool.open(pool.path).catalog.volumes.filter(pl.col("flags").list.contains("near_duplicate"))
    assert flagged["patient"].n_unique() == 1
    assert flagged.height == 1
