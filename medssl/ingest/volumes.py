"""Phase 2: one task decodes its series, stacks what belongs together and writes one shard; only rows come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from medssl.dicom.burned_in import MASKED, cleaned, masked, refused
from medssl.dicom.decode import Decoded, decode_frames
from medssl.dicom.header import Frame, Header
from medssl.dicom.objects import Kind
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.ingest.content import Canvas, Content, digest, digest_of, picture
from medssl.ingest.headers import FileHeader
from medssl.ingest.keeping import Keeper, Write
from medssl.ingest.stacks import BY_NUMBER, Slice, Stack, arrange, groups, split
from medssl.ingest.tasks import Built, Item, Task, Unit
from medssl.pool.shards import ShardWriter, shard_path

T = TypeVar("T")


def build(task: Task) -> Built:
    """Build the volumes of a task; without any, its shard does not stay behind.

    Raises:
        OSError: the shard cannot be written.
    """
    with quiet(), ShardWriter(task.folder, task.shard, task.codec) as shard:
        builders = [_Builder(unit, task, shard.add) for unit in task.units]
        for builder in builders:
            builder.run()
    volumes = tuple(row for builder in builders for row in builder.kept.rows())
    if not volumes:
        shard_path(task.folder, task.shard).unlink()
    return Built(volumes, tuple(fate for builder in builders for fate in builder.kept.fates.values()))


def can_decode(item: Item) -> bool:
    """Decode an image for no other purpose than to see whether the process survives it."""
    try:
        if isinstance(item.header, Header):
            for _ in decode_frames(item.file.place, item.header, item.header.frames):
                pass
        else:
            item.header.load(item.file)
    except Exception:
        return False
    return True


class _Builder:
    """Turns one unit into volumes."""

    def __init__(self, unit: Unit, task: Task, write: Write) -> None:
        self.unit, self.rules, self.kept = unit, task.rules, Keeper(unit, task, write)
        self.items = self.kept.items
        self.copies: list[tuple[str, str]] = []  # copy, original

    def run(self) -> None:
        """Build; what goes wrong in this unit in an unforeseen way stays with this unit."""
        try:
            first = self.unit.items[0].header
            if not isinstance(first, Header):
                self._files()
            elif first.kind is Kind.SLICE:
                self._slices()
            else:
                self._images()
            for copy, original in self.copies:
                self.kept.copy(copy, original)
        except OSError:
            raise  # every read is guarded, so this is the shard
        except MemoryError:
            self.kept.reject(self.items.keys() - self.kept.fates.keys(), Reason.WORKER_DIED)
        except Exception:
            self.kept.reject(self.items.keys() - self.kept.fates.keys(), Reason.BUILD_FAILED)

    def _files(self) -> None:
        """Make every file a volume of its own."""
        for item in self.unit.items:
            if not isinstance(item.header, Header):
                loaded = self._guarded(item, partial(self._loaded, item, item.header))
                if loaded is not None:
                    self.kept.store(loaded, {item.source_key: None})

    def _loaded(self, item: Item, header: FileHeader) -> Content:
        policy = self.rules.burned_in
        is_risky = refused(item.about.flags, policy)
        content = header.load(item.file)
        if policy != "mask" or not is_risky:
            return content
        array = masked(content.array)
        name = digest_of(content.digest, digest(array))
        return replace(content, array=array, digest=name, flags=content.flags | {MASKED})

    def _images(self) -> None:
        """Make every image a volume of its own, every film one for each view; only shared UIDs are decoded twice."""
        contradicting = self._contradicting(lambda item: (item.header.ids.sop_uid,))
        for item in self.unit.items:
            for frames in groups(_dicom(item).frames, lambda frame: frame.split):
                if item.source_key not in contradicting:
                    content = self._guarded(item, partial(self._film, item, frames))
                    if content is not None:
                        self.kept.store(content, {item.source_key: None})

    def _film(self, item: Item, frames: Sequence[Frame]) -> Content:
        header = replace(_dicom(item), frames=tuple(frames))
        if len(frames) == 1:
            return picture(next(self._decoded(item, frames)), header)
        canvas = Canvas(frames, (len(frames),), None)
        for index, (frame, decoded) in enumerate(zip(frames, self._decoded(item, frames), strict=True)):
            canvas.put((index,), decoded, frame.values)
        return canvas.content(header)

    def _slices(self) -> None:
        """Stack what belongs together by its headers; voxels are compared only where these leave it open."""
        bad = self._contradicting(lambda item: (item.header.ids.sop_uid, *_places(item)))
        self.kept.flags |= {"incomplete_series"} if bad else set()
        items = [item for item in self.unit.items if item.source_key not in bad]
        items = self._without_copies(items, lambda item: tuple((s.place, s.tags, s.rank) for s in _frames(item)))
        places = {(item.header.ids.sop_uid, _places(item)) for item in items}
        self.kept.flags |= {"reused_sop_uid"} if len({uid for uid, _ in places}) < len(places) else set()
        found, astray = split([one for item in items for one in _frames(item)])
        self.kept.reject((s.source_key for s in astray), Reason.NO_GEOMETRY)
        for group in found:
            self._group(group)

    def _group(self, slices: Sequence[Slice]) -> None:
        """Make a volume of parallel slices; without those that cannot be decoded or copy others, if need be."""
        flags, is_compared = set[str](), False
        while slices:
            is_grey = slices[0].header.pixels.samples == 1 and slices[0].header.pixels.palette is None
            stack, rejected = arrange(slices, allow_gaps=self.rules.allow_gaps and is_grey)
            if stack is None and not is_compared and rejected[-1][1] is Reason.DUPLICATE_POSITION:
                is_compared = True
                singles = [self.items[s.source_key] for s in slices if len(s.header.frames) == 1]
                kept = self._without_copies(singles, lambda item: tuple((s.place, s.tags) for s in _frames(item)))
                gone = {item.source_key for item in singles} - {item.source_key for item in kept}
            elif stack is None:
                gone = set()
            else:
                gone = self._stack(stack, flags)
            if not gone:
                for lost, reason in rejected:
                    why = Reason.NOT_RESAMPLED if reason in self.rules.lifted else reason
                    self.kept.reject((s.source_key for s in lost), why)
                return
            flags |= {"incomplete_series"} if gone - {copy for copy, _ in self.copies} else set()
            slices = [s for s in slices if s.source_key not in gone]

    def _stack(self, stack: Stack, flags: set[str]) -> set[str]:
        """Fill and store a volume, or return the source keys of what must be left out first."""
        rows = stack.moments.slices
        members: dict[str, list[tuple[Slice, tuple[int, int]]]] = {}
        for t, row in enumerate(rows):
            for z, one in enumerate(row):
                members.setdefault(one.source_key, []).append((one, (t, z)))
        shape = (len(rows), len(rows[0])) if stack.grid else (len(rows),)
        canvas = Canvas([s.frame for row in rows for s in row], shape, stack.grid)
        ordered = [key for key in self.items if key in members]  # as they lie on the disk
        gone = {key for key in ordered if not self._guarded(self.items[key], partial(self._fill, canvas, members[key]))}
        if any(self.kept.fates[key].reason == Reason.WORKER_DIED for key in gone):  # no file is worse than the others
            self.kept.reject(ordered, Reason.WORKER_DIED)
            return set(ordered)
        if gone := gone or self._repeated(stack, canvas):
            return gone
        first = rows[0][0]
        content = canvas.content(replace(first.header, frames=(first.frame,)), stack.moments.times)
        num = stack.grid.num_planes if stack.grid else 1
        places = {key: min(t * num + _plane(stack, z) for _, (t, z) in found) for key, found in members.items()}
        self.kept.store(content, places, {*flags, *stack.flags, *stack.moments.flags})
        return set()

    def _fill(self, canvas: Canvas, found: Sequence[tuple[Slice, tuple[int, int]]]) -> bool:
        item = self.items[found[0][0].source_key]
        frames = [one.frame for one, _ in found]
        for (one, index), decoded in zip(found, self._decoded(item, frames), strict=True):
            canvas.put(index[: len(canvas.shape)], decoded, one.frame.values)
        return True

    def _repeated(self, stack: Stack, canvas: Canvas) -> set[str]:
        """Return the files of moments that only their number tells from an earlier one with the same voxels."""
        if BY_NUMBER not in stack.moments.flags:
            return set()
        seen: dict[tuple[str, ...], Sequence[Slice]] = {}
        found = set()
        for t, row in enumerate(stack.moments.slices):
            original = seen.setdefault(tuple(canvas.digests[t, z] for z in range(len(row))), row)
            keys = {s.source_key for s in row}
            if original is not row and sum(len(_dicom(self.items[key]).frames) for key in keys) == len(row):
                found |= keys
                self.copies += {(copy.source_key, s.source_key) for copy, s in zip(row, original, strict=True)}
        return found

    def _contradicting(self, name: Callable[[Item], tuple[Any, ...]]) -> set[str]:
        """Reject the files that share a ``name``, but not their voxels, and return their source keys."""
        found: set[str] = set()
        for same in groups(self.unit.items, name):
            digests = {item.source_key: self._digest(item) for item in same} if len(same) > 1 else {}
            read = {key: one for key, one in digests.items() if one is not None}
            contradicting = read.keys() if len(set(read.values())) > 1 else set()
            self.kept.reject(contradicting, Reason.CONFLICTING_PIXELS)
            found |= contradicting | (digests.keys() - read.keys())
        return found

    def _without_copies(self, items: Sequence[Item], name: Callable[[Item], tuple[Any, ...]]) -> list[Item]:
        """Return one item for each ``name`` and voxels; the others are copies, whatever their UIDs."""
        kept = []
        for same in groups(items, name):
            if len(same) == 1:
                kept += same
                continue
            digests = {item.source_key: self._digest(item) for item in same}
            readable = [item for item in same if digests[item.source_key] is not None]
            for equal in groups(readable, lambda item: digests[item.source_key]):  # noqa: B023
                kept += equal[:1]
                self.copies += [(copy.source_key, equal[0].source_key) for copy in equal[1:]]
        order = {item.source_key: i for i, item in enumerate(items)}
        return sorted(kept, key=lambda item: order[item.source_key])

    def _digest(self, item: Item) -> str | None:
        frames = _dicom(item).frames
        return self._guarded(item, lambda: digest_of(*(digest(one.array) for one in self._decoded(item, frames))))

    def _decoded(self, item: Item, frames: Sequence[Frame]) -> Iterator[Decoded]:
        header = _dicom(item)
        for decoded in decode_frames(item.file.place, header, frames):
            yield cleaned(decoded, header, self.rules.burned_in)

    def _guarded(self, item: Item, read: Callable[[], T]) -> T | None:
        """Return what ``read`` reads of a file, unless that failed or the file changed meanwhile."""
        try:
            found = read()
            if item.file.is_unchanged():
                return found
            self.kept.reject([item.source_key], Reason.SOURCE_CHANGED)
        except DicomProblem as problem:
            self.kept.reject([item.source_key], problem.reason)
        except OSError:
            self.kept.reject([item.source_key], Reason.UNREADABLE)
        except MemoryError:
            self.kept.reject([item.source_key], Reason.WORKER_DIED)
        except Exception:  # unforeseen; the other files of the unit are not to suffer for it
            self.kept.reject([item.source_key], Reason.BUILD_FAILED)
        return None


def _dicom(item: Item) -> Header:
    if not isinstance(item.header, Header):
        raise TypeError("a unit holds DICOM objects or other files, never both")
    return item.header


def _frames(item: Item) -> list[Slice]:
    header = _dicom(item)
    return [Slice(item.source_key, header, frame) for frame in header.frames]


def _places(item: Item) -> tuple[tuple[float, ...], ...]:
    return tuple(one.place for one in _frames(item))


def _plane(stack: Stack, z: int) -> int:
    """Return the plane of a slice, the nearest one where they were resampled."""
    grid = stack.grid
    return round(grid.slices_mm[z] / grid.spacing_mm[0]) if grid and grid.slices_mm else z
