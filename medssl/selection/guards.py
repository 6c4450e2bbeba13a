"""Who may be picked: dev studies that are new, not blank and not a copy; every other dev study with its reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from medssl.core.errors import SelectionError
from medssl.core.types import Role


@dataclass(frozen=True)
class Exclusion:
    """A study that was not offered to the strategy, and why."""

    study: str
    reason: str


@dataclass(frozen=True)
class Candidates:
    """The studies that a strategy may pick, in order of id, and the dev studies that it may not."""

    studies: tuple[str, ...]
    excluded: tuple[Exclusion, ...]


@dataclass
class _Study:
    role: str
    digests: list[str] = field(default_factory=list)
    blank: bool = True


def candidates(
    studies: Sequence[str],
    roles: Sequence[str],
    digests: Sequence[str],
    blank: Sequence[bool],
    *,
    labelled: Collection[str] = (),
    offered: Collection[str] = (),
) -> Candidates:
    """Guard the ranking; the first four arguments have one entry a volume.

    Args:
        studies: study id.
        roles: ``dev``, ``val`` or ``test``; the last two are held out for measuring and never returned.
        digests: checksum of the voxels. Studies of equal sets of volumes are copies: one stays, preferably one that
            is held out, labelled or offered already, else the first by id.
        blank: whether all voxels have one value; a study is blank when all its volumes are.
        labelled: studies that carry a label of the task.
        offered: studies on the worklists of earlier rounds.

    Raises:
        SelectionError: lengths differ, or a study has two roles.
    """
    if len({len(studies), len(roles), len(digests), len(blank)}) > 1:
        lengths = f"{len(studies)} studies, {len(roles)} roles, {len(digests)} digests, {len(blank)} blank flags"
        raise SelectionError(f"one entry a volume is expected in each, got {lengths}")
    found: dict[str, _Study] = {}
    for study, role, digest, flat in zip(studies, roles, digests, blank, strict=True):
        entry = found.setdefault(str(study), _Study(str(role)))
        if entry.role != role:
            raise SelectionError(f"study {study} has the roles {entry.role} and {role}; it may have one only")
        entry.digests.append(str(digest))
        entry.blank = entry.blank and bool(flat)
    kept, excluded, original = [], [], _originals(found, {*labelled, *offered})
    for study in sorted(s for s, entry in found.items() if entry.role == Role.DEV):
        first = original[tuple(sorted(found[study].digests))]
        if study in labelled:
            excluded.append(Exclusion(study, "already labelled"))
        elif study in offered:
            excluded.append(Exclusion(study, "on the worklist of an earlier round"))
        elif found[study].blank:
            excluded.append(Exclusion(study, "blank: all voxels have one value"))
        elif first != study:
            excluded.append(Exclusion(study, f"same voxels as study {first} ({found[first].role})"))
        else:
            kept.append(study)
    return Candidates(tuple(kept), tuple(excluded))


def _originals(found: dict[str, _Study], known: set[str]) -> dict[tuple[str, ...], str]:
    """Return, for each set of voxels, the study that stays."""
    order = sorted(found, key=lambda s: (found[s].role == Role.DEV, s not in known, s))
    original: dict[tuple[str, ...], str] = {}
    for study in order:
        original.setdefault(tuple(sorted(found[study].digests)), study)
    return original
