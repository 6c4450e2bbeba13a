"""Forgiving access to the values of elements: an absent or undecodable value is absent, never an exception."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from typing import TypeVar, TypeVarTuple

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword

from medssl.dicom.elements import Found
from medssl.dicom.reasons import DicomProblem, Reason

BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d", "AT": "HH", "UV": "Q", "SV": "q"}
IN_ANY_SCRIPT = frozenset({"LO", "PN", "SH", "LT", "ST", "UC", "UT"})
DELIMITERS = {0x0D, 0x0A, 0x09, 0x0C, ord("\\"), ord("^"), ord("=")}
CHARACTER_SET = 0x00080005
PRIVATE = {  # which vendors put where; names of ours
    "SiemensBlock": (0x00190010, "LO"),
    "SiemensTiles": (0x0019100A, "US"),
    "SiemensBValue": (0x0019100C, "IS"),
    "SiemensGradient": (0x0019100E, "FD"),
    "SiemensNormal": (0x00191027, "FD"),
    "SiemensCSA": (0x00291010, "OB"),
    "GEBValue": (0x00431039, "IS"),
    "GEGradientX": (0x001910BB, "DS"),
    "GEGradientY": (0x001910BC, "DS"),
    "GEGradientZ": (0x001910BD, "DS"),
    "PhilipsBValue": (0x20011003, "FL"),
    "PhilipsGradient": (0x20011004, "CS"),
}

T = TypeVar("T")
Rest = TypeVarTuple("Rest")


class Fields:
    """The values of elements by keyword, looked up in the first of ``layers`` that has them.

    Attributes:
        replaced: whether some text had bytes that its character set does not know.
    """

    def __init__(self, *layers: Found, little: bool = True, charset: Fields | None = None) -> None:
        self.layers, self.little, self.replaced = layers, little, False
        self._charset = charset

    def inside(self, *layers: Found) -> Fields:
        """Return the fields of an item: its own before these."""
        return Fields(*layers, *self.layers, little=self.little, charset=self._charset or self)

    def only(self, *layers: Found) -> Fields:
        """Return the fields of an item alone."""
        return Fields(*layers, little=self.little, charset=self._charset or self)

    def raw(self, keyword: str) -> tuple[str, bytes]:
        """Return VR and value; blank where there is none."""
        tag, vr = tag_of(keyword)
        for layer in self.layers:
            if tag in layer and layer[tag][1]:
                named, value = layer[tag]
                return (named.decode() if named not in (b"", b"UN") else vr), value
        return vr, b""

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return all values as text without padding."""
        vr, value = self.raw(keyword)
        if not value:
            return ()
        if vr in BINARY:
            return tuple(map(str, self._binary(vr, value)))
        return _plain(value) or tuple(part.strip(" \0") for part in self._decoded(vr, value).split("\\"))

    def text(self, keyword: str) -> str:
        """Return the first value as text without padding; empty where there is none."""
        found = self.texts(keyword)
        return found[0] if found else ""

    def numbers(self, keyword: str, num: int | None = None) -> tuple[float, ...] | None:
        """Return the first ``num`` values (all, if None) as finite numbers, or None."""
        vr, value = self.raw(keyword)
        return _numbers(value, num, (vr, self.little) if vr in BINARY else None) if value else None

    def number(self, keyword: str) -> float | None:
        """Return the first value as a finite number, or None."""
        found = self.numbers(keyword, 1)
        return found[0] if found else None

    def integer(self, keyword: str, default: int | None = None) -> int:
        """Return an integer.

        Raises:
            DicomProblem: not an integer, or absent without a default.
        """
        if default is not None and not self.text(keyword):
            return default
        found = self.number(keyword)
        if found is None or found != int(found):
            raise DicomProblem(Reason.BAD_PIXEL_FORMAT)
        return int(found)

    def shorts(self, keyword: str, *, signed: bool) -> tuple[int, ...]:
        """Return 16-bit values whose VR depends on the pixels (US or SS), whatever VR the writer chose."""
        vr, value = self.raw(keyword)
        if vr in ("DS", "IS"):
            values: tuple[float, ...] = tuple(int(t) for t in self.texts(keyword) if re.fullmatch(r"-?\d{1,6}", t))
        else:
            values = self._binary(vr if vr in BINARY else "US", value)
        wrapped = [int(v) & 0xFFFF for v in values if -0x8000 <= v <= 0xFFFF]
        return tuple(v - 0x10000 if signed and v >= 0x8000 else v for v in wrapped)

    def _binary(self, vr: str, value: bytes) -> tuple[float, ...]:
        return _unpacked(value, vr, little=self.little)

    def _decoded(self, vr: str, value: bytes) -> str:
        if vr not in IN_ANY_SCRIPT:
            return value.decode("latin-1")
        try:
            text = decode_bytes(value, (self._charset or self).encodings, DELIMITERS)
        except Exception:  # a character set that contradicts itself
            text = value.decode("ascii", "replace")
        self.replaced |= "\ufffd" in text
        return text

    @cached_property
    def encodings(self) -> list[str]:
        """The Python names of the character sets of this data set; of unknown ones, the default."""
        named = next((layer[CHARACTER_SET][1] for layer in self.layers if CHARACTER_SET in layer), b"")
        return convert_encodings([part.strip(" \0") for part in named.decode("latin-1").split("\\")])


def _remembered(read: Callable[[bytes, *Rest], T]) -> Callable[[bytes, *Rest], T]:
    """Look up what short values mean: the files of a series share most of theirs."""
    known = lru_cache(1024)(read)
    return lambda value, *rest: known(value, *rest) if len(value) <= 256 else read(value, *rest)


@_remembered
def _plain(value: bytes) -> tuple[str, ...]:
    """Return the values of an ASCII text, nothing where it needs a character set."""
    if not value.isascii() or b"\x1b" in value:
        return ()
    return tuple([part.strip(" \0") for part in value.decode("ascii").split("\\")])


@_remembered
def _numbers(value: bytes, num: int | None, binary: tuple[str, bool] | None) -> tuple[float, ...] | None:
    try:
        if binary is not None:
            found = tuple(map(float, _unpacked(value, binary[0], little=binary[1])[:num]))
        else:
            found = tuple(map(float, value.strip(b" \0").split(b"\\")[:num]))
    except ValueError:
        return None
    is_whole = len(found) == (num or len(found)) > 0
    return found if is_whole and all(map(math.isfinite, found)) else None


def _unpacked(value: bytes, vr: str, *, little: bool) -> tuple[float, ...]:
    size = struct.calcsize("<" + BINARY[vr])
    num = len(value) // size
    return struct.unpack(("<" if little else ">") + BINARY[vr] * num, value[: num * size])


@cache
def tag_of(keyword: str) -> tuple[int, str]:
    """Return tag and VR of a keyword; where the standard leaves the VR open, the first.

    Raises:
        KeyError: there is no such keyword.
    """
    if keyword in PRIVATE:
        return PRIVATE[keyword]
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag, dictionary_VR(tag)[:2]


def words_of(*texts: str) -> frozenset[str]:
    """Return the casefolded words of texts: runs of three or more letters and digits."""
    return frozenset(word for text in texts for word in re.findall(r"[^\W_]{3,}", text.casefold()))
