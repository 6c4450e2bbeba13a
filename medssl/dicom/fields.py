"""Forgiving access to the values of a data set: an absent or undecodable value is absent, never an exception."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

from medssl.dicom.reasons import DicomProblem, Reason


class Fields:
    """The values of ``dataset`` by keyword."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def get(self, keyword: str) -> Any:
        """Return the value, or None."""
        tag = _tag(keyword)
        try:
            value = self.dataset[tag].value if tag in self.dataset else None
        except Exception:  # a value that its VR does not allow; pydicom raises nearly anything
            return None
        return None if value == "" else value

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return all values as text without padding."""
        value = self.get(keyword)
        many = value if isinstance(value, MultiValue | list | tuple) else [value]
        return tuple(str(v).strip(" \0") for v in many if v is not None)

    def text(self, keyword: str) -> str:
        """Return the first value as text without padding; empty where there is none."""
        return next(iter(self.texts(keyword)), "")

    def numbers(self, keyword: str, num: int) -> tuple[float, ...] | None:
        """Return the first ``num`` values as finite numbers, or None."""
        try:
            found = tuple(float(text) for text in self.texts(keyword)[:num])
        except ValueError:
            return None
        return found if len(found) == num and all(map(math.isfinite, found)) else None

    def number(self, keyword: str) -> float | None:
        """Return the first value as a finite number, or None."""
        found = self.numbers(keyword, 1)
        return found[0] if found else None

    def integer(self, keyword: str, default: int | None = None) -> int:
        """Return an integer.

        Raises:
            DicomProblem: not an integer, or absent without a default.
        """
        if default is not None and not self.texts(keyword):
            return default
        found = self.number(keyword)
        if found is None or found != int(found):
            raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
        return int(found)

    def shorts(self, keyword: str, *, signed: bool) -> tuple[int, ...]:
        """Return 16-bit values whose VR depends on the pixels (US or SS), whatever VR the writer chose."""
        value = self.get(keyword)
        if isinstance(value, bytes):  # implicit VR, which is little endian, leaves the choice open
            values = [int.from_bytes(value[i : i + 2], "little") for i in range(0, len(value) - 1, 2)]
        else:
            values = [int(t) for t in self.texts(keyword) if re.fullmatch(r"-?\d+", t)]
        wrapped = [v & 0xFFFF if -0x8000 <= v <= 0xFFFF else v for v in values]
        return tuple(v - 0x10000 if signed and 0x8000 <= v <= 0xFFFF else v for v in wrapped)


@cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def words_of(*texts: str) -> frozenset[str]:
    """Return the casefolded words of texts: runs of three or more letters and digits."""
    return frozenset(word for text in texts for word in re.findall(r"[^\W_]{3,}", text.casefold()))
