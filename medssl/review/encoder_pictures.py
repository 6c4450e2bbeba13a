"""Pictures of an evaluated encoder that people look at: embedding maps, neighbours, a reliability curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medssl.core.files import atomic
from medssl.core.score import Score
from medssl.evaluation.reliability import Bin
from medssl.review.contact_sheet import contact_sheet
from medssl.review.plots import COLOURS, INK, MUTED, RULE, STYLE
from medssl.review.words import interval, name, sentence, short

# Okabe and Ito's colours without yellow, which vanishes on white; shapes repeat the difference.
GROUP_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GROUP_MARKERS = ("o", "^", "s", "D", "v", "P", "X")
REST_COLOUR = "#a9b0bb"
REST, UNKNOWN = "others", "not known"
REST_LOOKS = {REST: {"color": REST_COLOUR}, UNKNOWN: {"color": "#d5dae1", "marker": "."}}
DPI = 160
TILE = 176  # pixels
SAME, OTHER = GROUP_COLOURS[:2]


def embedding_map(points: NDArray[Any], groups: Sequence[str], title: str, out: Path) -> Path:
    """Write a PNG of ``N 2`` points, coloured by ``N`` groups (the seven largest; "" is not known), with counts."""
    column = np.asarray(groups, np.str_)
    names, counts = np.unique(column[column != ""], return_counts=True)
    ranked = [str(names[i]) for i in np.argsort(-counts, kind="stable")]
    shown = sorted(ranked[: len(GROUP_COLOURS)])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        axes = figure.add_subplot()
        rest = {UNKNOWN: column == "", REST: (column != "") & ~np.isin(column, shown)}
        looks = [(label, chosen, REST_LOOKS[label]) for label, chosen in rest.items() if chosen.any()]
        for label, colour, marker in zip(shown, GROUP_COLOURS, GROUP_MARKERS, strict=False):
            looks.append((label, column == label, {"color": colour, "marker": marker}))
        drawn = [(_counted(label, chosen), _scatter(axes, points, chosen, **look)) for label, chosen, look in looks]
        _bare(axes, title)
        _legend(figure, drawn)
        return _png(figure, out)


def value_map(points: NDArray[Any], values: NDArray[Any], title: str, out: Path) -> Path:
    """Write a PNG of ``N 2`` points, coloured by ``N`` numbers, NaN where not known."""
    known = ~np.isnan(values)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        axes = figure.add_subplot()
        _scatter(axes, points, ~known, color=REST_COLOUR)
        drawn = _scatter(axes, points, known, c=values[known], cmap="cividis")
        figure.colorbar(drawn, ax=axes, shrink=0.7)
        _bare(axes, title)
        return _png(figure, out)


def neighbours(
    queries: Sequence[NDArray[Any]],
    found: Sequence[Sequence[NDArray[Any]]],
    similarity: NDArray[Any],
    same: NDArray[np.bool_] | None,
    out: Path,
) -> Path:
    """Write a PNG with a row a query: itself, then its neighbours with similarity and whether the label is the same.

    Args:
        queries: ``Q`` images, ``Y X`` or ``Y X 3`` in [0, 1].
        found: ``Q`` times ``k`` images.
        similarity: ``Q k``.
        same: ``Q k``, None where labels are not known.
        out: the PNG file.
    """
    images: list[NDArray[Any]] = []
    captions: list[str] = []
    frames: list[str | None] = []
    for i, (query, row) in enumerate(zip(queries, found, strict=True)):
        images += [query, *row]
        said = [""] * len(row) if same is None else ["same label, " if s else "other label, " for s in same[i]]
        captions += ["query", *(f"{word}{value:.3f}" for word, value in zip(said, similarity[i], strict=True))]
        frames += [None, *([None] * len(row) if same is None else [SAME if s else OTHER for s in same[i]])]
    return contact_sheet(images, captions, out, len(images) // max(len(queries), 1), TILE, frames)


def reliability_curve(bins: Sequence[Bin], score: Score, axis: str, out: Path) -> Path:
    """Write a PNG: what was predicted against what came true, with intervals, and how many predictions a bin holds.

    Args:
        bins: of ``reliability``.
        score: how far off the predictions are.
        axis: what was predicted.
        out: the PNG file.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 5.4), layout="constrained")
        curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        x, colour = [b.predicted for b in bins], COLOURS["encoder"]
        curve.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)), zorder=0)
        curve.vlines(x, [b.low for b in bins], [b.high for b in bins], color=colour, linewidth=1.8)
        curve.plot(x, [b.observed for b in bins], "o", color=colour, markersize=7, markeredgecolor="white")
        curve.set(ylim=(-0.02, 1.02), xlim=(-0.02, 1.02), ylabel="share that came true")
        curve.set_title(f"{sentence(name(score.metric))} {interval(score)} patients")
        middles, widths = [(b.start + b.stop) / 2 for b in bins], [0.9 * (b.stop - b.start) for b in bins]
        bars = counts.bar(middles, [b.num for b in bins], width=widths, color=REST_COLOUR)
        counts.bar_label(bars, labels=[f"{b.num:,}" for b in bins], fontsize=7.5, color=INK, padding=1)
        counts.set(ylabel="predictions", xlabel=f"{axis}, {sum(b.num for b in bins):,} predictions")
        counts.margins(y=0.25)
        for axes in (curve, counts):
            axes.grid(axis="y", color=RULE, linewidth=0.6)
            axes.set_axisbelow(True)
        return _png(figure, out)


def _scatter(axes: Axes, points: NDArray[Any], chosen: NDArray[np.bool_], **look: Any) -> PathCollection:
    size = float(np.clip(12000 / max(len(points), 1), 11, 60))
    x, y = points[chosen].T
    return axes.scatter(x, y, size, edgecolors="white", linewidths=0.3, alpha=0.85, **look)


def _legend(figure: Figure, drawn: Sequence[tuple[str, PathCollection]]) -> None:
    """Name every group; handed over by hand, for matplotlib leaves out names that begin with an underscore."""
    if drawn:
        names, handles = zip(*drawn, strict=True)
        legend = figure.legend(handles, names, loc="outside lower left", frameon=False, handletextpad=0.1, ncols=2)
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([42])


def _counted(label: str, chosen: NDArray[np.bool_]) -> str:
    known = short(label)
    known = known if len(known) <= 32 else f"{known[:19]}…{known[-12:]}"
    return f"{known} ({int(chosen.sum()):,})"


def _bare(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(RULE)


def _png(figure: Figure, out: Path) -> Path:
    with atomic(out) as partial:
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})
    return out
