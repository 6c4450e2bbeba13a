"""Copies across roles: test images that are also among the patients that were trained on or tuned on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.types import Role
from medssl.evaluation.audits import Audit
from medssl.evaluation.judge import Judge
from medssl.evaluation.problem import Floats, Rows
from medssl.ingest.likeness import near

NEAR_BITS = 2  # of the 64 of a perceptual hash, as at ingest: candidates, whose pixels decide
ALIKE = 0.98  # cosine of centred features: candidates too
SAME = 0.98  # correlation of pixels; the nearest radiographs of two of 2,846 children have .970
CELLS_AT_ONCE = 2**24

Look = Callable[[Rows], NDArray[Any]]  # the images of rows, M *S


def same_digest(digests: NDArray[Any], roles: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Return which test rows have exactly the bytes of a dev or val row, ``N``."""
    is_test = roles == str(Role.TEST)
    return np.asarray(is_test & np.isin(digests, digests[~is_test]))


def same_hash(
    hashes: NDArray[np.int64], known: NDArray[np.bool_], roles: NDArray[np.str_], look: Look
) -> NDArray[np.bool_]:
    """Return which test rows have nearly the hash, and the pixels, of a dev or val row, ``N``; ``known``: who has one.

    Hashes alone prove nothing: of 1,017 radiographs three had one within ``NEAR_BITS`` of another child's.
    """
    is_test, rows = roles == str(Role.TEST), np.flatnonzero(known)
    hits = rows[near(hashes[rows], is_test[rows], NEAR_BITS)]
    found = np.zeros(len(roles), np.bool_)
    test, rest = hits[is_test[hits]], hits[~is_test[hits]]
    if len(test):
        found[test] = (_centred(look(test)) @ _centred(look(rest)).T).max(1) >= SAME
    return found


def same_look(features: NDArray[Any], roles: NDArray[np.str_], look: Look) -> NDArray[np.bool_]:
    """Return which test rows have a dev or val row as nearest neighbour that is ``ALIKE``, and ``SAME`` in pixels.

    Features alone prove nothing: those of a collapsed encoder are all alike.
    """
    is_test = roles == str(Role.TEST)
    test, rest = np.flatnonzero(is_test), np.flatnonzero(~is_test)
    found = np.zeros(len(roles), np.bool_)
    if not len(test) or not len(rest):
        return found
    z = _unit(features - features.mean(0))
    step = max(1, CELLS_AT_ONCE // len(rest))
    for rows in (test[i : i + step] for i in range(0, len(test), step)):
        nearness = z[rows] @ z[rest].T
        near_by = nearness.max(1) >= ALIKE
        a, b = rows[near_by], rest[nearness.argmax(1)[near_by]]
        if len(a):
            found[a] = (_centred(look(a)) * _centred(look(b))).sum(1) >= SAME
    return found


def duplicate_audit(
    copies: dict[str, NDArray[np.bool_]], num_test: int, judge: Judge | None, encoder: Floats | None
) -> Audit:
    """Ask how many test images are copies of what was learnt from; a warning where one is, or two and 1 % look like it.

    Args:
        copies: by how they were found (``exact``, ``hash``, ``look``), which rows of the judge's problem are, ``N``.
        num_test: test images that were looked at.
        judge: of the task; None without enough labels.
        encoder: its predictions for the judged rows, to score without the copies.
    """
    counts = {name: int(found.sum()) for name, found in copies.items()}
    any_copy = np.any(list(copies.values()), axis=0)
    num = int(any_copy.sum())
    warning = counts.get("exact", 0) > 0 or (num > 1 and num > 0.01 * num_test)  # one may look alike by chance
    finding = f"{num} of {num_test} test images are copies of dev or val images"
    finding += f" ({', '.join(f'{name}: {count}' for name, count in counts.items())})" if num else ""
    scores = {}
    if judge is not None and encoder is not None and num:
        kept = ~any_copy[judge.test]
        scores = {"encoder": judge.score(encoder), "encoder without copies": judge.only(kept).score(encoder[kept])}
        finding += f"; without them the encoder has {scores['encoder without copies'].value:.3f}"
        finding += f" instead of {scores['encoder'].value:.3f}"
    return Audit("duplicates", f"{finding}.", warning, scores, counts)


def _centred(images: NDArray[Any]) -> NDArray[Any]:
    x = images.reshape(len(images), -1).astype(np.float32)
    return _unit(x - x.mean(1, keepdims=True))


def _unit(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
