"""Phase 2: one task decodes its series, stacks what belongs together and writes one shard; only rows come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from numpy.typing import NDArray

from medssl.core.types import Outcome
from medssl.dicom.decode import Decoded, decode
from medssl.dicom.geometry import Grid, stack
from medssl.dicom.header import Header
from medssl.dicom.objects import Kind
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.ingest import nifti
from medssl.ingest.content import Content, digest, picture, stacked
from medssl.ingest.nifti import NiftiHeader
from medssl.ingest.stacks import Slice, groups, sift, split, time_points
from medssl.ingest.tasks import Built, Fate, Item, Task, Transform, Unit, VolumeRow
from medssl.pool.key import Key
from medssl.pool.shards import Member, ShardWriter, shard_path

Write = Callable[[str, NDArray[Any]], Member]
T = TypeVar("T")


def build(task: Task) -> Built:
    """Build the volumes of a task; without any, its shard does not stay behind.

    Raises:
        OSError: the shard cannot be written.
    """
    with quiet(), ShardWriter(task.folder, task.shard, task.codec) as shard:
        builders = [_Builder(unit, task.key, shard.add, task.transform) for unit in task.units]
        for builder in builders:
            builder.run()
    volumes = tuple(row for builder in builders for row in builder.volumes)
    if not volumes:
        shard_path(task.folder, task.shard).unlink()
    return Built(volumes, tuple(fate for builder in builders for fate in builder.fates.values()))


def can_decode(item: Item) -> bool:
    """Decode an image for no other purpose than to see whether the process survives it."""
    try:
        if isinstance(item.header, NiftiHeader):
            nifti.load(item.file, item.header)
        else:
            decode(item.file.path, item.header)
    except (DicomProblem, OSError):
        return False
    return True


class _Builder:
    """Turns one unit into volumes; every item gets exactly one fate."""

    def __init__(self, unit: Unit, key: Key, write: Write, transform: Transform | None) -> None:
        self.unit, self.key, self.write, self.transform = unit, key, write, transform
        self.items = {item.source_key: item for item in unit.items}
        self.volumes: list[VolumeRow] = []
        self.fates: dict[str, Fate] = {}

    def run(self) -> None:
        """Build; what goes wrong in this unit in an unforeseen way stays with this unit."""
        try:
            if isinstance(self.unit.items[0].header, NiftiHeader):
                self._files()
            elif self.unit.items[0].header.kind is Kind.PICTURE:
                self._pictures()
            else:
                self._slices()
        except OSError:
            raise  # every read is guarded, so this is the shard
        except Exception:
            self._reject(self.items.keys() - self.fates.keys(), Reason.BUILD_FAILED)

    def _files(self) -> None:
        """Make every NIfTI file a volume of its own."""
        for item in self.unit.items:
            if isinstance(item.header, NiftiHeader):
                loaded = self._guarded(item, partial(nifti.load, item.file, item.header))
                if loaded is not None:
                    self._store(loaded, [item])

    def _pictures(self) -> None:
        """Make every image a volume of its own; only those that share a UID are decoded twice."""
        contradicting = self._contradicting()
        for item in self.unit.items:
            if item.source_key in contradicting:
                self._reject([item.source_key], Reason.CONFLICTING_PIXELS)
            elif (decoded := self._decode(item)) is not None:
                self._store(picture(decoded, _dicom(item)), [item])

    def _contradicting(self) -> set[str]:
        found: set[str] = set()
        for same_uid in groups(self.unit.items, lambda item: item.header.ids.sop_uid):
            if len(same_uid) > 1:
                decoded = {item.source_key: self._decode(item) for item in same_uid}
                digests = {key: digest(one.array) for key, one in decoded.items() if one is not None}
                found |= digests.keys() if len(set(digests.values())) > 1 else set()
        return found

    def _slices(self) -> None:
        decoded = [(item, self._decode(item)) for item in self.unit.items]
        slices = [Slice(i.source_key, _dicom(i), d, digest(d.array)) for i, d in decoded if d is not None]
        sifted = sift(slices)
        flags = {"incomplete_series"} if len(slices) < len(decoded) or sifted.conflicting else set()
        flags |= {"reused_sop_uid"} if sifted.reuses_uid else set()
        self._reject((s.source_key for s in sifted.conflicting), Reason.CONFLICTING_PIXELS)
        parallel, astray = split(sifted.kept)
        self._reject((s.source_key for s in astray), Reason.NO_GEOMETRY)
        for group in parallel:
            parts = time_points(group)
            if isinstance(parts, Reason):
                self._reject((s.source_key for s in group), parts)
            else:
                for part in parts:
                    self._stack(part, flags | ({"part_of_4d"} if len(parts) > 1 else set()))
        for copy, original in sifted.copies:
            kept = self.fates[original.source_key]
            self.fates[copy.source_key] = Fate(
                copy.source_key, Outcome.DUPLICATE, "same_pixels", kept.volume, kept.slice
            )

    def _stack(self, slices: Sequence[Slice], flags: set[str]) -> None:
        try:
            grid = stack([s.header.plane for s in slices])
        except DicomProblem as problem:
            self._reject((s.source_key for s in slices), problem.reason)
            return
        ordered = [slices[i] for i in grid.order]
        content = stacked(ordered, grid)
        self._store(content, [self.items[s.source_key] for s in ordered], grid, flags)

    def _store(
        self, content: Content, items: Sequence[Item], grid: Grid | None = None, flags: Iterable[str] = ()
    ) -> None:
        """Write a volume unless this series holds it already; its identity is its content, place and series."""
        about = items[0].about
        volume = self.key.hmac("volume", about.patient, about.series, content.digest)
        keys = [item.source_key for item in items]
        places = range(len(items)) if grid else [None]
        if volume in self.unit.known or any(volume == row.volume for row in self.volumes):
            for key, place in zip(keys, places, strict=True):
                self.fates[key] = Fate(key, Outcome.DUPLICATE, "same_pixels", volume, place)
            return
        if grid and self.unit.known:
            self._reject(keys, Reason.LATE_SLICES)
            return
        flags = {*flags, *content.flags, *self.unit.flags, *(flag for item in items for flag in item.about.flags)}
        row = {**asdict(about), **content.columns(), "flags": sorted(flags)}
        array = content.array
        if self.transform is not None:
            if not self.transform.takes(row["axes"]):
                self._reject(keys, Reason.OTHER_DIMENSION)
                return
            array, columns = self.transform(array, row)
            row |= columns
        member = self.write(volume, array)
        self.volumes.append(VolumeRow(volume=volume, **row, **asdict(member)))
        for key, place in zip(keys, places, strict=True):
            self.fates[key] = Fate(key, Outcome.STORED, None, volume, place)

    def _decode(self, item: Item) -> Decoded | None:
        return self._guarded(item, partial(decode, item.file.path, _dicom(item)))

    def _guarded(self, item: Item, read: Callable[[], T]) -> T | None:
        """Return what ``read`` reads of a file, unless that failed or the file changed meanwhile."""
        try:
            found = read()
            if item.file.is_unchanged():
                return found
            self._reject([item.source_key], Reason.SOURCE_CHANGED)
        except DicomProblem as problem:
            self._reject([item.source_key], problem.reason)
        except OSError:
            self._reject([item.source_key], Reason.UNREADABLE)
        return None

    def _reject(self, source_keys: Iterable[str], reason: Reason) -> None:
        for key in source_keys:
            self.fates[key] = Fate(key, reason.outcome, reason)


def _dicom(item: Item) -> Header:
    if isinstance(item.header, NiftiHeader):
        raise TypeError("a unit holds DICOM objects or NIfTI files, never both")
    return item.header
