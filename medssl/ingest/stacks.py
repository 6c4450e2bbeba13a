"""Which slices of a series belong together, by what their headers say: volumes told apart, strays, time points."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from medssl.dicom.geometry import Grid, depths, is_located, is_parallel, stack, strays
from medssl.dicom.header import PHASES, Frame, Header, Plane
from medssl.dicom.reasons import DicomProblem, Reason

T = TypeVar("T")

SAME_PLACE_MM = 0.01
# What the entries of PHASES count, as a flag of the volume; ``Moments.times`` are these.
TIME_FLAGS = ("t_position", "t_b_value", "t_trigger_ms", "t_acquisition", "t_seconds", "t_index")
BY_NUMBER = "t_instance_number"  # nothing but their numbers tells the time points apart
POSITION, TRIGGER, CLOCK = 0, 2, 4
TIME_OF_DAY = re.compile(r"(?:\d{8})?(\d\d)(\d\d)(\d\d(?:\.\d*)?)")  # TM, or the end of DT
CHOICES = [(i,) for i in range(len(PHASES))] + [tuple(range(i + 1)) for i in range(1, len(PHASES))]
HALF_A_DAY_S = 43_200.0


@dataclass(frozen=True, eq=False)
class Slice:
    """One ``frame`` of the object in a file, not decoded."""

    source_key: str
    header: Header
    frame: Frame

    @property
    def plane(self) -> Plane:
        """Where it lies."""
        return self.frame.plane

    @property
    def place(self) -> tuple[float, ...]:
        """Position and orientation, rounded to be compared."""
        return tuple(round(v, 3) + 0.0 for v in (*(self.plane.position or ()), *(self.plane.orientation or ())))

    @property
    def tags(self) -> tuple[Any, ...]:
        """What tells volumes and time points apart."""
        return *_encoding(self), *self.frame.phase

    @property
    def rank(self) -> tuple[int, int]:
        """Its number in the series."""
        return self.plane.instance_number, self.frame.index


@dataclass(frozen=True)
class Moments:
    """Slices ``T N``, the same places at every time; ``times`` in the unit that ``flags`` name, None for one moment."""

    slices: tuple[tuple[Slice, ...], ...]
    times: tuple[float, ...] | None = None
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stack:
    """What becomes one volume: slices ``T N`` in order; ``grid`` is None where all lie at one place."""

    moments: Moments
    grid: Grid | None
    flags: frozenset[str] = frozenset()


Rejected = list[tuple[Sequence[Slice], Reason]]


def split(slices: Sequence[Slice]) -> tuple[list[list[Slice]], list[Slice]]:
    """Separate slices by matrix, encoding, orientation, spacing, series number, image type, echo, stack.

    Returns:
        the groups, and the slices that lack a usable geometry.
    """
    located = [s for s in slices if is_located(s.plane)]
    found: list[list[Slice]] = []
    for alike in groups(located, _encoding):
        parallel: list[list[Slice]] = []
        for one in alike:
            home = next((p for p in parallel if is_parallel(p[0].plane, one.plane)), None)
            if home is None:
                parallel.append([one])
            else:
                home.append(one)
        found += parallel
    return found, [s for s in slices if not is_located(s.plane)]


def arrange(slices: Sequence[Slice], *, allow_gaps: bool = False) -> tuple[Stack | None, Rejected]:
    """Put parallel slices in order of time and place.

    Returns:
        what becomes a volume, if anything, and all other slices with their reasons.
    """
    places = _places(slices)
    firsts = [members[0].plane for members in places]
    astray = strays(firsts)
    kept = [members for i, members in enumerate(places) if i not in astray]
    rejected: Rejected = [([s for i in astray for s in places[i]], Reason.STRAY_SLICE)] if astray else []
    flags = {"incomplete_series"} if astray else set()
    try:
        moments, left = _moments(kept)
        if left:
            rejected.append((left, Reason.INCOMPLETE_TIME_POINT))
            flags.add("incomplete_series")
        if len(kept) == 1 and len(moments.slices) > 1:
            return Stack(moments, None, frozenset(flags)), rejected
        grid = stack([s.plane for s in moments.slices[0]], allow_gaps=allow_gaps)
        _expect_still(moments, grid)
    except DicomProblem as problem:
        return None, [*rejected[: bool(astray)], ([s for members in kept for s in members], problem.reason)]
    ordered = tuple(tuple(row[i] for i in grid.order) for row in moments.slices)
    flags |= {"gantry_tilt"} if grid.is_tilted else set()
    flags |= {"gaps_resampled"} if grid.slices_mm else set()
    return Stack(Moments(ordered, moments.times, moments.flags), grid, frozenset(flags)), rejected


def groups(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Group items by a key; groups and their items keep the order of first appearance."""
    found: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return list(found.values())


def _encoding(one: Slice) -> tuple[Any, ...]:
    pixels = one.header.pixels
    layout = pixels.rows, pixels.columns, pixels.samples, pixels.bits_allocated, pixels.is_signed, pixels.photometric
    return *layout, one.frame.values.has_rescale, *one.header.acquisition.split, *one.frame.split


def _places(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Gather slices that lie at one depth, in order of depth, each place in the order of its slices' numbers."""
    depth = depths([s.plane for s in slices])
    order = sorted(range(len(slices)), key=lambda i: float(depth[i]))
    cuts = np.flatnonzero(np.diff(depth[order]) > SAME_PLACE_MM) + 1
    return [sorted((slices[i] for i in part), key=lambda s: s.rank) for part in np.split(np.array(order), cuts)]


def _moments(places: Sequence[Sequence[Slice]]) -> tuple[Moments, list[Slice]]:
    """Separate the slices of each place by time; the first tag that gives every moment the same places decides.

    Failing that, the tag that completes most moments, else the order of numbers.

    Returns:
        the complete moments, and the slices of incomplete ones.

    Raises:
        DicomProblem: nothing tells them apart.
    """
    if all(len(members) == 1 for members in places):
        return Moments((tuple(members[0] for members in places),)), []
    place = {id(one): i for i, members in enumerate(places) for one in members}
    slices = [one for members in places for one in members]
    found: list[tuple[Moments, list[Slice]]] = []
    for moments, left in chain(_by_tags(slices, place, len(places)), _by_number(slices, place, len(places))):
        if not left:
            return moments, left
        found.append((moments, left))
    if not found:
        raise DicomProblem(Reason.DUPLICATE_POSITION)
    return min(found, key=lambda candidate: len(candidate[1]))


def _by_tags(slices: list[Slice], place: dict[int, int], num: int) -> Iterator[tuple[Moments, list[Slice]]]:
    is_fluoroscopy = num == 1 and slices[0].header.acquisition.modality == "CT"  # many images of a needle, no volume
    for choice in () if is_fluoroscopy else CHOICES:
        if num == 1 and choice not in ((POSITION,), (TRIGGER,)):
            continue
        parts = groups(slices, lambda s, choice=choice: tuple(s.frame.phase[i] for i in choice))  # type: ignore[misc]
        occupied = [{place[id(s)] for s in part} for part in parts]
        if len(parts) < 2 or any(len(p) < len(part) for p, part in zip(occupied, parts, strict=True)):
            continue
        full = [sorted(p, key=lambda s: place[id(s)]) for p, at in zip(parts, occupied, strict=True) if len(at) == num]
        left = [s for part, at in zip(parts, occupied, strict=True) if len(at) < num for s in part]
        if full:
            yield _in_time(full, choice), left


def _in_time(parts: list[list[Slice]], choice: tuple[int, ...]) -> Moments:
    """Order complete moments by the numbers in their tags, then by those of their slices."""
    values = [[_number(part[0].frame.phase[i], i) for i in choice] for part in parts]
    if CLOCK in choice:
        _over_midnight(values, choice.index(CLOCK))
    order = sorted(range(len(parts)), key=lambda i: (values[i], min(s.rank for s in parts[i])))
    rows = tuple(tuple(parts[i]) for i in order)
    if len(rows) == 1:
        return Moments(rows)
    tag = next((n for n in range(len(choice)) if len({v[n] for v in values}) > 1), 0)
    times = [values[i][tag] for i in order]
    if choice[tag] == CLOCK:
        times = [round(t - times[0], 6) for t in times]
    are_numbers = all(map(math.isfinite, times))
    return Moments(rows, tuple(times) if are_numbers else None, frozenset({TIME_FLAGS[choice[tag]]}))


def _by_number(slices: list[Slice], place: dict[int, int], num: int) -> Iterator[tuple[Moments, list[Slice]]]:
    """Separate by InstanceNumber, where places recur in one order, moment by moment or place by place.

    Not in CT, where two reconstructions of one scan look the same.
    """
    ordered = sorted(slices, key=lambda s: s.rank)
    is_numbered = len({s.rank for s in slices}) == len(slices)
    if not is_numbered or num < 2 or slices[0].header.acquisition.modality == "CT":
        return
    at, times = [place[id(s)] for s in ordered], len(slices) // num
    if set(at[:num]) == set(range(num)) and all(at[i] == at[i % num] for i in range(len(at))):
        rows = [ordered[t * num : (t + 1) * num] for t in range(times)]
    elif len(slices) == times * num and all(at[i] == at[i - i % times] for i in range(len(at))):
        rows = [ordered[t::times] for t in range(times)]
    else:
        return
    placed = tuple(tuple(sorted(row, key=lambda s: place[id(s)])) for row in rows)
    flags = frozenset({BY_NUMBER}) if len(placed) > 1 else frozenset[str]()
    yield Moments(placed, None, flags), ordered[times * num :]


def _number(text: str, phase: int) -> float:
    """Return the first number of a tag; of a time of day the seconds."""
    first = text.split("\\")[0]
    if phase == CLOCK and (match := TIME_OF_DAY.match(first)):
        hours, minutes, seconds = map(float, match.groups())
        return hours * 3600 + minutes * 60 + seconds
    try:
        found = float(first)
    except ValueError:
        return math.inf
    return found if math.isfinite(found) else math.inf


def _over_midnight(values: list[list[float]], clock: int) -> None:
    """Move times after midnight behind those before it."""
    times = [v[clock] for v in values]
    if max(times) - min(times) > HALF_A_DAY_S:
        for value in values:
            value[clock] += 2 * HALF_A_DAY_S if value[clock] < HALF_A_DAY_S else 0.0


def _expect_still(moments: Moments, grid: Grid) -> None:
    """Every moment must lie where the first one lies, sideways too."""
    first, *others = (np.array([s.plane.position for s in row], float) for row in moments.slices)
    tolerance = max(SAME_PLACE_MM, 0.1 * min(grid.spacing_mm))
    if any(np.linalg.norm(other - first, axis=1).max() > tolerance for other in others):
        raise DicomProblem(Reason.BAD_GEOMETRY)
