"""The loader: the same batches for any number of workers and any starting step."""

import numpy as np
import pytest
import torch
from small_pool import make_pool

from medssl.core.batch import Views
from medssl.data.loader import TrainingFeed
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.data.views import View, ViewRecipe

RECIPE = ViewRecipe((View(crop_scale=(0.5, 1.0)), View(noise=0.1)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(make_pool(tmp_path_factory.mktemp("loader") / "pool", 10), PrepareConfig(shape=(16, 16)))


def feed(data: Prepared, workers: int = 0) -> TrainingFeed:
    return TrainingFeed(data, RECIPE, Sampler(len(data), 4, 2, seed=0), workers, np.arange(len(data)) % 2)


def drawn(data: Prepared, first: int, total: int, workers: int = 0) -> list[list[Views]]:
    return [[m.views(torch.device("cpu")) for m in step] for step in feed(data, workers).steps(first, total)]


def test_workers_change_nothing(data: Prepared) -> None:
    one, two = (drawn(data, 1, 4, workers) for workers in (0, 2))
    assert [len(step) for step in one] == [2, 2, 2]
    for a, b in zip((m for s in one for m in s), (m for s in two for m in s), strict=True):
        assert torch.equal(a.volume, b.volume)
        assert torch.equal(a.keys, b.keys)
        assert all(torch.equal(i, j) for i, j in zip(a.images, b.images, strict=True))


def test_starting_late_gives_the_views_of_starting_early(data: Prepared) -> None:
    whole, late = drawn(data, 0, 5), drawn(data, 3, 5)
    assert all(torch.equal(a.images[1], b.images[1]) for a, b in zip(whole[3], late[0], strict=True))


def test_every_view_has_its_images_and_targets_follow_their_volumes(data: Prepared) -> None:
    (batch, _), *_ = drawn(data, 0, 1)
    assert [i.shape for i in batch.images] == [(4, 1, 16, 16)] * 2
    assert batch.keys.shape == (4, 2)
    assert torch.equal(batch.targets, batch.volume % 2)


def test_another_epoch_draws_other_views_of_the_same_volume(data: Prepared) -> None:
    steps = drawn(data, 0, 2 * feed(data).steps_per_epoch)
    seen: dict[int, list[torch.Tensor]] = {}
    for batch in (m for s in steps for m in s):
        for row, image in zip(batch.volume.tolist(), batch.images[0], strict=True):
            seen.setdefault(row, []).append(image)
    pairs = [v for v in seen.values() if len(v) == 2]
    assert pairs
    assert not any(torch.equal(a, b) for a, b in pairs)
