"""Phase 2 over all tasks: a file that kills its decoder costs that file, not the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from medssl.core.errors import MedsslError
from medssl.dicom.reasons import Reason
from medssl.ingest.executors import Died, Workers, alone
from medssl.ingest.tasks import Built, Fate, Task
from medssl.ingest.volumes import build, can_decode


def build_all(tasks: Sequence[Task], workers: Workers) -> Iterator[Built]:
    """Yield what each task built, in order.

    Raises:
        MedsslError: a shard cannot be written.
    """
    try:
        for task, built in zip(tasks, workers.run(build, tasks), strict=True):
            yield _without_killers(task) if isinstance(built, Died) else built
    except OSError as error:
        folder = tasks[0].folder.parent
        raise MedsslError(f"{folder}: cannot write shards ({error.strerror or error}); nothing was added") from None


def _without_killers(task: Task) -> Built:
    """Build a task whose process died: each file is tried in a process of its own, those that kill it are left out."""
    items = [item for unit in task.units for item in unit.items]
    killers = {item.source_key for item in items if isinstance(alone(can_decode, item), Died)}
    healthy = [tuple(item for item in unit.items if item.source_key not in killers) for unit in task.units]
    units = [replace(unit, items=left) for unit, left in zip(task.units, healthy, strict=True) if left]
    built = alone(build, replace(task, units=tuple(units)))
    if isinstance(built, Died):
        raise MedsslError(f"{task.folder.parent}: a worker was killed twice, maybe for its memory; use fewer --workers")
    reason = Reason.DECODER_DIED
    fates = (Fate(item.source_key, reason.outcome, reason) for item in items if item.source_key in killers)
    return Built(built.volumes, (*built.fates, *fates))
