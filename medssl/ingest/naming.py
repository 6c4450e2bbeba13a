"""From the ids that a person knows (paths, UIDs, patient numbers) to the pseudonyms of a pool."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medssl.core.errors import LabelError
from medssl.dicom.deidentify import Pseudonyms
from medssl.dicom.fields import words_of
from medssl.ingest.index import Entry
from medssl.ingest.labels import LabelFile


@dataclass(frozen=True)
class Names:
    """The pseudonyms that each id stands for, and the ids that were seen without leaving a volume."""

    names: dict[str, frozenset[str]]
    seen: frozenset[str]


def names_of(
    labels: LabelFile,
    entries: Iterable[Entry],
    volumes: Mapping[str, str | None],
    stored: frozenset[str],
    pseudonyms: Pseudonyms,
) -> Names:
    """Return what the ids in the key column of ``labels`` stand for.

    Args:
        labels: says which kind of id is the key.
        entries: every file of the sources, new or known.
        volumes: the volume that each source key went into.
        stored: the pseudonyms of the key's level that have a volume.
        pseudonyms: names the ids.
    """
    found: dict[str, set[str]] = defaultdict(set)
    seen: set[str] = set()
    for entry in entries:
        for id_ in _ids(entry, labels.key):
            seen.add(id_)
            name = volumes.get(entry.source_key) if labels.level == "volume" else _name(entry, labels.key, pseudonyms)
            if name is not None and name in stored:
                found[id_].add(name)
    return Names({id_: frozenset(names) for id_, names in found.items()}, frozenset(seen - found.keys()))


def expect_anonymous(labels: LabelFile, entries: Iterable[Entry]) -> None:
    """Refuse label values that name a patient.

    Raises:
        LabelError: a value is the number or the name of a patient in the sources.
    """
    numbers = {e.ids.patient_id.casefold() for e in entries if e.ids and len(e.ids.patient_id) > 2}
    names = {e.ids.name for e in entries if e.ids and e.ids.name}
    for task in labels.tasks:
        values = {row.value for row in labels.rows if row.task == task}
        if any(value.casefold() in numbers or words_of(value) in names for value in values):
            raise LabelError(f"labels: column of task {task!r} holds numbers or names of patients, expected classes")


def _ids(entry: Entry, key: str) -> list[str]:
    if key == "path":
        return [entry.file.relative, entry.file.below]
    found = getattr(entry.ids, key, "") if entry.ids else ""
    return [found] if found else []


def _name(entry: Entry, key: str, pseudonyms: Pseudonyms) -> str | None:
    if entry.ids is None:
        return None
    if key == "patient_id":
        return pseudonyms.patient(entry.ids.patient_id, entry.ids.issuer, entry.ids.study_uid)
    return pseudonyms.uid(key.removesuffix("_uid"), getattr(entry.ids, key))
