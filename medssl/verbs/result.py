"""What a verb gives back: plain data for ``--json``, something to look at for people, an exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

OK, QUARANTINED, NO_GO = 0, 3, 4


@dataclass(frozen=True)
class Result:
    """``data`` is JSON-able; ``shown`` are rich renderables in reading order."""

    data: Mapping[str, Any]
    shown: tuple[RenderableType, ...]
    exit_code: int = OK
