"""Phase 2 over all tasks: a file that kills its decoder costs that file, not the run; what is done stays done."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import repeat, tee
from pathlib import Path
from typing import TypeVar

import polars as pl

from medssl.core.errors import MedsslError
from medssl.dicom.reasons import Reason
from medssl.ingest.executors import Died, Executor, alone
from medssl.ingest.planning import Planned
from medssl.ingest.tasks import Built, Fate, Item, Task, Unit
from medssl.ingest.volumes import build, can_decode
from medssl.ingest.work import Work
from medssl.pool.catalog import INSTANCES, VOLUMES
from medssl.pool.shards import shard_path

T = TypeVar("T")
VOLUME = {name: kind for name, kind in VOLUMES.items() if name != "role"}
FATE = {field.name: INSTANCES[field.name] for field in fields(Fate)}


@dataclass(frozen=True)
class Done:
    """One finished shard, whose rows are in the work folder under ``name``."""

    name: str
    num_files: int
    num_bytes: int  # of these files
    outcomes: Mapping[str, int]


def build_all(tasks: Iterable[Planned], workers: Executor, work: Work) -> Iterator[Done]:
    """Yield what each task built, in order.

    Raises:
        MedsslError: a shard cannot be written.
    """
    try:
        handed, kept = tee(tasks)
        for task, done in zip(kept, workers.run(build_shard, handed), strict=True):
            yield _without_killers(task) if isinstance(done, Died) else done
    except OSError as error:
        problem = error.strerror or error
        raise MedsslError(
            f"{work.folder}: cannot write shards ({problem}); nothing was added; make room and run it again to go on"
        ) from None


def build_shard(task: Planned) -> Done:
    """Build a shard unless that was done."""
    if task.work.is_built(task.name):
        shard = shard_path(task.work.shards(task.name), task.shard)
        if shard.exists() or not task.work.result(task.name)["volumes"]:
            return _done(task)
    return _keep(task, build(task.load()))


def collected(names: Iterable[str], work: Work) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the volumes that finished tasks made, and the fates of their files, one shard after another."""
    volumes, fates = [pl.DataFrame(schema=VOLUME)], [pl.DataFrame(schema=FATE)]
    for name in names:
        rows = work.result(name)
        volumes.append(pl.DataFrame(rows["volumes"], schema=VOLUME))
        fates.append(pl.DataFrame(rows["fates"], schema=FATE))
    return pl.concat(volumes), pl.concat(fates)


def appear(built: Path, shard: Path) -> None:
    """Show a built shard in the pool; where files can have two names it stays in the work folder until the commit."""
    shard.parent.mkdir(parents=True, exist_ok=True)
    shard.unlink(missing_ok=True)
    try:
        os.link(built, shard)
    except OSError:
        os.replace(built, shard)


def _keep(task: Planned, built: Built) -> Done:
    rows = {"volumes": [asdict(row) for row in built.volumes], "fates": [asdict(fate) for fate in built.fates]}
    task.work.keep_built(task.name, rows)
    return _done(task)


def _done(task: Planned) -> Done:
    fates = task.work.result(task.name)["fates"]
    return Done(task.name, len(fates), task.num_bytes, Counter(fate["outcome"] for fate in fates))


def _without_killers(planned: Planned) -> Done:
    """Build a task whose process died without the files that kill it, or else without the units that do."""
    task = planned.load()
    files = {item.source_key for item in _killers([item for unit in task.units for item in unit.items], _decode_all)}
    healthy = [tuple(item for item in unit.items if item.source_key not in files) for unit in task.units]
    units = [replace(unit, items=left) for unit, left in zip(task.units, healthy, strict=True) if left]
    built, deadly = alone(partial(_build, task), units), list[Unit]()
    if isinstance(built, Died):  # each file can be decoded, so it is what they are together, such as their size
        deadly = _killers(units, partial(_build, task))
        built = alone(partial(_build, task), [unit for unit in units if unit not in deadly])
    if isinstance(built, Died):
        raise MedsslError(f"{task.folder.parent}: workers are killed, maybe for their memory; use fewer --workers")
    series = {item.source_key for unit in deadly for item in unit.items}
    lost = [*zip(sorted(files), repeat(Reason.DECODER_DIED)), *zip(sorted(series), repeat(Reason.WORKER_DIED))]
    fates = (Fate(key, reason.outcome, reason) for key, reason in lost)
    return _keep(planned, Built(built.volumes, (*built.fates, *fates)))


def _killers(parts: Sequence[T], use: Callable[[Sequence[T]], object]) -> list[T]:
    """Return the parts that kill the process that uses them; tried in halves, each in a process of its own."""
    if not isinstance(alone(use, parts), Died):
        return []
    half = len(parts) // 2
    return [*_killers(parts[:half], use), *_killers(parts[half:], use)] if half else list(parts)


def _decode_all(items: Sequence[Item]) -> list[bool]:
    return [can_decode(item) for item in items]


def _build(task: Task, units: Sequence[Unit]) -> Built:
    return build(replace(task, units=tuple(units)))
