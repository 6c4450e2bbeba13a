"""The worklist: what to label next, as a table to fill in (CSV) and as records for programs (JSONL)."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from medssl.core.errors import SelectionError
from medssl.core.files import atomic
from medssl.core.types import Role


@dataclass(frozen=True)
class Row:
    """One study to label; ``study`` is a pseudonym, ``preview`` a path beside the worklist."""

    rank: int
    study: str
    role: Role
    score: float | None  # None: drawn for the pilot
    reason: str
    stratum: str
    preview: str
    model: str  # fingerprint of the pretext model or encoder that ranked; empty where none did
    pool: str  # fingerprint
    seed: int


COLUMNS = tuple(f.name for f in fields(Row))


@dataclass(frozen=True)
class Worklist:
    """The rows of one round, for one task."""

    task: str
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        if self.task in (*COLUMNS, "task", "study_uid"):
            raise SelectionError(f"task {self.task!r} is the name of a worklist column; give the task another name")
        if not self.rows:
            raise SelectionError("a worklist without rows asks for nothing, expected at least one study")
        twice = len(self.rows) - len(set(self.studies))
        if twice:
            raise SelectionError(f"{twice} of {len(self.rows)} worklist rows repeat a study")

    @property
    def studies(self) -> tuple[str, ...]:
        """The pseudonyms, in order of rank."""
        return tuple(row.study for row in self.rows)

    def write(self, folder: Path, linkage: Mapping[str, str] | None = None) -> None:
        """Write ``worklist.csv``, with an empty column named for the task, and ``worklist.jsonl``.

        Args:
            folder: is created.
            linkage: original study UID of each pseudonym; adds the column ``study_uid``. Without it the files hold
                pseudonyms only.

        Raises:
            SelectionError: the linkage lacks a study.
        """
        absent = sum(linkage is not None and study not in linkage for study in self.studies)
        if absent:
            raise SelectionError(f"the linkage file lacks {absent} of {len(self.rows)} studies; is it of this pool?")
        records = [
            asdict(row) | ({"study_uid": linkage[row.study]} if linkage is not None else {}) for row in self.rows
        ]
        header = [*COLUMNS, *(["study_uid"] if linkage is not None else []), self.task]
        with atomic(folder / "worklist.csv") as partial, partial.open("w", encoding="utf-8", newline="") as handle:
            table = csv.DictWriter(handle, header, restval="")
            table.writeheader()
            table.writerows(records)
        with atomic(folder / "worklist.jsonl") as partial:
            lines = [json.dumps({"task": self.task} | record, sort_keys=True) + "\n" for record in records]
            partial.write_text("".join(lines), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Worklist:
        """Read ``worklist.jsonl`` back."""
        records = [json.loads(line) for line in (folder / "worklist.jsonl").read_text(encoding="utf-8").splitlines()]
        rows = [Row(**{name: r[name] for name in COLUMNS} | {"role": Role(r["role"])}) for r in records]
        return cls(records[0]["task"], tuple(rows))
