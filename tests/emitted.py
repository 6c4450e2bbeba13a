"""The words that code writes into columns of the catalog, found in its source: none can be forgotten in a list."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType

import medssl
from medssl.pool.catalog import INSTANCES, VOLUMES

ROOMS = ("dicom", "ingest", "data")  # which fill catalogs
WORD = re.compile(r"[a-z]+(_[a-z0-9]+)*")


def emitted(name: str) -> set[str]:
    """Return the words that a variable, an argument or a field called ``name`` is given somewhere."""
    found: set[str] = set()
    root = Path(medssl.__file__).parent
    for path in sorted(path for room in ROOMS for path in (root / room).glob("*.py")):
        module = import_module(".".join(path.relative_to(root.parent).with_suffix("").parts))
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        meanings = {node.name: [node] for node in nodes if isinstance(node, ast.FunctionDef)}
        for node in nodes:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.IfExp | ast.Set | ast.Dict):
                meanings.setdefault(_called(node.targets[0]), []).append(node.value)
        for value in chain.from_iterable(_given(node, name, module) for node in nodes):
            named = {_called(node) for node in ast.walk(value) if isinstance(node, ast.Name)}
            for meant in (value, *(other for other in named for other in meanings.get(other, []))):
                found |= set(_words(meant, module))
    return found - VOLUMES.keys() - INSTANCES.keys()


def _given(node: ast.AST, name: str, module: ModuleType) -> Iterator[ast.AST]:
    """Yield what ``node`` gives to ``name``."""
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from [node.value] if name in map(_called, targets) and node.value is not None else []
    elif isinstance(node, ast.keyword):
        yield from [node.value] if node.arg == name else []
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and _called(node.func.value) == name:  # flags.add(…)
            yield from node.args
        made = getattr(module, _called(node.func), None)
        if isinstance(made, type) and is_dataclass(made):
            named = [field.name for field in fields(made)]
            yield from (value for field, value in zip(named, node.args, strict=False) if field == name)


def _called(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _words(value: ast.AST, module: ModuleType) -> Iterator[str]:
    """Yield the words in an expression or function and in the constants that it names."""
    if isinstance(value, ast.Compare) or (isinstance(value, ast.Call) and _called(value.func) == "col"):
        return  # what is compared, or names a column, is not written
    known = value.value if isinstance(value, ast.Constant) else None
    if isinstance(value, ast.Name):
        known = getattr(module, value.id, None)
    known = tuple(known.values()) if isinstance(known, dict) else known
    several = known if isinstance(known, tuple | frozenset) else (known,)
    yield from (word for word in several if type(word) is str and WORD.fullmatch(word))
    inside = [value.value] if isinstance(value, ast.Subscript) else ast.iter_child_nodes(value)
    for node in inside:
        yield from _words(node, module)
