"""Segmentations reach the pool on the grid of their volume; each file has one row that says what became of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from drawings import drawn_masks, grid_of, seg_of, series, square, structure_set
from pydicom.dataset import Dataset
from synthetic_dicom import radiograph, save

from medssl.ingest.executors import Workers
from medssl.ingest.ingest import ingest
from medssl.pool import masks
from medssl.pool.key import Key
from medssl.pool.pool import Pool


def reasons(pool: Pool) -> dict[str, int]:
    rows = pool.instances.group_by("outcome", "reason").len().iter_rows()
    return {f"{outcome} {reason}": num for outcome, reason, num in rows if outcome != "stored"}


def write(images: list[Dataset], folder: Path) -> None:
    for index, ds in enumerate(images):
        save(ds, folder / "ct" / f"{index}.dcm")


def test_a_seg_and_a_structure_set_are_stored_on_the_grid_of_their_series(pool: Pool, key: Key, source: Path) -> None:
    images = series()
    wanted = drawn_masks(images)
    write(images, source)
    seg_of(images, wanted).save_as(source / "seg.dcm")
    save(structure_set(images, [square(grid_of(images), 3, 4.5, 20.5)]), source / "rt.dcm")
    ingest([source], pool, key)
    pool = Pool.open(pool.path)
    assert reasons(pool) == {"label segmentation": 2}
    (volume,) = pool.catalog.volumes["volume"]
    assert pool.masks["volume"].to_list() == [volume] * 2
    assert pool.verify() == []
    by_labels = {tuple(row["labels"]): row for row in pool.masks.iter_rows(named=True)}
    assert set(by_labels) == {("organ 1", "organ 2"), ("Liver",)}
    found = by_labels["organ 1", "organ 2"]
    read = masks.read(pool.path, found["mask"], found["sha256"])
    assert np.array_equal(read, np.moveaxis(wanted, -1, 0))
    assert found["num_voxels"] == [int(wanted[..., 0].sum()), int(wanted[..., 1].sum())]


def test_a_segmentation_that_comes_later_finds_its_volume_in_the_pool(pool: Pool, key: Key, source: Path) -> None:
    images = series()
    write(images, source)
    ingest([source], pool, key)
    seg_of(images, drawn_masks(images)).save_as(source / "seg.dcm")
    ingest([source], Pool.open(pool.path), key)
    assert Pool.open(pool.path).masks.height == 1


def test_a_segmentation_that_came_before_its_image_is_drawn_when_both_are_given(
    pool: Pool, key: Key, source: Path
) -> None:
    images = series()
    save(structure_set(images, [square(grid_of(images), 3, 4.5, 20.5)]), source / "rt.dcm")
    save(radiograph("another", SeriesInstanceUID="1.2.3.4.5"), source / "other.dcm")
    ingest([source], pool, key)
    assert reasons(Pool.open(pool.path)) == {"excluded mask_without_image": 1}
    ingest([source], Pool.open(pool.path), key)
    assert reasons(Pool.open(pool.path)) == {"excluded mask_without_image": 1}
    write(images, source)
    ingest([source], Pool.open(pool.path), key)
    found = Pool.open(pool.path)
    assert reasons(found) == {"label segmentation": 1}
    assert found.masks["labels"].to_list() == [["Liver"]]
    assert found.verify() == []


def test_segmentations_without_their_image_on_another_grid_or_damaged_say_so(
    pool: Pool, key: Key, source: Path
) -> None:
    images = series()
    write(images, source)
    alone = structure_set(images, [square(grid_of(images), 3, 4.5, 20.5)])
    alone.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.4.5"
    save(alone, source / "alone.dcm")
    save(structure_set(images, [square(grid_of(images), 3.5, 4.5, 20.5)]), source / "between.dcm")
    broken = structure_set(images, [square(grid_of(images), 3, 4.5, 20.5)])
    del broken.StructureSetROISequence
    save(broken, source / "broken.dcm")
    ingest([source], pool, key)
    assert reasons(Pool.open(pool.path)) == {
        "excluded mask_without_image": 1,
        "quarantined mask_geometry": 1,
        "quarantined decode_failed": 1,
    }
    assert Pool.open(pool.path).masks.is_empty()


def test_masks_go_with_their_patient(pool: Pool, key: Key, source: Path) -> None:
    images = series()
    write(images, source)
    seg_of(images, drawn_masks(images)).save_as(source / "seg.dcm")
    ingest([source], pool, key)
    pool = Pool.open(pool.path)
    pool.remove(pool.catalog.volumes["patient"].unique().to_list())
    assert Pool.open(pool.path).masks.is_empty()
    assert list((pool.path / "masks").glob("*")) == []


def test_what_a_scheduler_is_given_holds_neither_path_nor_identifier(pool: Pool, key: Key, source: Path) -> None:
    images = series()
    for image in images:
        image.PatientID, image.PatientName = "MRN-4711", "Smyczek^Jan"
    write(images, source / "Smyczek_Jan")
    seg_of(images, drawn_masks(images)).save_as(source / "Smyczek_Jan" / "seg.dcm")
    given: list[bytes] = []

    class Watched(Workers):
        def run(self, function, tasks):
            kept = list(tasks)
            given.extend(pickle.dumps(task) + repr(task).encode() for task in kept)
            return super().run(function, kept)

    with Watched(1) as workers:
        ingest([source], pool, key, workers=workers)
    assert reasons(Pool.open(pool.path)) == {"label segmentation": 1}
    assert len(given) >= 4  # headers, a shard, the images of the segmentation, its voxels
    assert not [task for task in given for word in (b"MRN-4711", b"Smyczek") if word in task]
