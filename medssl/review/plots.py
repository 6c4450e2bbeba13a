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

from medssl.review.findings import Measured
from medssl.review.words import name, system_name

INK, MUTED, RULE = "#1b2230", "#5d6675", "#d9dde3"
# Okabe and Ito's colours, told apart by every kind of colour vision; shapes repeat the difference.
COLOURS = {"encoder": "#0072B2", "model": "#0072B2", "pixels": "#D55E00", "random": "#7a7a7a", "baseline": "#7a7a7a"}
MARKERS = {"encoder": "o", "model": "o", "pixels": "s", "random": "^", "baseline": "^"}
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
        return _svg(figure)


def intervals(measured: Sequence[Measured], differences: Sequence[Measured] = ()) -> str:
    """Draw scores as points with their intervals; differences beside them, with a line at zero."""
    panels = [rows for rows in (measured, differences) if rows]
    with matplotlib.rc_context(STYLE):
        tallest = max(map(len, panels))
        figure = Figure(figsize=(9.2, 0.62 + 0.36 * tallest), layout="constrained")
        for i, rows in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), i + 1)
            _forest(axes, rows)
            axes.set_ylim(tallest - 0.4, -0.6)  # same row height in both panels
            axes.set_title("Difference" if rows is differences else _quantity(rows))
        return _svg(figure)


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


def _forest(axes: Axes, rows: Sequence[Measured]) -> None:
    for y, row in enumerate(rows):
        colour = COLOURS.get(row.system, INK)
        axes.plot([row.score.low, row.score.high], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
        marker = MARKERS.get(row.system, "D")
        axes.plot(row.score.value, y, color=colour, marker=marker, markersize=7, markeredgecolor="white")
    comparison = rows[0].system == "difference"
    metrics = {row.score.metric for row in rows}
    reference = 0.0 if comparison else CHANCE.get(metrics.pop()) if len(metrics) == 1 else None
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
        if not comparison:
            axes.annotate("chance", (reference, 0), (3, 2), ("data", "axes fraction"), "offset points", color=MUTED)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], color=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=6)


def _label(row: Measured) -> str:
    if row.system == "difference":
        return f"encoder minus {system_name(row.name)}"
    return f"{system_name(row.system)}, {name(row.name)}"


def _quantity(rows: Sequence[Measured]) -> str:
    return ", ".join(dict.fromkeys(name(row.score.metric) for row in rows))


def _svg(figure: Figure) -> str:
    """Return an inline SVG element: no prologue, no metadata, no ids that could clash with another figure's."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<style[^>]*>[^<]*</style>", "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1).strip()
