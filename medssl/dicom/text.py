"""Finding text in pixels, offline: rows of thin, evenly tall, evenly bright strokes; no model, no download.

It is a help for the operator and no proof: what it finds and misses is measured in docs/deidentification.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601
MOST_PIXELS = 2048  # a side
STROKE = 11  # pixels; strokes are thinner
MIN_CONTRAST = 50  # of the 255 levels between the darkest and the lightest part of the image
LEVELS = (0, 110, 190)  # strokes are looked for above each, so that bright ones stand alone in a bright speckle
MIN_HEIGHT, MAX_HEIGHT = 5, 80  # pixels of a glyph
MIN_GLYPHS = 3  # a row of fewer is a marker of a side, a ruler's tick, or chance
MOST_GLYPHS = 6000  # of an image; one with more is noise
MIN_SHARPNESS = 0.45  # the step at the edge of a stroke, of its contrast; anatomy fades over several pixels
LEVELS_APART = 0.25  # of the contrast, between the glyphs of one row


@dataclass(frozen=True)
class _Glyphs:
    """Connected strokes: where each begins and ends (``N``), and how bright it is."""

    top: NDArray[Any]
    bottom: NDArray[Any]
    left: NDArray[Any]
    right: NDArray[Any]
    level: NDArray[Any]
    contrast: NDArray[Any]
    step: NDArray[Any]  # the steepest one to a neighbouring pixel

    @property
    def height(self) -> NDArray[Any]:
        height: NDArray[Any] = self.bottom - self.top
        return height

    @property
    def width(self) -> NDArray[Any]:
        width: NDArray[Any] = self.right - self.left
        return width

    def only(self, keep: NDArray[Any]) -> _Glyphs:
        return _Glyphs(*(value[keep] for value in vars(self).values()))


def find_text(image: NDArray[Any], most_pixels: int = MOST_PIXELS) -> list[tuple[slice, slice]]:
    """Return the boxes (rows, columns) that rows of text fill in ``image``, ``Y X`` or ``Y X 3``.

    Light on dark and dark on light; horizontal; three glyphs or more. An image with more than ``most_pixels`` a side is
    looked at smaller, strokes kept, so that letters must be larger.
    """
    factor = -(-max(image.shape[:2]) // most_pixels)
    sample = _grey(image[:: -(-image.shape[0] // 512), :: -(-image.shape[1] // 512)])
    low, high = np.percentile(sample, [0.5, 99.5])
    if not high > low:
        low, high = float(image.min()), float(image.max())
    if not high > low:
        return []
    scale = np.float32(255 / (high - low))
    found = []
    for extreme in (np.maximum, np.minimum):
        grey = _grey(_reduced(image, factor, extreme))
        levels = (np.clip(grey - np.float32(low), 0, np.float32(high - low)) * scale).astype(np.uint8)
        found += _rows(levels if extreme is np.maximum else 255 - levels)
    return [_enlarged(box, factor, image.shape) for box in found]


def _grey(image: NDArray[Any]) -> NDArray[np.float32]:
    grey: NDArray[np.float32] = image.astype(np.float32)
    return grey @ np.array(LUMA, np.float32) if image.ndim == 3 else grey


def _reduced(image: NDArray[Any], factor: int, extreme: np.ufunc) -> NDArray[Any]:
    """Return the brightest, or the darkest, of each block of pixels, so that a thin stroke stays."""
    height, width = (size // factor * factor for size in image.shape[:2])
    reduced = image[:height:factor, :width:factor]
    for y in range(factor):
        for x in range(factor):
            reduced = extreme(reduced, image[y:height:factor, x:width:factor])
    return reduced


def _enlarged(box: NDArray[Any], factor: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return a box in the pixels of the image, with a margin for what the strokes leave around them."""
    top, bottom, left, right = (int(value) * factor for value in box)
    margin = max(2, (bottom - top) // 3)
    return (
        slice(max(0, top - margin), min(shape[0], bottom + margin)),
        slice(max(0, left - 2 * margin), min(shape[1], right + 2 * margin)),
    )


def _rows(grey: NDArray[Any]) -> list[NDArray[Any]]:
    """Return top, bottom, left, right of each row of bright strokes."""
    thin = grey - _opened(grey)
    is_stroke = thin > max(MIN_CONTRAST, 4 * 1.4826 * float(np.median(thin[::3, ::3])))
    found: list[NDArray[Any]] = []
    for level in LEVELS:
        labels, num = ndimage.label(is_stroke & (grey >= level), np.ones((3, 3)))
        glyphs = _glyphs(grey, thin, labels, num)
        if not MIN_GLYPHS <= len(glyphs.top) <= MOST_GLYPHS:
            continue
        members = _linked(glyphs)
        rows = (
            glyphs.only(np.flatnonzero(members == row)) for row in np.flatnonzero(np.bincount(members) >= MIN_GLYPHS)
        )
        found += [np.array([r.top.min(), r.bottom.max(), r.left.min(), r.right.max()]) for r in rows if _is_text(r)]
    return found


def _opened(grey: NDArray[Any]) -> NDArray[Any]:
    """Return ``grey`` without what is bright and thinner than ``STROKE``: a flat opening."""
    for extreme in (np.minimum, np.maximum):
        for axis in (0, 1):
            around = [(STROKE // 2, STROKE // 2) if a == axis else (0, 0) for a in (0, 1)]
            grey = np.moveaxis(np.pad(grey, around, "edge"), axis, 0)
            for step in (1, 2, 4, STROKE - 8):  # windows of 2, 4, 8, then STROKE
                grey = extreme(grey[step:], grey[:-step])
            grey = np.moveaxis(grey, 0, axis)
    return grey


def _glyphs(grey: NDArray[Any], thin: NDArray[Any], labels: NDArray[Any], num: int) -> _Glyphs:
    where = np.array([[y.start, y.stop, x.start, x.stop] for y, x in ndimage.find_objects(labels)]).reshape(-1, 4)
    inside = np.nonzero(labels)
    owner = labels[inside] - 1
    highest = []
    for values in (grey, thin, _steps(grey)):
        highest.append(np.zeros(num))
        np.maximum.at(highest[-1], owner, values[inside])
    sizes = np.bincount(owner, minlength=num)
    found = _Glyphs(*where.T, *highest)
    fill = sizes / (found.height * found.width)
    is_glyph = (found.height >= MIN_HEIGHT) & (found.height <= MAX_HEIGHT) & (found.width <= 3 * found.height)
    return found.only(is_glyph & (fill > 0.15) & (sizes >= 6))


def _steps(grey: NDArray[Any]) -> NDArray[Any]:
    """Return how much brighter each pixel is than its darkest neighbour above, below, left or right."""
    around = np.pad(grey, 1, "edge")
    darkest = np.minimum(
        np.minimum(around[:-2, 1:-1], around[2:, 1:-1]), np.minimum(around[1:-1, :-2], around[1:-1, 2:])
    )
    steps: NDArray[Any] = grey - np.minimum(darkest, grey)
    return steps


def _linked(glyphs: _Glyphs) -> NDArray[Any]:
    """Number the rows of glyphs: neighbours of like height on one line, no further apart than a space."""
    middle = np.stack([(glyphs.left + glyphs.right) / 2, (glyphs.top + glyphs.bottom) / 2], axis=1)
    reach = float(np.percentile(glyphs.height, 90)) * 3
    pairs = cKDTree(middle).query_pairs(reach, output_type="ndarray")
    a, b = pairs.T
    tall, short = (side(glyphs.height[a], glyphs.height[b]) for side in (np.maximum, np.minimum))
    gap = np.maximum(glyphs.left[a], glyphs.left[b]) - np.minimum(glyphs.right[a], glyphs.right[b])
    shared = np.minimum(glyphs.bottom[a], glyphs.bottom[b]) - np.maximum(glyphs.top[a], glyphs.top[b])
    apart = np.abs(glyphs.level[a] - glyphs.level[b]) / np.minimum(glyphs.contrast[a], glyphs.contrast[b])
    is_near = (tall <= 1.8 * short) & (shared > 0.6 * short) & (gap < 1.5 * tall) & (apart < LEVELS_APART)
    links = sparse.coo_array((np.ones(int(is_near.sum())), (a[is_near], b[is_near])), (len(middle), len(middle)))
    members: NDArray[Any] = sparse.csgraph.connected_components(links, directed=False)[1]
    return members


def _is_text(row: _Glyphs) -> bool:
    """Return whether the glyphs stand on one line, are alike in height and brightness, and do not overlap."""
    if len(row.top) < MIN_GLYPHS:
        return False
    height = float(np.median(row.height))
    line = np.minimum(_spread(row.bottom), _spread(row.top)) / height
    level = _spread(row.level) / float(np.median(row.contrast))
    step = float(np.median(row.step)) / float(np.median(row.contrast))
    covered = float(row.width.sum()) / float(row.right.max() - row.left.min())
    return bool(line < 0.15 and level < LEVELS_APART / 3 and step > MIN_SHARPNESS and 0.25 < covered < 1.3)


def _spread(values: NDArray[Any]) -> float:
    """Return the mean distance from the median."""
    return float(np.abs(values - np.median(values)).mean())
