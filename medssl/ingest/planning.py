"""Between the phases: entries become units, units become tasks of one shard each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from medssl.core.types import Outcome
from medssl.dicom.deidentify import Described, Pseudonyms, describe
from medssl.dicom.header import Header
from medssl.dicom.objects import Kind
from medssl.ingest import nifti
from medssl.ingest.headers import AnyHeader
from medssl.ingest.index import Entry
from medssl.ingest.tasks import Item, Task, Transform, Unit
from medssl.pool.frames import Codec
from medssl.pool.key import Key

MIN_SHARD_BYTES, MAX_SHARD_BYTES = 8 << 20, 512 << 20  # of decoded voxels
NUM_TASKS = 64  # to aim at, so that workers finish together; never their number, on which nothing may depend
CODEC: Codec = "zstd"


def units(
    entries: Sequence[Entry], pseudonyms: Pseudonyms, known: Mapping[tuple[str, str], frozenset[str]]
) -> list[Unit]:
    """Gather the images of each series, in the order of their pseudonyms, which tells nothing of paths or names.

    Args:
        entries: the new files, in the order of their paths.
        pseudonyms: names them.
        known: the volumes that the pool holds, by (patient, series).
    """
    found: dict[tuple[str, str, str], list[Item]] = defaultdict(list)
    for entry in entries:
        if entry.header is not None:
            about = _described(entry.header, pseudonyms)
            item = Item(entry.source_key, entry.file, entry.header, about)
            kind = entry.header.kind if isinstance(entry.header, Header) else "file"
            found[about.patient, about.series, kind].append(item)
    damaged = {e.ids.series_uid for e in entries if e.ids and e.reason and e.reason.outcome is Outcome.QUARANTINED}
    holders = Counter(uid for items in found.values() for uid in {item.header.ids.sop_uid for item in items})
    return [
        Unit(tuple(items), known.get(name[:2], frozenset()), _flags([i.header for i in items], damaged, holders))
        for name, items in sorted(found.items(), key=lambda pair: pair[0])
    ]


def tasks(
    units: Sequence[Unit], folder: Path, first_shard: int, key: Key, transform: Transform | None = None
) -> list[Task]:
    """Fill shards with whole units; a unit larger than a shard gets one of its own."""
    sizes = [sum(item.header.num_bytes for item in unit.items) for unit in units]
    limit = min(max(sum(sizes) // NUM_TASKS, MIN_SHARD_BYTES), MAX_SHARD_BYTES)
    shards: list[list[Unit]] = []
    free = 0
    for unit, num_bytes in zip(units, sizes, strict=True):
        if num_bytes > free or not shards:
            shards.append([])
            free = limit
        shards[-1].append(unit)
        free -= num_bytes
    codec = CODEC if transform is None else transform.codec
    return [Task(folder, first_shard + i, codec, key, tuple(members), transform) for i, members in enumerate(shards)]


def _described(header: AnyHeader, pseudonyms: Pseudonyms) -> Described:
    return describe(header, pseudonyms) if isinstance(header, Header) else nifti.describe(header, pseudonyms)


def _flags(headers: Sequence[AnyHeader], damaged: set[str], holders: Counter[str]) -> frozenset[str]:
    flags = set()
    if isinstance(headers[0], Header) and headers[0].kind is Kind.SLICE and headers[0].ids.series_uid in damaged:
        flags.add("incomplete_series")
    if any(holders[h.ids.sop_uid] > 1 for h in headers):
        flags.add("reused_sop_uid")
    return frozenset(flags)
