"""Label-efficiency curves: a picture with both spreads, and the tables that the page and the terminal show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from medssl.core.files import atomic
from medssl.evaluation.curve import Curve, Line, Point, Use
from medssl.review import plots
from medssl.review.grids import Cell, Grid, Row
from medssl.review.plots import COLOURS, INK, MARKERS, MUTED, RULE, STYLE
from medssl.review.words import interval, name, sentence, signed, system_name

ENCODERS = ("#0072B2", "#332288", "#AA3377", "#117733", "#882255")  # one an encoder, in the order of the curve
PUBLIC = "#8a5a00"
USES = {Use.PROBE: "linear probe", Use.TUNED: "fine-tuned"}
DPI = 160
CEILING = frozenset({"auroc", "auprc", "balanced_accuracy", "f1"})  # at most 1: near it, errors are told apart
NEAR = 0.95
HIGHEST = 0.999  # what a log-odds axis ends at; the odds of 1 are nowhere, and drawn there
TICKS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)
GAP = 0.047  # of the axis between the labels of two lines


def picture(curve: Curve, out: Path) -> Path:
    """Write the picture as PNG to ``out``."""
    with atomic(out) as partial, matplotlib.rc_context(STYLE):
        drawn(curve).savefig(partial, format="png", dpi=DPI)
    return out


def svg(curve: Curve) -> str:
    """Return the picture as an inline SVG element."""
    with matplotlib.rc_context(STYLE):
        return plots.svg(drawn(curve))


def tables(curve: Curve) -> tuple[Grid, ...]:
    """Return scores with both spreads, differences to the reference, labels to the target, disagreements of rank.

    A table without rows is left out.
    """
    made = (scores(curve), differences(curve), labels_to(curve), swaps(curve))
    return tuple(grid for grid in made if grid.rows)


def scores(curve: Curve) -> Grid:
    """Return the mean score of each system at each fraction, its interval over test patients and its seeds' spread."""
    caption = (
        f"{sentence(name(curve.metric))} by labelled patients: mean of {curve.seeds} draws and its 95 % interval over "
        "test patients; below it, range and standard deviation of the draws themselves."
    )

    def cell(point: Point) -> Cell:
        low, high = point.seed_range
        spread = f"{low:.3f} to {high:.3f}, sd {point.seed_deviation:.3f}"
        return Cell(point.score, spread if len(point.by_seed) > 1 else "")

    rows = [Row(label(line), tuple(map(cell, line.points)), not line.baseline) for line in curve.lines]
    return Grid(caption, _heads(curve), tuple(rows))


def differences(curve: Curve) -> Grid:
    """Return each system minus the reference, by one paired bootstrap at each fraction."""
    rows = [
        Row(label(line), tuple(Cell(point.difference) for point in line.points), not line.baseline)
        for line in curve.lines
        if all(point.difference for point in line.points)
    ]
    return Grid(
        f"Minus {system_name(curve.reference)}, on the same draws and test patients; 95 % interval over both.",
        _heads(curve),
        tuple(rows),
    )


def labels_to(curve: Curve) -> Grid:
    """Return how many labelled patients take each system to what the target has with all labels."""
    if not curve.labels_to:
        return Grid("", ())
    most = curve.line(curve.target).points[-1]
    share = "all" if most.fraction == 1 else f"{100 * most.fraction:.3g} %"
    caption = (
        f"Labelled patients to reach what {label(curve.line(curve.target))} has with {share} of them, "
        f"{interval(most.score)}, "
        "by the monotone curve over the logarithm of patients; 95 % interval over test patients."
    )
    rows = [
        Row(label(line), (Cell(text=str(found)), Cell(text=f"{found.share:.0%}")), not line.baseline)
        for found in curve.labels_to
        for line in [curve.line(found.system)]
    ]
    return Grid(caption, ("labelled patients", "reached in resamples"), tuple(rows))


def swaps(curve: Curve) -> Grid:
    """Return where probing and training disagree on which encoder is better."""
    caption = "Do probe and fine-tuning rank the encoders alike? Kendall's tau: 1 the same order, −1 the reverse."
    rows = []
    for found in curve.disagreements:
        tau = "tau undefined" if found.tau is None else f"tau {found.tau:+.2f}"
        said = [
            f"{swap.a} over {swap.b} by probe ({signed(swap.probing.value)}), the reverse by training "
            f"({signed(swap.training.value)}){', both proven' if swap.is_proven else ', within noise'}"
            for swap in found.swaps
        ]
        rows.append(
            Row(f"{100 * found.fraction:.3g} %", (Cell(text=tau), Cell(text="; ".join(said) or "no pair swaps")))
        )
    return Grid(caption, ("agreement", "pairs that swap"), tuple(rows))


def _heads(curve: Curve) -> tuple[str, ...]:
    points = curve.lines[0].points if curve.lines else ()
    return tuple(f"{point.patients:,.0f} ({100 * point.fraction:.3g} %)" for point in points)


def drawn(curve: Curve) -> Figure:
    """Draw every system over the labelled patients, with the range of its seeds and the interval of its patients."""
    figure = Figure(figsize=(9.2, 5.2), layout="constrained")
    axes = figure.add_subplot()
    looks = {line.system: _look(curve, line) for line in curve.lines}
    top = HIGHEST if _is_near_ceiling(curve) else np.inf
    for i, line in enumerate(curve.lines):
        _line(axes, line, looks[line.system], shift=(i - (len(curve.lines) - 1) / 2) * 0.012, top=top)
    _axes(axes, curve)
    _labels(axes, curve, looks)
    return figure


def _look(curve: Curve, line: Line) -> tuple[str, str]:
    """Return colour and marker of a line."""
    encoders = [other.encoder for other in curve.lines if not other.baseline]
    if not line.baseline:
        order = list(dict.fromkeys(encoders))
        return ENCODERS[order.index(line.encoder) % len(ENCODERS)], "o"
    base = line.system.partition(".")[0]
    return COLOURS.get(base, PUBLIC), MARKERS.get(base, "h")


def _seen(curve: Curve) -> list[float]:
    """Return every end of a band or an interval."""
    return [v for line in curve.lines for p in line.points for v in (*p.seed_range, p.score.low, p.score.high)]


def _is_near_ceiling(curve: Curve) -> bool:
    return curve.metric in CEILING and max(_seen(curve)) > NEAR


def _line(axes: Axes, line: Line, look: tuple[str, str], *, shift: float, top: float) -> None:
    """Draw points (moved by ``shift`` decades so that bars stand apart), interval bars and the seeds' band.

    What is above ``top`` is drawn there.
    """
    colour, marker = look
    x = np.array([point.patients for point in line.points]) * 10**shift
    low, high = np.minimum([point.seed_range for point in line.points], top).T
    strong = not line.baseline
    axes.fill_between(x, low, high, color=colour, alpha=0.16 if strong else 0.09, linewidth=0)
    bars = np.minimum([(point.score.low, point.score.high) for point in line.points], top).T
    axes.vlines(x, *bars, color=colour, linewidth=0.8, alpha=0.75)
    dash = "-" if strong else (0, (2.5, 1.8))
    width, size = (2.2, 6.5) if strong else (1.1, 4.5)
    face = "white" if line.use is Use.PROBE else colour
    axes.plot(
        x, np.minimum([point.score.value for point in line.points], top), color=colour, linestyle=dash,
        linewidth=width, marker=marker, markersize=size, markerfacecolor=face, markeredgecolor=colour,
        markeredgewidth=1.1, zorder=4 if strong else 3,
    )  # fmt: skip


def _axes(axes: Axes, curve: Curve) -> None:
    points = max((line.points for line in curve.lines), key=len)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([point.patients for point in points]))
    axes.xaxis.set_minor_locator(NullLocator())
    fractions = {point.patients: f"{point.patients:,.0f}\n{100 * point.fraction:.3g} %" for point in points}
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: fractions.get(value, "")))
    axes.set_xlabel("labelled patients to learn from (and the same share of the val patients to tune on)")
    seen = _seen(curve)
    if _is_near_ceiling(curve):
        axes.set_yscale("logit", nonpositive="clip")
        axes.set_ylim(max(min(seen) - 0.02, 0.02), 1 - (1 - min(max(seen), HIGHEST)) / 1.3)
        axes.yaxis.set_major_locator(FixedLocator(TICKS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(min(seen) - 0.01, max(seen) + 0.01)
    n = max(point.score.n for point in points)
    axes.set_title(f"{sentence(name(curve.metric))} by labels: {curve.task}, {n:,} test patients", pad=17)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    seeds = f"band: range of {curve.seeds} draws of labelled patients" if curve.seeds > 1 else "one draw of labels"
    note = f"Line: mean. {sentence(seeds)}. Bar: 95 % interval over test patients. Dashed: baselines; open: probes."
    note += " Scores: log-odds axis." if axes.get_yscale() == "logit" else ""
    axes.annotate(note, (0, 1.0), (0, 6), "axes fraction", "offset points", color=MUTED, fontsize=7.5)


def _labels(axes: Axes, curve: Curve, looks: dict[str, tuple[str, str]]) -> None:
    """Name each line at its right end; names that would overlap move apart, a thin line leads to their end."""
    axes.margins(x=0.03)
    to_axes = axes.transScale + axes.transLimits
    ends = sorted((line.points[-1].score.value, line.system) for line in curve.lines)
    inside = [float(np.clip(value, *axes.get_ylim())) for value, _ in ends]  # the log-odds of 1 are nowhere
    wanted = [float(to_axes.transform((1, value))[1]) for value in inside]
    for (value, system), end, place in zip(ends, inside, spread(wanted, GAP), strict=True):
        line, (colour, _) = curve.line(system), looks[system]
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4, "relpos": (0, 0.5)}
        axes.annotate(
            f"{label(line)}  {value:.3f}", (line.points[-1].patients, end), (1.035, place), "data", "axes fraction",
            color=INK if line.baseline else colour, va="center", fontsize=8.5, annotation_clip=False,
            fontweight="normal" if line.baseline else "bold", arrowprops=leader,
        )  # fmt: skip


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return ascending places at least ``gap`` apart, as near to the ascending ``wanted`` ones as that allows.

    None is above 1, unless there are too many for that.
    """
    groups: list[tuple[float, int]] = []  # the middle of names that touch, and how many
    for place in wanted:
        groups.append((place, 1))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            (a, n), (b, m) = groups.pop(-2), groups.pop()
            groups.append(((a * n + b * m) / (n + m), n + m))
    places = [middle + gap * (i - (num - 1) / 2) for middle, num in groups for i in range(num)]
    return [min(place, 1 - gap * (len(places) - 1 - i)) for i, place in enumerate(places)]


def label(line: Line) -> str:
    """Return what a line is called: its system, and how an encoder was used."""
    base = line.system.partition(".")[0]
    if line.use is Use.OTHER or base == "scratch":
        return system_name(line.system)
    return f"{system_name(line.encoder)}, {USES[line.use]}"
