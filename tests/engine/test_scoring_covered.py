"""Covered images are scored by the same encoder, kept apart from the others, and covered as whole volumes are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from memory_feed import CPU, method
from small_pool import make_pool

from medssl.core.types import Geometry
from medssl.data.covers import Cover, covered
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.prepared import Prepared
from medssl.engine.scoring import embed, pretext_losses
from medssl.models.build import build_encoder
from medssl.models.encoders.base import ENCODERS
from medssl.pool.pool import Pool

SMALL = {"depth": 10, "width": 8, "stem": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("covered")
    make_pool(folder / "pool", 6, labelled=False)
    return prepare(Pool.open(folder / "pool"), PrepareConfig(shape=(16, 16)))


@pytest.mark.parametrize("cover", list(Cover))
def test_an_embedding_of_covered_images_is_that_of_images_covered_before(data: Prepared, cover: Cover) -> None:
    encoder = method("rotation", "resnet", SMALL).encoder.eval()
    rows = np.arange(len(data))
    with torch.no_grad():
        shown = covered(data.images(rows), cover, torch.from_numpy(data.keys))
        expected = encoder(shown).pooled.numpy()
    assert np.allclose(embed(encoder, data.covered(cover), CPU), expected, atol=1e-5)
    assert not np.allclose(embed(encoder, data, CPU), expected, atol=1e-3)


def test_kept_scores_of_covered_and_plain_images_are_never_mixed_up(data: Prepared, tmp_path: Path) -> None:
    made = method("rotation", "resnet", SMALL)
    for cover in (None, Cover.FRAME, Cover.INTERIOR, None, Cover.FRAME):
        fresh, kept = (embed(made.encoder, data.covered(cover), CPU, folder) for folder in (None, tmp_path))
        assert np.array_equal(fresh, kept)
        fresh, kept = (pretext_losses(made, data.covered(cover), CPU, 0, folder) for folder in (None, tmp_path))
        assert np.array_equal(fresh, kept)


def test_windows_of_cropped_volumes_wear_the_frame_of_their_volume(tmp_path: Path) -> None:
    """With a frame-sized border of the whole volume changed, covered features stay as they were."""
    make_pool(tmp_path / "pool", 3, labelled=False, ndim=3)
    config = PrepareConfig(shape=(8, 16, 16), fit="crop", foreground=False)
    data = prepare(Pool.open(tmp_path / "pool"), config)
    assert data.cropped
    plugin = ENCODERS.load("resnet")
    encoder = build_encoder("resnet", plugin.config_class.parse(SMALL), Geometry((8, 16, 16)), seed=0)
    seen = []
    encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].cpu()))
    embed(encoder, data.covered(Cover.FRAME), CPU)
    blocks = torch.cat(seen)
    extent = data.shapes[0].tolist()
    corner = blocks[0, 0, :, : extent[1] // 8, :]  # the first window is that of the volume's corner
    assert all(len(plane.unique()) == 1 for plane in [corner])
    assert blocks[0, 0, :, extent[1] // 8 :, extent[2] // 8 :].unique().numel() > 100
