"""Which slices of a series belong together: duplicates found, then volumes split apart, then time points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from medssl.dicom.decode import Decoded
from medssl.dicom.geometry import depths, is_located, is_parallel
from medssl.dicom.header import PHASES, Header
from medssl.dicom.reasons import Reason

T = TypeVar("T")


@dataclass(frozen=True)
class Slice:
    """A decoded slice; ``digest`` is a hash of its voxels."""

    source_key: str
    header: Header
    decoded: Decoded
    digest: str

    @property
    def place(self) -> tuple[float, ...]:
        """Position and orientation, rounded to be compared."""
        plane = self.header.plane
        return tuple(np.round([*(plane.position or ()), *(plane.orientation or ())], 3) + 0.0)


@dataclass(frozen=True)
class Sifted:
    """Slices to stack, slices that copy another one of them, and those that contradict each other."""

    kept: list[Slice]
    copies: list[tuple[Slice, Slice]]  # copy, original
    conflicting: list[Slice]
    reuses_uid: bool  # one SOP UID at several places


def sift(slices: Sequence[Slice]) -> Sifted:
    """Find copies (same voxels, place and tags, whatever the UID) and UIDs that stand for different voxels."""
    conflicting = []
    for same_uid in groups(slices, lambda s: (s.header.ids.sop_uid, s.place)):
        if len({s.digest for s in same_uid}) > 1:
            conflicting += same_uid
    bad = {s.source_key for s in conflicting}
    kept, copies = [], []
    for equal in groups((s for s in slices if s.source_key not in bad), lambda s: (s.digest, s.place, *_tags(s))):
        kept.append(equal[0])
        copies += [(copy, equal[0]) for copy in equal[1:]]
    places = {(s.header.ids.sop_uid, s.place) for s in kept}
    reuses_uid = len({uid for uid, _ in places}) < len(places)
    return Sifted(kept, copies, conflicting, reuses_uid)


def split(slices: Sequence[Slice]) -> tuple[list[list[Slice]], list[Slice]]:
    """Separate slices by matrix, encoding, orientation, spacing, series number, image type and echo.

    Returns:
        the groups, and the slices that lack a usable geometry.
    """
    located = [s for s in slices if is_located(s.header.plane)]
    found: list[list[Slice]] = []
    for alike in groups(located, _encoding):
        parallel: list[list[Slice]] = []
        for one in alike:
            home = next((p for p in parallel if is_parallel(p[0].header.plane, one.header.plane)), None)
            if home is None:
                parallel.append([one])
            else:
                home.append(one)
        found += parallel
    return found, [s for s in slices if not is_located(s.header.plane)]


def time_points(slices: list[Slice]) -> list[list[Slice]] | Reason:
    """Separate parallel slices that share places into volumes of one slice a place.

    The first tag, or set of tags, that gives every volume the same two or more places decides; without one they
    cannot be told apart.
    """
    rounded = np.round(depths([s.header.plane for s in slices]), 2) + 0.0
    place = {one.source_key: float(depth) for one, depth in zip(slices, rounded, strict=True)}
    if len(set(place.values())) == len(slices):
        return [slices]
    choices = [(i,) for i in range(len(PHASES))] + [tuple(range(i + 1)) for i in range(1, len(PHASES))]
    for choice in choices:
        parts = groups(slices, partial(_phase, choice))
        places = {tuple(sorted(place[one.source_key] for one in part)) for part in parts}
        shared = next(iter(places))
        if len(places) == 1 and len(shared) > 1 and len(set(shared)) == len(shared):
            return parts
    return Reason.DUPLICATE_POSITION


def groups(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Group items by a key; groups and their items keep the order of first appearance."""
    found: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return list(found.values())


def _phase(choice: tuple[int, ...], one: Slice) -> tuple[str, ...]:
    return tuple(one.header.acquisition.phase[i] for i in choice)


def _encoding(one: Slice) -> tuple[Any, ...]:
    array, seen = one.decoded.array, one.header.acquisition
    return array.shape, array.dtype.str, one.header.pixels.photometric, *seen.split


def _tags(one: Slice) -> tuple[Any, ...]:
    return *_encoding(one), *one.header.acquisition.phase
