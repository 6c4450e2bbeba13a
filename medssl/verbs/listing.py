"""``medssl methods | strategies | encoders``: what a study may name."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from medssl.core.plugins import Plugins
from medssl.methods.base import METHODS
from medssl.models.encoders.base import ENCODERS
from medssl.selection.strategies.base import STRATEGIES
from medssl.verbs.result import Result


def methods() -> Result:
    """List the self-supervised methods: family, what they need of an encoder, paper."""
    return _listing(METHODS, lambda m: {"family": m.family, "needs": _words(m.needs), "paper": m.paper})


def strategies() -> Result:
    """List the selection strategies: the signals they read, paper."""
    return _listing(STRATEGIES, lambda s: {"needs": _words(s.needs), "paper": s.paper})


def encoders() -> Result:
    """List the encoders: the dimensions they are made for and what a method may ask of them."""
    return _listing(ENCODERS, lambda e: {"dims": _words(f"{n}D" for n in e.dims), "provides": _words(e.provides)})


def _listing(plugins: Plugins, facts: Any) -> Result:
    rows = []
    for name in plugins.names():
        plugin = plugins.load(name)
        about = (plugin.__doc__ or "").strip().splitlines()[0]
        rows.append(
            {"name": name, **facts(plugin), "about": about, "settings": sorted(plugin.config_class.model_fields)}
        )
    table = Table(box=None, pad_edge=False)
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(", ".join(v) if isinstance(v, list) else str(v) for v in row.values()))
    return Result({plugins.base.lower(): rows}, (table,))


def _words(values: Any) -> str:
    return ", ".join(sorted(str(v) for v in values))
