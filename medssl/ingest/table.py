"""Tables that people write: CSV with a header row; errors give row numbers, never values."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from medssl.core.errors import LabelError

SHOWN_ROWS = 5


def read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header of a CSV and its rows with their numbers, the header being row 1.

    Columns are parted by comma, semicolon or tab; blank rows are left out.

    Raises:
        LabelError: no such file, not UTF-8, no header, or rows of uneven length.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot be read ({type(error).__name__}), expected a CSV in UTF-8") from None
    first = text.partition("\n")[0]
    rows = list(csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count)))
    if not rows:
        raise LabelError(f"{path}: empty, expected a CSV with a header")
    header = [cell.strip() for cell in rows[0]]
    numbered = [
        (n, [cell.strip() for cell in row]) for n, row in enumerate(rows[1:], start=2) if any(map(str.strip, row))
    ]
    complain(path, f"without exactly {len(header)} cells", [n for n, row in numbered if len(row) != len(header)])
    return header, numbered


def spelled_path(text: str) -> str:
    """Spell a path as the sources do."""
    return unicodedata.normalize("NFC", text.replace("\\", "/").removeprefix("./"))


def plain_name(name: str) -> str:
    """Return a column name in small letters without spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def complain(where: object, what: str, numbers: Sequence[int]) -> None:
    """Refuse a table because of these rows, if there are any.

    Raises:
        LabelError: there are.
    """
    if numbers:
        shown = sorted(set(numbers))
        more = f" and {len(shown) - SHOWN_ROWS} more" if len(shown) > SHOWN_ROWS else ""
        rows = ", ".join(map(str, shown[:SHOWN_ROWS]))
        raise LabelError(f"{where}: rows {what}: {rows}{more}; nothing was imported")
