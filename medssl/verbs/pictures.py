"""Pictures of an evaluated encoder: where it looks, how it lays images out, which ones it takes for alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.core.keys import generator
from medssl.core.types import Role
from medssl.data.prepared import Prepared
from medssl.engine.monitors.base import evaluating
from medssl.engine.pictures import encoder_pictures, flat, planes, tiles
from medssl.evaluation.config import PicturesConfig
from medssl.evaluation.judge import Judge
from medssl.evaluation.maps import agree, nearest, plane, shown_rows
from medssl.evaluation.metrics import METRICS
from medssl.evaluation.problem import Floats, Kind, Problem, Rows
from medssl.evaluation.reliability import confidences, reliability
from medssl.evaluation.representation import directions
from medssl.models.encoders.base import Encoder
from medssl.review import encoder_pictures as drawing
from medssl.review.contact_sheet import contact_sheet

SITES = ("scanner", "site")  # groups that should not be visible in an embedding map
TILE = 224  # pixels


def draw_pictures(
    folder: Path,
    encoder: Encoder,
    data: Prepared,
    features: NDArray[Any],
    judge: Judge,
    config: PicturesConfig,
    device: torch.device,
    predictions: Floats | None = None,
) -> tuple[Path, ...]:
    """Write what can be shown of an encoder to ``folder``; the names of the files say what they are.

    No picture says who somebody is, nor the label of a single image.

    Args:
        folder: ``pictures`` in the run's folder.
        encoder: the one that is judged.
        data: ``N`` prepared volumes.
        features: ``N D`` of the encoder.
        judge: who is judged, with their labels (``judge.problem`` has the same ``N`` rows), and the seed.
        config: how much is drawn.
        device: where to encode.
        predictions: ``M K`` of the deciding probe for ``judge.test``; without them there is no reliability curve.
    """
    problem, seed = judge.problem, judge.seed
    if not config.images or not len(problem):
        return ()
    rows = chosen(problem, config.images, seed)
    made = [
        *_seen(folder, encoder, data, rows, device),
        *_alike(folder, data, problem, features, rows, config.neighbours),
        *_maps(folder, problem, features, config.points, seed),
    ]
    if predictions is not None and problem.kind is not Kind.REGRESSION:
        made.append(_reliability(folder, judge, predictions))
    return tuple(made)


def chosen(problem: Problem, num: int, seed: int) -> Rows:
    """Return up to ``num`` rows of different patients to look at: test patients, the classes taking turns.

    Without labels of test patients any of their images, without those any image.
    """
    candidates = (problem.rows(Role.TEST), np.flatnonzero(problem.roles == str(Role.TEST)), np.arange(len(problem)))
    rows = next(found for found in candidates if len(found))
    rows = generator("pictures", seed).permutation(rows)
    rows = rows[np.sort(np.unique(problem.patients[rows], return_index=True)[1])]
    truth = np.nan_to_num(problem.truth.reshape(len(problem), -1)[rows], nan=-1)
    _, kinds = np.unique(truth if problem.names else np.zeros((len(rows), 1)), axis=0, return_inverse=True)
    turn = np.array([(kinds[:i] == kind).sum() for i, kind in enumerate(kinds.ravel())], np.int64)
    return np.asarray(rows[np.argsort(turn, kind="stable")][:num])


def _seen(folder: Path, encoder: Encoder, data: Prepared, rows: Rows, device: torch.device) -> Iterator[Path]:
    images = data.images(rows if data.geometry.ndim == 2 else rows[: max(1, len(rows) // data.geometry.ndim)])
    with evaluating(encoder.to(device)):
        sheets = encoder_pictures(encoder, images.to(device))
    for kind, columns in sheets.items():
        pictures, captions, width = tiles(columns)
        yield contact_sheet(pictures, captions, folder / f"{kind}.png", width, TILE)


def _alike(
    folder: Path, data: Prepared, problem: Problem, features: NDArray[Any], rows: Rows, num: int
) -> Iterator[Path]:
    dev = np.flatnonzero(problem.roles == str(Role.DEV))
    if not len(dev):
        return
    labelled = bool(problem.known[rows].all()) and len(problem.rows(Role.DEV)) > 0
    bank = problem.rows(Role.DEV) if labelled else dev
    found = nearest(directions(features, dev), rows, bank, problem.patients, num)
    if found.rows.size:
        same = agree(problem, rows, found.rows) if labelled else None
        pictures = [_picture(images) for images in (data.images(part) for part in found.rows)]
        queries = _picture(data.images(rows))
        yield drawing.neighbours(queries, pictures, found.similarity, same, folder / "neighbours.png")


def _picture(images: Tensor) -> list[NDArray[np.float32]]:
    """Return an image each: of volumes the middle plane across the first axis."""
    return [flat(one) for one in planes(images)[:: 1 if images.ndim == 4 else 3]]


def _maps(folder: Path, problem: Problem, features: NDArray[Any], most: int, seed: int) -> Iterator[Path]:
    rows = shown_rows(problem, most, seed)
    points = plane(features[rows], seed)
    if problem.known[rows].any():
        out, title = folder / "map-label.png", f"By {problem.task}"
        if problem.names:
            yield drawing.embedding_map(points, _labels(problem, rows), title, out)
        else:
            yield drawing.value_map(points, problem.truth[rows], title, out)
    for group in (name for name in SITES if name in problem.groups):
        column = problem.groups[group][rows]
        if len(np.unique(column[column != ""])) > 1:
            yield drawing.embedding_map(points, column.tolist(), f"By {group}", folder / f"map-{group}.png")


def _labels(problem: Problem, rows: Rows) -> list[str]:
    def said(truth: NDArray[Any]) -> str:
        if np.isnan(truth).any():
            return ""
        if problem.kind is Kind.MULTILABEL:
            return " + ".join(n for n, has in zip(problem.names, truth, strict=True) if has) or "no finding"
        return problem.names[int(truth[0])]

    return [said(truth) for truth in problem.truth.reshape(len(problem), -1)[rows]]


def _reliability(folder: Path, judge: Judge, predictions: Floats) -> Path:
    problem, units = judge.problem, judge.units
    predicted, came_true, of_row = confidences(problem.kind, units.truth, units.mean(predictions))
    bins = reliability(predicted, came_true, units.patients[of_row])
    score = replace(judge, metric="ece" if problem.kind in METRICS["ece"].kinds else "brier").score(predictions)
    of = "of the likeliest class"
    if problem.kind is Kind.MULTILABEL:
        of = "of a finding"
    elif len(problem.names) == 2:
        of = f"of {problem.names[1]}"
    return drawing.reliability_curve(bins, score, f"predicted probability {of}", folder / "reliability.png")
