"""Contact sheets of a worklist: one picture to glance at, one page for the people who label."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medssl.core.errors import MedsslError
from medssl.core.files import atomic
from medssl.review.html import data_uri, environment

TILE, GAP, CAPTION, FRAME = 160, 8, 28, 6  # pixels
INK, PAPER = "#1b2230", "white"
SIDE = 512  # pixels of the longer side on the page


@dataclass(frozen=True)
class Listed:
    """One study of a worklist; ``image`` is ``Y X`` or ``Y X C`` in [0, 1]."""

    rank: int
    study: str
    image: NDArray[Any]
    reason: str = ""
    score: float | None = None


def contact_sheet(
    images: Sequence[NDArray[Any]],
    captions: Sequence[str],
    out: Path,
    columns: int = 8,
    tile: int = TILE,
    frames: Sequence[str | None] | None = None,
) -> Path:
    """Write a PNG with one captioned tile an image, in reading order.

    Args:
        images: ``Y X`` or ``Y X C`` (3 channels) in [0, 1], of any size; each keeps its shape inside its tile.
        captions: one short line an image; a longer one is cut.
        out: the PNG file.
        columns: tiles a row.
        tile: its side in pixels.
        frames: a colour around each tile, None for none; never the only thing that tells tiles apart.

    Raises:
        MedsslError: no image, or not one caption each.
    """
    if not images or len(images) != len(captions):
        raise MedsslError(f"contact sheet: expected one caption an image, got {len(images)} and {len(captions)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = columns * (tile + GAP) + GAP, rows * (tile + CAPTION + GAP) + GAP
    coloured = frames is not None or any(image.ndim == 3 for image in images)
    sheet = Image.new("RGB" if coloured else "L", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for i, (image, caption, frame) in enumerate(zip(images, captions, frames or [None] * len(images), strict=True)):
        left, top = GAP + i % columns * (tile + GAP), GAP + i // columns * (tile + CAPTION + GAP)
        sheet.paste("black", (left, top, left + tile, top + tile))
        picture = _picture(image, tile)
        sheet.paste(picture, (left + (tile - picture.width) // 2, top + (tile - picture.height) // 2))
        if frame is not None:
            draw.rectangle((left, top, left + tile - 1, top + tile - 1), outline=frame, width=FRAME)
        while draw.textlength(caption, font) > tile:
            caption = caption.rstrip("…")[:-1] + "…"
        draw.text((left, top + tile + 3), caption, INK, font)
    with atomic(out) as partial:
        sheet.save(partial, "PNG")
    return out


def worklist_page(listed: Sequence[Listed], out: Path, title: str) -> Path:
    """Write a self-contained page with a card a study, for annotators who work from a browser or from paper."""
    cards = [(entry, data_uri(thumbnail(entry.image, SIDE))) for entry in listed]
    text = environment().get_template("worklist.html.j2").render(title=title, cards=cards)
    with atomic(out) as partial:
        partial.write_text(text, encoding="utf-8")
    return out


def preview(image: NDArray[Any], out: Path) -> Path:
    """Write one image (``Y X`` or ``Y X C`` in [0, 1]) as a PNG at its own resolution."""
    with atomic(out) as partial:
        _picture(image, max(image.shape[:2])).save(partial, "PNG")
    return out


def thumbnail(image: NDArray[Any], side: int) -> bytes:
    """Return one image (``Y X`` or ``Y X C`` in [0, 1]) as a PNG whose longer side has ``side`` pixels."""
    return _png(_picture(image, side))


def _picture(image: NDArray[Any], side: int) -> Image.Image:
    """Return ``image`` scaled so that its longer side is ``side`` pixels."""
    levels = np.nan_to_num(np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(levels)
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
