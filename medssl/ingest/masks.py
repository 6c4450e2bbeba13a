"""SEG and RT structure sets of a run, put on the grids of the volumes that they were drawn on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medssl.core.types import Outcome
from medssl.dicom.deidentify import Pseudonyms
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.dicom.segmentation import Grid, images_of, read_segmentation
from medssl.ingest.executors import Died, Executor
from medssl.ingest.index import Entries, Entry
from medssl.ingest.work import Work
from medssl.pool.masks import MASKS, path_of, write
from medssl.pool.pool import Pool

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """Where the work folder holds the entry of a segmentation; says neither paths nor identifiers to a scheduler."""

    work: Work
    chunk: str
    place: int
    source_key: str

    def load(self) -> Entry:
        """Return the entry."""
        (entry,) = Entries(self.work, ()).of(self.chunk, [self.place])
        return entry


@dataclass(frozen=True)
class _Task:
    found: Found
    pseudonyms: Pseudonyms
    folder: Path
    volume: Row | None = None


def segmentations(files: pl.DataFrame, entries: Entries) -> list[Found]:
    """Return those of ``files`` (rows of the index, of the first chunks of ``entries``) that are some."""
    rows = files.filter(pl.col("reason").cast(pl.String) == Reason.SEGMENTATION).sort("chunk", "place")
    places = rows.select("chunk", "place", "source_key").iter_rows()
    return [Found(entries.work, entries.chunks[chunk].name, place, key) for chunk, place, key in places]


def drawn(
    asked: Sequence[Found],
    volumes: pl.DataFrame,
    fates: pl.DataFrame,
    pool: Pool,
    pseudonyms: Pseudonyms,
    workers: Executor,
    folder: Path,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a row for each segmentation that lies on the grid of a volume (schema ``MASKS``), and the fates then.

    One belongs to the volume that holds most of the images it refers to, in ``pool`` or of this run.

    Args:
        asked: the segmentations.
        volumes: of this run.
        fates: of this run's files, with their sop.
        pool: that all this is to go to.
        pseudonyms: name UIDs and masks.
        workers: do it.
        folder: takes the place of the pool's for the voxels, until the run commits.
    """
    if not asked:
        return pl.DataFrame(schema=MASKS), fates
    tasks = [_Task(found, pseudonyms, folder) for found in asked]
    images = list(workers.run(_images, tasks))
    place = _places(images, pl.concat([pool.instances.select("sop", "volume"), fates.select("sop", "volume")]))
    rows = pl.concat([pool.catalog.volumes, volumes], how="diagonal").filter(pl.col("volume").is_in(place))
    by_name = {row["volume"]: row for row in rows.iter_rows(named=True)}
    located = [replace(task, volume=by_name[name]) for task, name in zip(tasks, place, strict=True) if name]
    results = iter(workers.run(_draw, located))
    made = [
        next(results) if name else (found if isinstance(found, Reason) else Reason.MASK_WITHOUT_IMAGE)
        for name, found in zip(place, images, strict=True)
    ]
    changes = pl.DataFrame(
        [_fate(found.source_key, name, one) for found, name, one in zip(asked, place, made, strict=True)],
        schema=dict.fromkeys(("source_key", "outcome", "reason", "volume"), pl.String),
        orient="row",
    )
    return pl.DataFrame([one for one in made if isinstance(one, dict)], schema=MASKS), fates.update(
        changes, "source_key"
    )


def _places(images: Sequence[frozenset[str] | Reason | Died], instances: pl.DataFrame) -> list[str | None]:
    """Return the volume that holds most of each set of images."""
    asked = {sop for found in images if isinstance(found, frozenset) for sop in found}
    holders = instances.filter(pl.col("sop").is_in(asked), pl.col("volume").is_not_null())
    of = dict(holders.group_by("sop").agg("volume").iter_rows())
    places = []
    for found in images:
        counts = Counter(name for sop in (found if isinstance(found, frozenset) else ()) for name in of.get(sop, ()))
        places.append(min(counts, key=lambda name: (-counts[name], name)) if counts else None)
    return places


def _fate(key: str, volume: str | None, made: dict[str, Any] | Reason | Died) -> tuple[str, str, str, str | None]:
    if isinstance(made, dict):
        return key, str(Outcome.LABEL), str(Reason.SEGMENTATION), volume
    reason = made if isinstance(made, Reason) else Reason.BUILD_FAILED
    return key, str(reason.outcome), str(reason), volume


def _images(task: _Task) -> frozenset[str] | Reason:
    """Return the pseudonyms of the images that a segmentation refers to."""
    try:
        images = images_of(task.found.load().file.place)
    except DicomProblem as problem:
        return problem.reason
    except OSError:
        return Reason.UNREADABLE
    return frozenset(task.pseudonyms.uid("sop", image) for image in images)


def _draw(task: _Task) -> dict[str, Any] | Reason:
    """Write the voxels of a segmentation; return its row, or why it has none."""
    volume = task.volume or {}
    if volume["axes"] != "ZYX" or volume["affine"] is None:
        return Reason.MASK_GEOMETRY
    grid = Grid((*volume["shape"],), np.reshape(volume["affine"], (4, 4)))
    try:
        found = read_segmentation(task.found.load().file.place).on(grid)
    except DicomProblem as problem:
        return problem.reason
    except OSError:
        return Reason.UNREADABLE
    name = task.pseudonyms.key.hmac("mask", volume["volume"], task.found.source_key)
    columns = write(path_of(task.folder, name), found.masks)
    ids = {level: volume[level] for level in ("volume", "patient", "study")}
    return {"mask": name, **ids, "labels": list(found.labels), **columns}
