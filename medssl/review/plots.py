"""Figures of the report as SVG text: curves over steps, and scores with their intervals."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medssl.evaluation.results import FEW
from medssl.review.findings import Measured
from medssl.review.words import name, system_name

INK, MUTED, RULE = "#1b2230", "#5d6675", "#d9dde3"
# Okabe and Ito's colours, told apart by every kind of colour vision; shapes repeat the difference.
COLOURS = {
    "encoder": "#0072B2",
    "model": "#0072B2",
    "pixels": "#D55E00",
    "random": "#7a7a7a",
    "baseline": "#7a7a7a",
    "scratch": "#009E73",
    "small_resnet": "#56B4E9",
    "frame": "#CC79A7",
    "corners": "#a05a86",
    "thumbnail": "#E69F00",
}
MARKERS = {
    "encoder": "o",
    "model": "o",
    "pixels": "s",
    "random": "^",
    "baseline": "^",
    "scratch": "D",
    "small_resnet": "P",
    "frame": "v",
    "corners": "<",
    "thumbnail": "X",
}
# What the page draws with its own colours, light or dark (style.html.j2).
THEMED = {INK: "--ink", MUTED: "--muted", RULE: "--rule", "#0072b2": "--blue", "#7a7a7a": "--grey", "#ffffff": "--page"}
CHANCE = {"auroc": 0.5}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medssl",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
MOST_POINTS = 600  # a curve with more is thinned, so that the page stays small


def curves(metrics: Mapping[str, Sequence[tuple[int, float]]], titles: Mapping[str, str]) -> str:
    """Draw one panel for each metric named in ``titles`` that was recorded, over optimiser steps."""
    shown = [name for name in titles if metrics.get(name)]
    rows = (len(shown) + 1) // 2
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 2.15 * rows), layout="constrained")
        for i, name in enumerate(shown):
            axes = figure.add_subplot(rows, min(2, len(shown)), i + 1)
            _curve(axes, np.array(metrics[name], dtype=float), smooth=name == "loss")
            axes.set_title(titles[name])
            axes.set_xlabel("optimiser step")
        return svg(figure)


def intervals(
    measured: Sequence[Measured], differences: Sequence[Measured] = (), *, better: str = "Encoder better by"
) -> str:
    """Draw scores as points with their intervals, and differences beside them, with a line at zero.

    The difference to a system stands in its row, by the probe that it is taken of; ``better`` says whose it is.
    """
    rows = [_row_of(difference, measured) for difference in differences]
    aligned = [row for row in rows if row is not None]
    beside = len(aligned) == len(differences)
    panels = [part for part in (measured, differences) if part]
    tallest = len(measured) if beside else max(map(len, panels))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 0.62 + 0.36 * tallest), layout="constrained")
        for i, part in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), i + 1)
            in_rows = beside and part is differences
            _forest(axes, part, aligned if in_rows else range(len(part)))
            axes.set_ylim(tallest - 0.4, -0.6)  # same row height in both panels
            axes.set_title(better if in_rows else "Difference" if i else _quantity(part))
            if in_rows:
                axes.set_yticks([])
        return svg(figure)


def _row_of(difference: Measured, measured: Sequence[Measured]) -> int | None:
    """Return the row of the system that the encoder is compared with, by the first probe shown of it or few labels."""
    system = difference.name.removesuffix(f"_{FEW}")
    for i, row in enumerate(measured):
        if row.system == system and (system == difference.name or row.name == FEW):
            return i
    return None


def _curve(axes: Axes, points: NDArray[np.float64], *, smooth: bool) -> None:
    points = points[:: max(1, -(-len(points) // MOST_POINTS))]
    step, value = points[:, 0], points[:, 1]
    width = max(1, len(value) // 20)
    colour = COLOURS["encoder"]
    if smooth and width > 2:
        axes.plot(step, value, color=colour, linewidth=0.8, alpha=0.3)
        kernel = np.ones(width) / width
        step, value = np.convolve(step, kernel, mode="valid"), np.convolve(value, kernel, mode="valid")
    axes.plot(step, value, color=colour, linewidth=1.6, marker="o" if len(value) < 3 else None)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.margins(x=0.01)
    axes.locator_params(nbins=5)


def _forest(axes: Axes, rows: Sequence[Measured], places: Sequence[int]) -> None:
    for y, row in zip(places, rows, strict=True):
        who = row.name if row.system == "difference" else row.system
        colour, marker = COLOURS.get(who, INK), MARKERS.get(who, "D")
        axes.plot([row.score.low, row.score.high], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
        axes.plot(row.score.value, y, color=colour, marker=marker, markersize=7, markeredgecolor="white")
    comparison = rows[0].system == "difference"
    metrics = {row.score.metric for row in rows}
    reference = 0.0 if comparison else CHANCE.get(metrics.pop()) if len(metrics) == 1 else None
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
        if not comparison:
            axes.annotate("chance", (reference, 0), (3, 2), ("data", "axes fraction"), "offset points", color=MUTED)
    axes.set_yticks(places, [_label(row) for row in rows], color=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=5)


def _label(row: Measured) -> str:
    if row.system == "difference":
        return f"encoder minus {system_name(row.name)}"
    return f"{system_name(row.system)}, {name(row.name)}"


def _quantity(rows: Sequence[Measured]) -> str:
    return ", ".join(dict.fromkeys(name(row.score.metric) for row in rows))


def svg(figure: Figure) -> str:
    """Return an inline SVG element in the page's colours: no prologue, metadata, or ids that could clash."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=nothing)
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    drawn = re.sub(r"<style[^>]*>[^<]*</style>", "", drawn)
    drawn = re.sub("|".join(THEMED), lambda found: f"var({THEMED[found[0]]})", drawn)
    drawn = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawn, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawn, count=1).strip()
