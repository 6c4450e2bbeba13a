"""What every page of this room is rendered by: templates that escape, words, and pictures that lie in the page."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medssl.review import words


def environment() -> Environment:
    """Return the templates of this room, escaping every value and refusing unknown names."""
    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.globals["image"] = data_uri
    made.tests["explained"] = lambda system: bool(words.meaning(system))
    made.filters |= {
        "system": words.system_name,
        "meaning": words.meaning,
        "reading": words.reading,
        "signed": words.signed,
        "name": words.name,
        "sentence": words.sentence,
        "kind": words.kind_name,
        "picture": words.picture_name,
        "interval": words.interval,
        "number": words.number,
        "when": words.when,
        "duration": words.duration,
    }
    return made


def data_uri(png: Path | bytes) -> str:
    """Return a PNG file, or its bytes, as an inline image address."""
    content = png if isinstance(png, bytes) else png.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
