"""The page on evaluation names every key of a study's ``evaluation:`` section, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from medssl.core.config import Config
from medssl.evaluation.config import EvaluationConfig

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
DEEPER = {"tuning", "curve.tuning"}  # settings of networks, described where they are


def keys(config: type[Config], prefix: str = "") -> set[str]:
    """Return dotted names, of a section within a section too."""
    found = set()
    for name, field in config.model_fields.items():
        kind = field.annotation
        inner = isinstance(kind, type) and issubclass(kind, Config) and f"{prefix}{name}" not in DEEPER
        found |= keys(kind, f"{name}.") if inner else {f"{prefix}{name}"}  # type: ignore[arg-type]
    return found


def test_the_table_of_keys_is_the_configuration() -> None:
    table = PAGE.read_text(encoding="utf-8").split("## Keys of `evaluation:`")[1].split("A task says")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {key for cell in first for key in re.findall(r"`([\w.]+)`", cell)}
    assert named - DEEPER == keys(EvaluationConfig) - DEEPER


def test_the_defaults_in_the_table_are_those_of_the_configuration() -> None:
    config = EvaluationConfig()
    rows = [row.split("|") for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
    told = {cells[1].strip().strip("`"): cells[2].strip() for cells in rows}
    assert float(told["gate.margin"]) == config.gate.margin
    assert float(told["gate.ceiling"]) == config.gate.ceiling
    assert int(told["bootstrap"]) == config.bootstrap
    assert told["level"] == f"`{config.level}`"
    assert told["gate.budget`, `gate.draws"] == f"{config.gate.budget}, {config.gate.draws}"
    pictures = config.pictures
    expected = f"{pictures.images}, {pictures.neighbours}, {pictures.points}"
    assert told["pictures.images`, `pictures.neighbours`, `pictures.points"] == expected
