"""Plugins by file name: ``medssl/methods/mae.py`` is the method ``mae``, imported when it is asked for."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from medssl.core.errors import StudyError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the closest known word, else the list of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


@dataclass(frozen=True)
class Plugins:
    """The plugins of one package; each module holds one concrete subclass of ``base`` from ``<package>.base``."""

    package: str
    base: str

    def names(self) -> list[str]:
        """Return the plugin names without importing any of them."""
        path = import_module(self.package).__path__
        return sorted(m.name for m in pkgutil.iter_modules(path) if m.name != "base" and not m.name.startswith("_"))

    def load(self, name: str) -> Any:
        """Return the plugin class called ``name``.

        Raises:
            StudyError: no such plugin; says which name is closest.
        """
        if name not in self.names():
            raise StudyError(f"unknown {self.base.lower()} {name!r}: {did_you_mean(name, self.names())}")
        module = import_module(f"{self.package}.{name}")
        base = getattr(import_module(f"{self.package}.base"), self.base)
        found = [
            c
            for c in vars(module).values()
            if isinstance(c, type) and issubclass(c, base) and c.__module__ == module.__name__
        ]
        (plugin,) = found
        return plugin
