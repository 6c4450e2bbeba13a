"""What a unit leaves: volumes written under their identity, and exactly one fate a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from numpy.typing import NDArray

from medssl.core.types import Outcome
from medssl.dicom.reasons import Reason
from medssl.ingest import quality
from medssl.ingest.content import Content
from medssl.ingest.tasks import Fate, Task, Unit, VolumeRow
from medssl.pool.catalog import moment
from medssl.pool.shards import Member
from medssl.pool.tables import SHARES_OBJECT

Write = Callable[[str, NDArray[Any]], Member]

FATES = {Outcome.STORED: 0, Outcome.DUPLICATE: 1}  # of several for one file, the first wins


class Keeper:
    """The volumes and fates of one unit; a file is stored if any of its frames is."""

    def __init__(self, unit: Unit, task: Task, write: Write) -> None:
        self.unit, self.key, self.transform, self.write = unit, task.key, task.transform, write
        self.items = {item.source_key: item for item in unit.items}
        self.volumes: list[VolumeRow] = []
        self.fates: dict[str, Fate] = {}
        self.flags: set[str] = set()  # of every volume from now on

    def rows(self) -> Iterator[VolumeRow]:
        """Yield the volumes; those that no file's fate names say so."""
        named = {fate.volume for fate in self.fates.values() if fate.outcome is Outcome.STORED}
        for row in self.volumes:
            yield row if row.volume in named else replace(row, flags=sorted({*row.flags, SHARES_OBJECT}))

    def store(self, content: Content, places: Mapping[str, int | None], flags: Iterable[str] = ()) -> None:
        """Write a volume unless this series holds it already; its identity is its content, place and series.

        Args:
            content: the volume.
            places: the files that it is made of, with the first plane of each, counted over time and ``Z``.
            flags: more of them.
        """
        items = [self.items[key] for key in places]
        about = items[0].about
        volume = self.key.hmac("volume", about.patient, about.series, content.digest)
        flags = {*flags, *content.flags, *self.flags, *self.unit.flags}.union(*(item.about.flags for item in items))
        row = {**asdict(about), **content.columns(), "flags": sorted(flags)}
        if self.transform is not None and not self.transform.takes(row["axes"]):
            self.reject(places, Reason.OTHER_DIMENSION)
            return
        num = len(content.array) if content.has_time and self.transform is not None else 1
        names = [volume] if num == 1 else [moment(volume, t) for t in range(num)]
        planes = content.array.shape[1] if num > 1 and row["axes"].startswith("TZ") else 1
        where = {key: (0, p) if p is None or num == 1 else divmod(p, planes) for key, p in places.items()}
        if names[0] in self.unit.known or any(names[0] == row.volume for row in self.volumes):
            for key, (t, place) in where.items():
                self._give(Fate(key, Outcome.DUPLICATE, "same_pixels", names[t], place))
            return
        if self.unit.known and any(place is not None for place in places.values()):
            self.reject(places, Reason.LATE_SLICES)
            return
        row |= quality.columns(content.array, row)
        self.volumes += self._written(names, content.array, row)
        for key, (t, place) in where.items():
            self._give(Fate(key, Outcome.STORED, None, names[t], place))

    def _written(self, names: Sequence[str], array: NDArray[Any], row: dict[str, Any]) -> Iterator[VolumeRow]:
        """Write a volume, or what the transform makes of it, of each of its time points if it has several names."""
        if self.transform is None:
            yield VolumeRow(volume=names[0], **row, **asdict(self.write(names[0], array)))
            return
        for name, part in zip(names, array if len(names) > 1 else [array], strict=True):
            made, columns = self.transform(part, row if len(names) == 1 else {**row, "axes": row["axes"][1:]})
            yield VolumeRow(volume=name, **row | columns | {"times": None}, **asdict(self.write(name, made)))

    def reject(self, source_keys: Iterable[str], reason: Reason) -> None:
        """Give files a reason; those of which a part is stored keep it beside that."""
        for key in source_keys:
            self._give(Fate(key, reason.outcome, reason))

    def _give(self, fate: Fate) -> None:
        """Set a file's fate; one of which a part is stored is stored, with the reason why another part is not."""
        before = self.fates.get(fate.source_key, fate)
        best, other = sorted((before, fate), key=lambda one: FATES.get(one.outcome, len(FATES)))
        if best.outcome is Outcome.STORED and best.reason is None and other.outcome not in FATES:
            best = replace(best, reason=other.reason)
        self.fates[fate.source_key] = best

    def copy(self, source_key: str, original: str) -> None:
        """Give a file the fate of the one that it copies, a duplicate only of what is in the pool."""
        kept = self.fates[original]
        copy = replace(kept, outcome=Outcome.DUPLICATE, reason="same_pixels") if kept.volume is not None else kept
        self.fates[source_key] = replace(copy, source_key=source_key)
