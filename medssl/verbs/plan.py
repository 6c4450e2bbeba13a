"""``medssl plan``: disk, memory and hours of a study, before anything starts; a sheet of example views."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from medssl.core.errors import PoolError
from medssl.core.keys import view_keys
from medssl.core.types import Family, Role
from medssl.data.prepare import Preparer, prepare, prepared_folder
from medssl.data.prepare_tasks import ShardTask, num_bytes, prepare_shard
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.data.sheet import sheet
from medssl.data.views import make_views
from medssl.engine.distributed import device_for
from medssl.engine.monitors.loader import advice, usable_cores
from medssl.engine.trial import Trial, trial
from medssl.methods.base import METHODS
from medssl.pool.catalog import Catalog
from medssl.pool.pool import Pool
from medssl.review.contact_sheet import preview
from medssl.study import Recipe, Study
from medssl.verbs.pretrain import feed_of, make_method, settled
from medssl.verbs.result import Result

SAMPLE, FEWEST, SAMPLE_SHARDS, SAMPLE_SECONDS = 48, 4, 4, 8.0
SHOWN = 6  # images on the sheet
LOADER_BOUND = 0.1
MANY_NEGATIVES = 1024


@dataclass(frozen=True)
class Sample:
    """What is prepared, or as much of it as was prepared to measure by.

    ``num_bytes`` of the whole prepared pool; ``seconds`` that preparing it takes one process, 0 where it is there.
    """

    data: Prepared
    num_volumes: int
    num_dev: int
    num_bytes: int
    seconds: float
    is_whole: bool


@dataclass(frozen=True)
class Training:
    """One pretraining: ``steps`` of it, and what a few of them took."""

    name: str
    trial: Trial
    steps: int
    images_a_step: int
    checkpoint_bytes: int

    @property
    def hours(self) -> float:
        """Of training alone."""
        return self.steps * self.trial.step_seconds / 3600


def plan(study: Study) -> Result:
    """Measure what the study will take on this machine; nothing is prepared or trained, and it takes about a minute.

    Raises:
        PoolError: no volume, or none of a dev patient, fits ``prepare.shape``.
        TrainingError: a step does not fit into the device's memory.
    """
    pool, device = Pool.open(study.pool), device_for()
    recipes = {"pretrain": study, **({"pretext": study.selection.pretext} if study.selection.pretext else {})}
    with tempfile.TemporaryDirectory() as scratch:
        sample = _sample(pool, study, Path(scratch))
        made = [_measured(study, name, recipe, sample, device) for name, recipe in recipes.items()]
        out = _sheet(study, settled(study, sample.num_dev), sample)
    warnings = [*_disk_warnings(study, pool, sample, made), *_memory_warnings(made, device)]
    for name, recipe in recipes.items():
        warnings += [f"{name}: {text}" for text in _loop_warnings(recipe, sample.num_dev)]
    is_compressed, is_cropped = study.prepare.codec != "none", sample.data.cropped
    for one in made:
        if one.trial.data_wait > LOADER_BOUND:
            loop = recipes[one.name].loop
            tips = advice(loop, compressed=is_compressed, cropped=is_cropped, cores=usable_cores())
            warnings.append(f"{one.name}: {one.trial.data_wait:.0%} of a step is waiting for data; {tips}")
    facts = {
        "device": str(device),
        "prepared": {"volumes": sample.num_volumes, "bytes": sample.num_bytes, "seconds": sample.seconds},
        "trainings": [{**asdict(one), "hours": one.hours} for one in made],
        "sheet": str(out),
        "warnings": warnings,
    }
    shown: list[RenderableType] = [_table(study, sample, made, device), f"example views: {out}"]
    shown += [Text(f"! {text}", style="yellow") for text in warnings]
    return Result(facts, tuple(shown))


def _sample(pool: Pool, study: Study, scratch: Path) -> Sample:
    """Return what is prepared already, else a few volumes prepared now, in ``scratch``."""
    preparer, config = Preparer(study.prepare), study.prepare
    given = pool.catalog.volumes
    fitting = given.filter(given["axes"].map_elements(preparer.takes, pl.Boolean))
    num_dev = fitting.filter(pl.col("role") == Role.DEV).height
    if not num_dev:
        raise PoolError(f"{pool.path}: no volume of a dev patient fits prepare.shape {list(config.shape)}")
    if prepared_folder(pool, config).exists():
        data = prepare(pool, config)
        return Sample(data.role(Role.DEV), len(data), num_dev, int(data.catalog.volumes["length"].sum()), 0.0, True)
    parts, spent = list[pl.DataFrame](), list[float]()
    chosen = _spread(fitting.filter(pl.col("role") == Role.DEV))
    # The first volume pays for imports.
    while len(parts) < min(FEWEST, chosen.height) or (len(parts) < chosen.height and sum(spent[1:]) < SAMPLE_SECONDS):
        start = time.perf_counter()
        volume = chosen[len(parts) : len(parts) + 1]
        parts.append(prepare_shard(ShardTask(pool.shards, scratch / "shards", len(parts), preparer, volume)))
        spent.append(time.perf_counter() - start)
    rows = pl.concat(parts)
    points = scratch / "foreground.parquet"
    rows.select("volume", "points").write_parquet(points)
    expected = [num_bytes(row, config) for row in fitting.iter_rows(named=True)]
    of_sample = [num_bytes(row, config) for row in chosen.head(len(parts)).iter_rows(named=True)]
    scale = sum(expected) / sum(of_sample)
    again = spent[1:] or spent
    is_cropped = config.fit == "crop"
    catalog = Catalog(rows.drop("points"), pool.catalog.labels)
    data = Prepared(scratch / "shards", catalog, config.geometry, is_cropped, points if is_cropped else None)
    seconds = sum(again) / len(again) * len(parts) * scale
    return Sample(data, fitting.height, num_dev, round(float(rows["length"].sum()) * scale), seconds, False)


def _spread(volumes: pl.DataFrame) -> pl.DataFrame:
    """Return ``SAMPLE`` volumes, spread over a few shards (each may have to be fetched)."""
    ordered = volumes.sort("shard", "offset")
    shards = ordered["shard"].unique().sort()
    few = shards.gather(np.linspace(0, len(shards) - 1, min(len(shards), SAMPLE_SHARDS)).round().astype(int))
    there = ordered.filter(pl.col("shard").is_in(few.to_list()))
    return there[np.linspace(0, there.height - 1, min(there.height, SAMPLE)).round().astype(int)]


def _measured(study: Study, name: str, recipe: Recipe, sample: Sample, device: torch.device) -> Training:
    recipe = settled(recipe, sample.num_dev)
    loop = recipe.loop
    whole = Sampler(sample.num_dev, loop.batch_size, loop.accumulate, study.seed, loop.crops)
    data, needed = sample.data, whole.reads_per_step
    if len(data) < needed:  # a sample stands for the pool: its volumes come again
        rows = data.catalog.volumes
        rows = pl.concat([rows] * -(-needed // len(data))).head(needed)
        data = data.of(Catalog(rows, data.catalog.labels))
    method = make_method(recipe, data, study.seed)
    found = trial(method, feed_of(study, recipe, data, method), loop, device)
    kept = loop.keep_checkpoints + 2  # the best one, and the one being written
    size = (found.memory.model + found.memory.optimiser) * kept
    return Training(name, found, whole.steps_per_epoch * loop.epochs, needed * loop.crops, size)


def _sheet(study: Study, chosen: Recipe, sample: Sample) -> Path:
    """Write the study's views of a few images as a PNG."""
    rows = np.arange(min(SHOWN, len(sample.data)))
    recipe = METHODS.load(chosen.method.name).views(chosen.method.config, sample.data.geometry)
    keys = torch.from_numpy(view_keys(study.seed, 0, sample.data.keys[rows], len(recipe.views)))
    originals = sample.data.images(rows)
    views = make_views(originals, keys, torch.from_numpy(rows), recipe)
    out = study.workspace / "plans" / f"{study.name}-views.png"
    return preview(sheet(originals, views.images), out)


def _loop_warnings(recipe: Recipe, num_dev: int) -> Iterator[str]:
    loop, method = recipe.loop, METHODS.load(recipe.method.name)
    images = num_dev * loop.crops
    if loop.images_a_step > images:
        yield f"a step asks for {loop.images_a_step} images, the pool has {images}; lower loop.batch_size"
    if method.family == Family.CONTRASTIVE and loop.batch_size > MANY_NEGATIVES:
        yield f"a contrastive batch of {loop.batch_size}: more than about {MANY_NEGATIVES} negatives seldom help"


def _disk_warnings(study: Study, pool: Pool, sample: Sample, made: list[Training]) -> Iterator[str]:
    needs: dict[int, int] = {}
    free: dict[int, tuple[Path, int]] = {}
    asked = [(pool.path, 0 if sample.is_whole else sample.num_bytes)]
    for place, size in (*asked, *((study.workspace, one.checkpoint_bytes) for one in made)):
        there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
        device = there.stat().st_dev
        needs[device] = needs.get(device, 0) + size
        free[device] = there, shutil.disk_usage(there).free
    for device, size in needs.items():
        where, left = free[device]
        if size > left:
            yield f"disk: {_gb(size)} are needed where {where} is, {_gb(left)} are free"


def _memory_warnings(made: list[Training], device: torch.device) -> Iterator[str]:
    has = _device_bytes(device)
    for one in made:
        if one.trial.memory.total > 0.9 * has:
            yield (
                f"{one.name}: about {_gb(one.trial.memory.total)} of memory are needed, {device} has {_gb(has)}; lower "
                "loop.batch_size and raise loop.accumulate, or set loop.recompute=true"
            )


def _device_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _table(study: Study, sample: Sample, made: list[Training], device: torch.device) -> Table:
    table = Table(
        "what", "how much", "how it is known", title=f"plan of {study.name} on {device}", title_justify="left"
    )
    sampled = "prepared already" if sample.is_whole else f"{len(sample.data)} of {sample.num_volumes} volumes prepared"
    table.add_row("prepared volumes", f"{sample.num_volumes} in {_gb(sample.num_bytes)}", sampled)
    if not sample.is_whole:
        hours = sample.seconds / 3600 / usable_cores()
        table.add_row("preparing", _time(hours), f"{usable_cores()} processes at the sample's speed")
    for one in made:
        found, memory = one.trial, one.trial.memory
        table.add_section()
        table.add_row(one.name, f"{found.parameters / 1e6:.1f} M parameters", "trained ones")
        parts = {name: getattr(memory, name) for name in ("model", "gradients", "optimiser", "activations")}
        known = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items())
        table.add_row("  memory", _gb(memory.total), f"{'peak of a step; ' if memory.peak else ''}{known}")
        table.add_row("  checkpoints", _gb(one.checkpoint_bytes), "the last ones, the best, the next")
        rate = one.images_a_step / found.step_seconds
        table.add_row("  speed", f"{rate:.0f} images/s", f"{found.steps} steps, waiting {found.data_wait:.0%} for data")
        table.add_row("  training", _time(one.hours), f"{one.steps} steps of {one.images_a_step} images")
    return table


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
