"""Labels from a CSV: its key column, its tasks, and what each row names; errors give row numbers, never values."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from medssl.core.errors import LabelError
from medssl.dicom.deidentify import Pseudonyms
from medssl.ingest.table import complain, plain_name, read_table, spelled_path
from medssl.pool.catalog import LABELS
from medssl.pool.key import Key
from medssl.pool.pool import Pool

MAX_TEXT_VALUES = 64
# Finest first; the level is that of the labels made from such a column.
KEYS: dict[str, tuple[str, frozenset[str]]] = {
    "path": ("volume", frozenset({"path", "file", "filepath"})),
    "sop_uid": ("volume", frozenset({"sop", "sopuid", "sopinstanceuid"})),
    "volume": ("volume", frozenset({"volume"})),
    "series_uid": ("series", frozenset({"series", "seriesuid", "seriesinstanceuid"})),
    "study_uid": ("study", frozenset({"study", "studyuid", "studyinstanceuid"})),
    "patient_id": ("patient", frozenset({"patient", "patientid"})),
}


@dataclass(frozen=True)
class LabelRow:
    """One given label: ``number`` is the row of the file, the header being row 1."""

    number: int
    id: str
    task: str
    value: str


@dataclass(frozen=True)
class LabelFile:
    """A parsed CSV: its key column, the labels given in it, and how many cells were empty."""

    key: str
    level: str
    tasks: tuple[str, ...]
    rows: tuple[LabelRow, ...]
    num_empty: int

    @classmethod
    def read(cls, path: Path, tasks: Sequence[str] = ()) -> LabelFile:
        """Parse a CSV.

        Args:
            path: a CSV with a header; columns are parted by comma, semicolon or tab.
            tasks: ``NAME`` or ``NAME=COLUMN`` each; without any, the only column that is no key.

        Raises:
            LabelError: no such file or column, no key column, rows of uneven length, an empty key, or a text column of
                so many values that it looks like identifiers.
        """
        header, rows = read_table(path)
        key = next((k for k, (_, names) in KEYS.items() if any(plain_name(c) in names for c in header)), None)
        if key is None:
            raise LabelError(f"{path}: no key column, expected one of {', '.join(KEYS)}")
        level, names = KEYS[key]
        at = next(i for i, column in enumerate(header) if plain_name(column) in names)
        complain(path, "without a key", [number for number, row in rows if not row[at]])
        spell = spelled_path if key == "path" else str
        columns = _columns(path, header, tasks)
        given: list[LabelRow] = []
        for task, column in columns.items():
            found = [LabelRow(number, spell(row[at]), task, row[column]) for number, row in rows if row[column]]
            _expect_classes(path, header[column], {row.value for row in found})
            given += found
            values: dict[str, set[str]] = defaultdict(set)
            for row in found:
                values[row.id].add(row.value)
            complain(path, "that contradict each other", [r.number for r in found if len(values[r.id]) > 1])
        return cls(key, level, tuple(columns), tuple(given), len(rows) * len(columns) - len(given))

    def resolve(self, names: Mapping[str, frozenset[str]], seen: Iterable[str]) -> Resolved:
        """Turn the ids of the file into pseudonyms.

        Args:
            names: the pseudonyms that an id stands for (one, unless the id is ambiguous).
            seen: ids that are known but left nothing in the pool.

        Raises:
            LabelError: unknown or ambiguous ids, or two values for one thing.
        """
        known = set(seen)
        lost = [row for row in self.rows if row.id not in names]
        complain("labels", "that name nothing that was ingested", [r.number for r in lost if r.id not in known])
        found = [(row, names[row.id]) for row in self.rows if row.id in names]
        complain("labels", "whose key stands for several things", [r.number for r, ids in found if len(ids) > 1])
        values: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for row, ids in found:
            values[next(iter(ids)), row.task][row.value].append(row.number)
        clashes = sorted(
            n for given in values.values() if len(given) > 1 for numbers in given.values() for n in numbers
        )
        complain("labels", "that contradict each other", clashes)
        labels = tuple(
            Label(*name, value, tuple(numbers)) for name, given in values.items() for value, numbers in given.items()
        )
        return Resolved(self.level, labels, len(lost))


@dataclass(frozen=True)
class Label:
    """One label under a pseudonym, and the first rows that gave it."""

    id: str
    task: str
    value: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Resolved:
    """Labels under pseudonyms; ``num_not_stored`` rows named what was seen and not stored."""

    level: str
    labels: tuple[Label, ...]
    num_not_stored: int

    def table(self, pool: Pool, source: str, annotator: str) -> pl.DataFrame:
        """Return the rows to add to ``pool`` (schema ``LABELS``).

        Raises:
            LabelError: this annotator gave another value before.
        """
        mine = pool.catalog.labels.filter(pl.col("annotator") == annotator, pl.col("level") == self.level)
        before = {(id_, task): value for id_, task, value in mine.select("id", "task", "value").iter_rows()}
        clashes = [n for x in self.labels if before.get((x.id, x.task), x.value) != x.value for n in x.numbers]
        complain("labels", "that contradict labels in the pool", clashes)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [(x.id, self.level, x.task, x.value, source, annotator, now) for x in self.labels]
        return pl.DataFrame(sorted(rows), schema=LABELS, orient="row")


@dataclass(frozen=True)
class Answers:
    """Labels that came back from annotators (schema ``LABELS``), and how many cells are still empty."""

    labels: pl.DataFrame
    num_unanswered: int


def read_answers(path: Path, pool: Pool, key: Key, tasks: Sequence[str] = (), annotator: str = "reader") -> Answers:
    """Read labels for what is in ``pool`` already, keyed as for ingest or by the pseudonyms of a worklist.

    Raises:
        LabelError: as for ``LabelFile.read``; unknown ids; values that contradict each other or the pool.
    """
    file = LabelFile.read(path, tasks)
    volumes = pool.catalog.volumes
    given = {row.id for row in file.rows}
    names = {id_: frozenset({id_}) for id_ in given & set(volumes[file.level])}
    pseudonym = _pseudonym(file.key, Pseudonyms(key))
    column = {"path": "source_key", "sop_uid": "sop"}.get(file.key, file.level)
    table = pool.instances if file.key in ("path", "sop_uid") else volumes
    targets: dict[str, set[str]] = defaultdict(set)
    for name, target in table.select(column, pl.col(file.level).alias("target")).drop_nulls().iter_rows():
        targets[name].add(target)
    for id_ in given - names.keys():
        if found := targets.get(pseudonym(id_)):
            names[id_] = frozenset(found)
    resolved = file.resolve(names, seen=())
    return Answers(resolved.table(pool, "answers", annotator), file.num_empty)


def _pseudonym(key: str, pseudonyms: Pseudonyms) -> Callable[[str], str]:
    """Return how an original id becomes the pseudonym that the pool holds; a patient number without an issuer."""
    if key == "path":
        return pseudonyms.source
    if key == "patient_id":
        return lambda id_: pseudonyms.patient(id_, "", "")
    return lambda id_: pseudonyms.uid(key.removesuffix("_uid"), id_)


def _columns(path: Path, header: Sequence[str], tasks: Sequence[str]) -> dict[str, int]:
    """Return the column of each task."""
    keys = {name for _, names in KEYS.values() for name in names}
    candidates = [column for column in header if column and plain_name(column) not in keys]
    if not tasks and len(candidates) != 1:
        raise LabelError(
            f"{path}: which column is the task? name one with --task: {', '.join(candidates) or 'none left'}"
        )
    chosen = {t.partition("=")[0]: t.partition("=")[2] or t for t in tasks} or {candidates[0]: candidates[0]}
    for column in chosen.values():
        if column not in header:
            raise LabelError(f"{path}: no column {column!r}, expected one of {', '.join(candidates)}")
    return {task: header.index(column) for task, column in chosen.items()}


def _expect_classes(path: Path, column: str, values: set[str]) -> None:
    if len(values) > MAX_TEXT_VALUES and not all(re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", v, re.I) for v in values):
        raise LabelError(
            f"{path}: column {column!r} holds {len(values)} different texts, which look like identifiers; "
            f"expected {MAX_TEXT_VALUES} classes at most, or numbers"
        )
