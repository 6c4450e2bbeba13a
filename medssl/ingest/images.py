"""The table that makes raster images part of a pool: a CSV that names each and says whose it is and what it shows.

Columns: ``path`` (below the source), and of these as many as are known: ``patient``, ``study``, ``modality``,
``body_part``, ``view``, ``laterality``, ``sex`` (DICOM's words), ``age`` (years), ``spacing_mm`` (of the upright image:
one number, or rows and columns as ``0.2x0.1``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.core.errors import LabelError
from medssl.dicom import vocabulary
from medssl.ingest.table import complain, plain_name, read_table, spelled_path

MAX_AGE_YEARS = 130


@dataclass(frozen=True, slots=True)
class About:
    """What a row says of an image; ``patient`` and ``study`` are blank where it does not say."""

    patient: str = ""
    study: str = ""
    modality: str | None = None
    body_part: str | None = None
    view: str | None = None
    laterality: str | None = None
    sex: str | None = None
    age: float | None = None
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class ImageTable:
    """The rows of such a table by path, each with its number; the header is row 1."""

    path: Path
    rows: Mapping[str, tuple[int, About]]

    @classmethod
    def read(cls, path: Path) -> ImageTable:
        """Parse a CSV.

        Raises:
            LabelError: no such file; a column that is not known, or is there twice; rows without a path, or with one
                that an earlier row has; a cell that is not of its vocabulary, or no number.
        """
        header, rows = read_table(path)
        columns = [plain_name(name) for name in header]
        known = {plain_name(name): name for name in ("path", *CELLS)}
        strange = [str(i) for i, name in enumerate(columns, start=1) if name not in known]
        if strange or len(set(columns)) < len(columns) or "path" not in columns:
            what = f"column {', '.join(strange)} is unknown" if strange else "a column is missing or there twice"
            raise LabelError(f"{path}: {what}; expected path, and of these any: {', '.join(CELLS)}")
        names = [known[name] for name in columns]
        cells = [(number, dict(zip(names, row, strict=True))) for number, row in rows]
        complain(path, "without a path", [number for number, row in cells if not row["path"]])
        found: dict[str, tuple[int, About]] = {}
        twice = []
        for number, row in cells:
            name = spelled_path(row.pop("path"))
            if name in found:
                twice.append(number)
            found[name] = number, About()
        complain(path, "that name an image again", twice)
        for column, (read, expected) in CELLS.items():
            wrong = [number for number, row in cells if row.get(column) and read(row[column]) is None]
            complain(path, f"whose {column} is not {expected}", wrong)
        about = [About(**{c: CELLS[c][0](text) for c, text in row.items() if text}) for _, row in cells]
        return cls(path, {name: (found[name][0], one) for name, one in zip(found, about, strict=True)})


def _word(words: frozenset[str]) -> tuple[Callable[[str], str | None], str]:
    return lambda text: vocabulary.known(text, words), f"one of {', '.join(sorted(words)[:40])}"


def _age(text: str) -> float | None:
    years = _number(text)
    return years if years is not None and 0 <= years < MAX_AGE_YEARS else None


def _spacing(text: str) -> tuple[float, float] | None:
    found = [_number(part) for part in re.split(r"\s*[x×]\s*|\s+", text.strip())]
    if not 1 <= len(found) <= 2 or any(one is None or one <= 0 for one in found):
        return None
    rows, columns = (found * 2)[:2]
    return (rows, columns) if rows is not None and columns is not None else None


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


CELLS: dict[str, tuple[Callable[[str], Any], str]] = {
    "patient": (str, "text"),
    "study": (str, "text"),
    "modality": _word(vocabulary.MODALITIES),
    "body_part": _word(vocabulary.BODY_PARTS),
    "view": _word(vocabulary.VIEWS),
    "laterality": _word(vocabulary.LATERALITIES),
    "sex": _word(vocabulary.SEXES),
    "age": (_age, f"a number of years below {MAX_AGE_YEARS}"),
    "spacing_mm": (_spacing, "one or two lengths in mm, such as 0.2x0.1"),
}
