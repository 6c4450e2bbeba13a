"""Strict configuration: unknown keys are errors, and errors are rewritten for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self, get_args

from annotated_types import Ge, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from medssl.core.errors import StudyError
from medssl.core.plugins import did_you_mean


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if not span[0] <= span[1]:
        raise ValueError("two fractions in order")
    return span


Fraction = Annotated[float, Ge(0), Le(1)]
Span = Annotated[tuple[Fraction, Fraction], AfterValidator(_ordered)]


class Config(BaseModel):
    """Base of every configuration: frozen, strict about names, serialisable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def parse(cls, data: Any, where: str = "") -> Self:
        """Validate ``data``; ``where`` is the dotted place of this section in the study.

        Raises:
            StudyError: one line that names the key, its value and what would be right.
        """
        if data is not None and not isinstance(data, Mapping):
            raise StudyError(f"{where or 'study'}: expected keys and values, got {data!r}")
        try:
            return cls.model_validate(data or {})
        except ValidationError as error:
            raise StudyError(_one_line(cls, error, where)) from None

    def data(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return self.model_dump(mode="json")


def fingerprint(*parts: Any) -> str:
    """Return 12 hex digits that change with any of ``parts`` (JSON-able)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _one_line(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first, *rest = error.errors(include_url=False)
    key = ".".join([where, *map(str, first["loc"])]).strip(".")
    if first["type"] == "extra_forbidden":
        siblings = _fields_at(model, first["loc"][:-1])
        text = f"unknown key {key!r}: {did_you_mean(str(first['loc'][-1]), siblings)}"
    elif first["type"] == "missing":
        text = f"missing key {key!r}"
    else:
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        text = f"{key or 'study'}: {first['input']!r} is not right, expected {message}"
    return text + (f" (and {len(rest)} more)" if rest else "")


def _is_optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def _values_of(annotation: Any) -> Any:
    return next((t for t in get_args(annotation) if hasattr(t, "model_fields")), None)


def _fields_at(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    here: Any = model
    for part in loc:
        fields = getattr(here, "model_fields", None)
        here = fields[part].annotation if fields and part in fields else _values_of(here)
        here = next((t for t in get_args(here) if hasattr(t, "model_fields")), here) if _is_optional(here) else here
    return list(getattr(here, "model_fields", {}))
