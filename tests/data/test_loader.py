"""The loader: the same batches for any number of workers and processes, and from any starting step."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from small_pool import make_pool

from medssl.core.batch import Views
from medssl.core.errors import CorruptShard, StudyError, TrainingError
from medssl.core.types import Geometry
from medssl.data.covers import Cover, covered
from medssl.data.loader import Drawn, TrainingFeed
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.data.views import View, ViewRecipe
from medssl.pool.catalog import LABELS, VOLUMES, Catalog, empty
from medssl.pool.frames import Codec
from medssl.pool.shards import ShardWriter

RECIPE = ViewRecipe((View(crop_scale=(0.5, 1.0)), View(noise=0.1)))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(make_pool(tmp_path_factory.mktemp("loader") / "pool", 10), PrepareConfig(shape=(16, 16)))


def volumes(folder: Path, shapes: Sequence[tuple[int, ...]], codec: Codec = "none", dtype: str = "int32") -> Prepared:
    """Write volumes whose voxels say which volume and where they are, to be read by boxes of 6 x 5 x 4."""
    rows = []
    with ShardWriter(folder, 0, codec) as shard:
        for index, shape in enumerate(shapes):
            name, voxels = f"{index:016x}" * 2, (index * 1000 + np.arange(np.prod(shape))).reshape(1, *shape)
            row = dict.fromkeys(VOLUMES) | {"volume": name, "patient": f"person {index // 2}", "site": f"{index % 2}"}
            row |= {"axes": "CZYX", "shape": [1, *shape], "dtype": dtype, "role": "dev"}
            rows.append(row | asdict(shard.add(name, voxels.astype(dtype))))
    catalog = Catalog(pl.DataFrame(rows, schema=VOLUMES), empty(LABELS))
    return Prepared(folder, catalog, Geometry((6, 5, 4)), cropped=True)


def feed(data: Prepared, workers: int = 0, share: tuple[int, int] = (0, 1)) -> TrainingFeed:
    targets = np.arange(len(data)) % 2
    return TrainingFeed(data, RECIPE, Sampler.of(data, 4, 2, seed=0), workers, targets, share)


def boxes(data: Prepared, crops: int) -> list[Views]:
    """Draw an epoch of images that no view changes."""
    made = TrainingFeed(data, ViewRecipe((View(),)), Sampler.of(data, 2 * crops, 1, seed=0, crops=crops))
    return [views for step in drawn(made, 0, made.steps_per_epoch) for views in step]


def drawn(made: TrainingFeed, first: int, total: int) -> list[list[Views]]:
    return [[m.views(CPU) for m in step] for step in made.steps(first, total)]


def assert_same(one: Views, other: Views) -> None:
    assert (one.targets is None) == (other.targets is None)
    for name in ("volume", "keys", "targets", "patient"):
        assert getattr(one, name) is None or torch.equal(getattr(one, name), getattr(other, name)), name
    assert all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))


def joined(parts: Sequence[Views]) -> Views:
    images = tuple(torch.cat(views) for views in zip(*(p.images for p in parts), strict=True))
    fields = ("keys", "volume", "targets", "patient")
    return Views(images, *(torch.cat([getattr(p, name) for p in parts]) for name in fields))


def test_workers_change_nothing(data: Prepared) -> None:
    one, two = (drawn(feed(data, workers), 1, 4) for workers in (0, 2))
    assert [len(step) for step in one] == [2, 2, 2]
    for a, b in zip((m for s in one for m in s), (m for s in two for m in s), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one(data: Prepared, world: int) -> None:
    one = drawn(feed(data), 0, 3)
    shares = [drawn(feed(data, share=(rank, world)), 0, 3) for rank in range(world)]
    for step, whole in enumerate(one):
        for micro, batch in enumerate(whole):
            assert_same(joined([share[step][micro] for share in shares]), batch)


def test_a_batch_too_small_for_the_processes_is_refused(data: Prepared) -> None:
    with pytest.raises(StudyError, match=r"a micro-batch of 4 reads .* cannot be shared by 5 processes"):
        feed(data, share=(0, 5))
    three = data.of(replace(data.catalog, volumes=data.catalog.volumes.head(5)))
    with pytest.raises(StudyError, match="a micro-batch of 1 reads"):
        feed(three, share=(0, 2))


def test_starting_late_gives_the_views_of_starting_early(data: Prepared) -> None:
    whole, late = drawn(feed(data), 0, 5), drawn(feed(data), 3, 5)
    for a, b in zip(whole[3], late[0], strict=True):
        assert_same(a, b)


def test_every_view_has_its_images_and_targets_and_patients_follow_their_volumes(data: Prepared) -> None:
    (batch, _), *_ = drawn(feed(data), 0, 1)
    assert [i.shape for i in batch.images] == [(4, 1, 16, 16)] * 2
    assert batch.keys.shape == (4, 2)
    assert torch.equal(batch.targets, batch.volume % 2)
    people = data.catalog.volumes["patient"].to_list()
    every = drawn(feed(data), 0, feed(data).steps_per_epoch)
    hashes = {people[v]: set() for m in every[0] for v in m.volume.tolist()}
    for m in every[0]:
        for row, patient in zip(m.volume.tolist(), m.patient.tolist(), strict=True):
            hashes[people[row]].add(patient)
    assert all(len(found) == 1 for found in hashes.values())
    assert len(set().union(*hashes.values())) == len(hashes)


def test_another_epoch_draws_other_views_of_the_same_volume(data: Prepared) -> None:
    steps = drawn(feed(data), 0, 2 * feed(data).steps_per_epoch)
    seen: dict[int, list[torch.Tensor]] = {}
    for batch in (m for s in steps for m in s):
        for row, image in zip(batch.volume.tolist(), batch.images[0], strict=True):
            seen.setdefault(row, []).append(image)
    pairs = [v for v in seen.values() if len(v) == 2]
    assert pairs
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_several_crops_of_a_whole_volume_are_several_samples(data: Prepared) -> None:
    made = TrainingFeed(data, RECIPE, Sampler.of(data, 8, 1, seed=0, crops=4))
    ((batch,),) = drawn(made, 0, 1)
    assert batch.volume.tolist() == batch.volume[::4].repeat_interleave(4).tolist()
    assert len(batch.keys.unique()) == 16
    assert len({image.numpy().tobytes() for image in batch.images[0]}) == 8
    ((first,),) = drawn(TrainingFeed(data, RECIPE, Sampler.of(data, 2, 1, seed=0)), 0, 1)
    assert torch.equal(first.keys, batch.keys[::4])  # the first crop of a read is that of a single one


@pytest.mark.parametrize("codec", ["none", "lz4"])
@pytest.mark.parametrize("crops", [1, 4])
def test_every_crop_is_a_box_of_its_volume_however_small_that_is(tmp_path: Path, crops: int, codec: Codec) -> None:
    shapes = [(9, 8, 7), (6, 5, 4), (20, 5, 4), (6, 9, 9)]
    data = volumes(tmp_path, shapes, codec)
    made = TrainingFeed(data, ViewRecipe(), Sampler.of(data, 4 * crops, 1, seed=0, crops=crops))
    places = set()
    for (batch,) in drawn(made, 0, 12):
        assert batch.images[0].shape == (4 * crops, 1, 6, 5, 4)
        for row, image in zip(batch.volume.tolist(), batch.images[0], strict=True):
            first = np.unravel_index(int(image.min()) - row * 1000, shapes[row])
            spans = tuple(slice(a, a + n) for a, n in zip(first, (6, 5, 4), strict=True))
            whole = (row * 1000 + np.arange(np.prod(shapes[row]))).reshape(shapes[row])
            assert np.array_equal(image[0], whole[spans])
            places.add((row, *first))
    assert len(places) > 15


@pytest.mark.parametrize("crops", [1, 4])
def test_boxes_do_not_depend_on_how_volumes_are_stored_and_read(tmp_path: Path, crops: int) -> None:
    shapes = [(9, 8, 7), (6, 5, 4), (20, 5, 4), (6, 9, 9)]
    images = []
    for codec, workers in (("none", 0), ("lz4", 0), ("none", 1)):
        data = volumes(tmp_path / f"{codec}{workers}", shapes, codec, "float16")
        made = TrainingFeed(data, RECIPE, Sampler.of(data, 4 * crops, 1, seed=0, crops=crops), workers)
        images.append(drawn(made, 0, 2))
    for plain, compressed, from_worker in zip(*images, strict=True):
        assert_same(plain[0], compressed[0])
        assert_same(plain[0], from_worker[0])


@pytest.mark.parametrize(
    "views",
    [
        (View(size=(12, 12), crop_scale=((12 / 16) ** 2,) * 2, flip=0.5),),
        (View(flip=0.5),),
        (View(flip=1.0, contrast=0.2), View(size=(8, 8), crop_scale=(0.25, 0.25), noise=0.1)),
    ],
)
def test_boxes_cut_where_images_lie_are_those_cut_from_images_that_were_read(
    tmp_path: Path, views: tuple[View, ...]
) -> None:
    pool, drawn_from = make_pool(tmp_path / "pool", 6), {}
    for codec, workers in (("none", 0), ("lz4", 0), ("none", 1)):
        shown = prepare(pool, PrepareConfig(shape=(16, 16), codec=codec))
        made = TrainingFeed(shown, ViewRecipe(views), Sampler.of(shown, 4, 1, seed=0), workers)
        stays = [isinstance(block, Drawn) for step in made.steps(0, 2) for block in step]
        assert stays == [(codec, workers) == ("none", 0) and not torch.cuda.is_available()] * 2
        drawn_from[codec, workers] = drawn(made, 0, 3)
    lying, read, sent = drawn_from.values()
    for one, other, third in zip(lying, read, sent, strict=True):
        assert_same(one[0], other[0])
        assert_same(one[0], third[0])


@pytest.mark.parametrize("codec", ["none", "lz4"])
@pytest.mark.parametrize("crops", [1, 3])
def test_a_covered_crop_wears_the_frame_of_its_volume(tmp_path: Path, crops: int, codec: Codec) -> None:
    whole = volumes(tmp_path / codec, [(9, 16, 16), (8, 20, 12)], codec, "float32")
    for plain, shown in zip(*(boxes(d, crops) for d in (whole, whole.covered(Cover.FRAME))), strict=True):
        volume = plain.volume.numpy()
        extent, corner = whole.shapes[volume], plain.images[0][:, 0, 0, 0, 0].numpy().astype(int) - 1000 * volume
        first = np.stack([np.unravel_index(at, size) for at, size in zip(corner, extent, strict=True)])
        place = {"first": torch.from_numpy(first), "extent": torch.from_numpy(extent)}
        expected = covered(plain.images[0], Cover.FRAME, torch.zeros(len(volume)), **place)
        assert torch.equal(shown.images[0], expected)
        assert not torch.equal(expected, plain.images[0])


def test_covered_images_are_trained_on_as_if_they_had_been_covered_before(data: Prepared) -> None:
    plain, shown = (boxes(d, 1) for d in (data, data.covered(Cover.BORDER)))
    for one, other in zip(plain, shown, strict=True):
        assert torch.allclose(other.images[0], covered(one.images[0].float(), Cover.BORDER, one.volume), atol=1e-6)
        assert torch.allclose(other.images[0], data.covered(Cover.BORDER).images(one.volume.numpy()), atol=1e-6)


def test_crops_look_for_tissue_where_it_is_known(tmp_path: Path) -> None:
    data = volumes(tmp_path, [(40, 40, 40)] * 2)
    table = pl.DataFrame({"volume": data.catalog.volumes["volume"], "points": [[35, 3, 20, 30, 8, 20]] * 2})
    table.write_parquet(tmp_path / "points.parquet")
    data = replace(data, points=tmp_path / "points.parquet")
    for crops in (1, 4):
        made = TrainingFeed(data, ViewRecipe(), Sampler.of(data, 2 * crops, 1, seed=0, crops=crops))
        shown = torch.cat(
            [batch.images[0] - batch.volume.view(-1, 1, 1, 1, 1) * 1000 for (batch,) in drawn(made, 0, 50)]
        )
        points = torch.tensor([(z * 40 + y) * 40 + x for z, y, x in ((35, 3, 20), (30, 8, 20))])
        holds = torch.isin(shown.flatten(1), points).any(1).float().mean()
        assert holds > 0.8


def test_balanced_sites_come_equally_often_with_other_boxes_each_time(tmp_path: Path) -> None:
    data = volumes(tmp_path, [(12, 12, 12)] * 7)
    data = data.of(replace(data.catalog, volumes=data.catalog.volumes.with_columns(site=pl.Series(["a"] + ["b"] * 6))))
    made = TrainingFeed(data, ViewRecipe(), Sampler.of(data, 6, 1, seed=0, balance="site"))
    ((batch,),) = drawn(made, 0, 1)
    assert (batch.volume == 0).sum() == 3
    assert len(batch.keys.unique()) == 6


def test_a_corrupt_volume_is_one_error_with_and_without_workers(tmp_path: Path) -> None:
    data = volumes(tmp_path, [(9, 8, 7)] * 3)
    shard = tmp_path / "00000.tar"
    damaged = bytearray(shard.read_bytes())
    place = data.catalog.volumes["offset"][1] + data.catalog.volumes["length"][1] // 2
    damaged[place] ^= 1
    shard.write_bytes(damaged)
    for workers in (0, 1):
        made = TrainingFeed(data, ViewRecipe(), Sampler.of(data, 3, 1, seed=0), workers)
        with pytest.raises(CorruptShard, match="differ from their checksum") as caught:
            drawn(made, 0, 2)
        assert "\n" not in str(caught.value)


def hold(data: Prepared, pids: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    batches = feed(data, workers=2).steps(0, 8)
    next(batches)
    children = Path(f"/proc/{multiprocessing.forkserver._forkserver._forkserver_pid}/task")  # type: ignore[attr-defined]
    pids.put([int(p) for task in children.iterdir() for p in (task / "children").read_text().split()])
    signal.pause()


def test_workers_end_with_a_training_process_that_is_killed(data: Prepared) -> None:
    context = multiprocessing.get_context("spawn")
    pids: multiprocessing.Queue[list[int]] = context.Queue()  # type: ignore[type-arg]
    trainer = context.Process(target=hold, args=(data, pids))
    trainer.start()
    workers = pids.get(timeout=120)
    assert len(workers) >= 2
    trainer.kill()
    trainer.join()
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_killed_worker_is_one_clear_error_and_those_of_a_finished_run_are_gone(data: Prepared) -> None:
    made = feed(data, workers=2)
    steps = made.steps(0, 1000)
    next(steps)
    workers = multiprocessing.active_children()
    os.kill(workers[0].pid, signal.SIGTERM)  # pre-emption tells every process; the training one stops in its own time
    next(steps)
    os.kill(workers[0].pid, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"a loader process was killed.*lower loop.workers \(2\)") as caught:
        for _ in steps:
            pass
    assert "\n" not in str(caught.value)
    del caught, steps
    assert not any(worker.is_alive() for worker in workers)
