"""The page of a pool: one HTML file that says what is in it, what became of every file, and what to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medssl.core.files import atomic
from medssl.pool.info import PoolInfo
from medssl.review import reasons
from medssl.review.contact_sheet import thumbnail
from medssl.review.html import data_uri, environment

COLUMNS = {
    "body_part": "Body parts",
    "scanner": "Scanners",
    "site": "Sites (pseudonyms)",
    "sequence": "Sequences",
    "view": "Views",
    "laterality": "Sides",
    "sex": "Sex",
    "axes": "Axes",
}
ORDER = ("stored", "quarantined", "duplicate", "excluded", "label", "non_image")
SIDE = 256  # pixels of the longer side of an example


@dataclass(frozen=True)
class Example:
    """A volume to show: its pseudonym, what it is, and a picture ``Y X`` or ``Y X C`` in [0, 1]."""

    volume: str
    role: str
    facts: str
    picture: NDArray[Any]


def pool_page(counted: PoolInfo, examples: Mapping[str, Sequence[Example]], out: Path, title: str) -> Path:
    """Write the page; pseudonyms only, nothing in it is fetched from outside.

    Args:
        counted: the pool in figures.
        examples: a few volumes of each modality.
        out: the file.
        title: of the page.
    """
    shown = {
        modality: [(one, data_uri(thumbnail(one.picture, SIDE))) for one in some] for modality, some in examples.items()
    }
    text = (
        environment()
        .get_template("pool.html.j2")
        .render(
            title=title,
            generated=datetime.now(UTC),
            pool=counted,
            outcomes=sorted(counted.outcomes, key=lambda o: (ORDER.index(o.outcome), -o.files, o.reason or "")),
            plain=reasons.plain,
            examples=shown,
            columns=COLUMNS,
            of_word=reasons.of_word,
            of_reason=reasons.of_reason,
        )
    )
    with atomic(out) as partial:
        partial.write_text(text, encoding="utf-8")
    return out
