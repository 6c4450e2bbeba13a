"""The pilot: random val and test studies to label for measuring; never trained on, never ranked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from medssl.core.errors import SelectionError
from medssl.core.keys import hash_words
from medssl.core.types import Role


@dataclass(frozen=True)
class PilotStudy:
    """One study of the pilot."""

    study: str
    role: Role


def pilot(
    studies: Sequence[str],
    roles: Sequence[str],
    *,
    sizes: Mapping[Role, int],
    seed: int,
    known: Collection[str] = (),
) -> tuple[PilotStudy, ...]:
    """Draw the pilot: of each role the studies with the smallest keyed hash, so that a growing pool disturbs no draw.

    Args:
        studies: study id; may repeat (one entry a volume).
        roles: of each entry.
        sizes: studies to draw of ``val`` and of ``test``; all there are where there are fewer.
        seed: another seed draws another pilot.
        known: studies that are labelled or were offered before; not drawn.

    Raises:
        SelectionError: dev studies are asked for, or a study has two roles.
    """
    if Role.DEV in sizes:
        raise SelectionError("a pilot measures, so it holds val and test studies only; dev was asked for")
    role_of: dict[str, str] = {}
    for study, role in zip(studies, roles, strict=True):
        if role_of.setdefault(str(study), str(role)) != role:
            raise SelectionError(f"study {study} has the roles {role_of[str(study)]} and {role}; it may have one only")
    drawn = []
    for role, size in sorted(sizes.items(), reverse=True):  # val before test
        there = [s for s, r in role_of.items() if r == role and s not in known]
        there.sort(key=lambda s: (hash_words("pilot", seed, s), s))
        drawn += [PilotStudy(s, role) for s in there[: max(size, 0)]]
    return tuple(drawn)
