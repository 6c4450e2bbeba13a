"""Label-efficiency curves as people see them: nothing is hidden, nothing overlaps, no figure is without its spread."""

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text as MplText
from PIL import Image
from rich.console import Console

from medssl.core.score import Score
from medssl.evaluation.curve import Curve, Disagreement, LabelsTo, Line, Point, Swap, Use
from medssl.review import curves
from medssl.review.terminal import grid_table

NAMES = {
    "encoder.probe": ("encoder", Use.PROBE, False),
    "encoder.tuned": ("encoder", Use.TUNED, False),
    "random.probe": ("random", Use.PROBE, True),
    "scratch": ("random", Use.TUNED, True),
    "small_resnet": ("", Use.OTHER, True),
    "pixels": ("", Use.OTHER, True),
    "public.probe": ("public", Use.PROBE, True),
}


def score(value: float, metric: str = "auroc") -> Score:
    return Score(metric, value, value - 0.03, value + 0.02, 120)


def made(seeds: int = 3, num_points: int = 5) -> Curve:
    lines = []
    for i, (name, (encoder, use, baseline)) in enumerate(NAMES.items()):
        points = []
        for k in range(num_points):
            value = 0.9 - 0.004 * i - 0.1 / (k + 1)
            by_seed = tuple(value + 0.01 * (s - 1) for s in range(seeds))
            difference = None if name == "pixels" else score(0.01 * (5 - i), "auroc difference")
            fraction, patients = (0.01, 0.05, 0.1, 0.3, 1.0)[k], (10, 50, 100, 300, 1000)[k]
            points.append(
                Point(fraction, patients, 2 * patients, 2, 4, score(value), by_seed, difference, 1.0, ({},) * seeds)
            )
        lines.append(Line(name, tuple(points), encoder, use, baseline))
    reached = LabelsTo("encoder.probe", "small_resnet", 120.0, 80.0, None, 10, 0.9)
    swap = Swap("encoder", "random", score(0.1, "auroc difference"), score(-0.01, "auroc difference"))
    found = (Disagreement(0.01, ("encoder", "random"), -1.0, (swap,)), Disagreement(1.0, ("a", "b"), None, ()))
    return Curve("shape", "auroc", "volume", seeds, "pixels", "small_resnet", tuple(lines), (reached,), found)


def axes_of(figure: Figure):
    figure.draw_without_rendering()
    return figure.axes[0]


@pytest.mark.parametrize(("seeds", "points"), [(3, 5), (1, 5), (3, 1)])
def test_a_picture_is_written_whole(seeds: int, points: int, tmp_path: Path) -> None:
    out = curves.picture(made(seeds, points), tmp_path / "pictures" / "curve.png")
    with Image.open(out) as image:
        assert image.width > 1200
        assert len(image.convert("RGB").getcolors(2**24)) > 50
    assert curves.svg(made(seeds, points)).startswith("<svg")


def test_every_line_is_named_with_its_last_score_and_no_two_names_overlap() -> None:
    curve = made()
    figure = curves.drawn(curve)
    axes = axes_of(figure)
    names = [text for text in axes.texts if any(text.get_text().startswith(curves.label(line)) for line in curve.lines)]
    assert len(names) == len(curve.lines)
    boxes = sorted((MplText.get_window_extent(text) for text in names), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 + 1 for box in boxes)


def test_axis_ticks_are_the_labelled_patients_and_every_interval_and_band_is_inside() -> None:
    curve = made()
    axes = axes_of(curves.drawn(curve))
    assert [tick.get_text().split("\n")[0] for tick in axes.get_xticklabels()] == ["10", "50", "100", "300", "1,000"]
    low, high = axes.get_ylim()
    assert low < min(point.score.low for line in curve.lines for point in line.points)
    assert high > max(point.score.high for line in curve.lines for point in line.points)
    assert len([c for c in axes.collections if c.get_label().startswith("_")]) == 2 * len(curve.lines)  # band and bars


def test_two_encoders_have_two_colours_and_probe_and_tuned_of_one_share_theirs() -> None:
    curve = made()
    other = [replace(line, encoder="b", system=line.system.replace("encoder", "b")) for line in curve.lines[:2]]
    both = replace(curve, lines=(*curve.lines[:2], *other))
    looks = {line.system: curves._look(both, line)[0] for line in both.lines}
    assert looks["encoder.probe"] == looks["encoder.tuned"] != looks["b.probe"] == looks["b.tuned"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_names_that_move_apart_keep_their_order_and_their_gap_and_stay_below_the_top(
    places: list[float], gap: float
) -> None:
    moved = curves.spread(sorted(places), gap)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(moved))
    assert moved[-1] <= 1
    if max(moved) < 1:  # the top pushed none down
        assert sum(moved) == pytest.approx(sum(places), abs=1e-6)


def test_scores_near_the_ceiling_are_drawn_by_their_log_odds_so_that_errors_are_told_apart() -> None:
    low = made()
    assert axes_of(curves.drawn(low)).get_yscale() == "linear"
    points = [replace(p, score=replace(p.score, value=1.0, high=1.0), by_seed=(1.0,) * 3) for p in low.lines[0].points]
    high = replace(low, lines=(replace(low.lines[0], points=tuple(points)), *low.lines[1:]))
    axes = axes_of(curves.drawn(high))
    assert axes.get_yscale() == "logit"
    drawn = [line for line in axes.lines if len(line.get_xdata()) == len(points)]
    assert len(drawn) == len(high.lines)
    assert all(axes.get_ylim()[0] < y < axes.get_ylim()[1] for line in drawn for y in line.get_ydata())  # of 1, too
    assert "log-odds" in "".join(text.get_text() for text in axes.texts)
    losses = replace(high, metric="log_loss")
    assert axes_of(curves.drawn(losses)).get_yscale() == "linear"


def test_names_that_have_room_stay_where_they_are() -> None:
    assert curves.spread([0.1, 0.5, 0.9], 0.05) == [0.1, 0.5, 0.9]


def test_tables_say_both_spreads_the_reference_the_target_and_who_swaps() -> None:
    grids = curves.tables(made())
    assert len(grids) == 4
    scores, differences, labels, swaps = grids
    assert all(cell.score is not None and "sd 0.010" in cell.text for row in scores.rows for cell in row.cells)
    assert len(differences.rows) == len(scores.rows) - 1
    assert all(cell.signed for row in differences.rows for cell in row.cells)
    assert labels.rows[0].cells[0].text == "120 [80, not reached]"
    assert "0.864 [0.834, 0.884] n = 120" in labels.caption
    assert "encoder over random by probe (+0.100)" in swaps.rows[0].cells[1].text
    assert "within noise" in swaps.rows[0].cells[1].text
    assert swaps.rows[1].cells[0].text == "tau undefined"
    console = Console(width=200, record=True, file=io.StringIO())
    for grid in grids:
        console.print(grid_table(grid, "title", "run"))
    assert "pretrained encoder, linear probe" in console.export_text().lower()


def test_a_single_draw_has_no_spread_to_show_and_absent_tables_are_left_out() -> None:
    lone = replace(made(1), labels_to=(), disagreements=())
    grids = curves.tables(lone)
    assert len(grids) == 2
    assert all(not cell.text for row in grids[0].rows for cell in row.cells)
