"""Figures, contact sheets and the words around them."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from synthetic_study import pictures

from medssl.core.errors import MedsslError
from medssl.core.score import Score
from medssl.review import plots
from medssl.review.contact_sheet import CAPTION, GAP, TILE, Listed, contact_sheet, worklist_page
from medssl.review.findings import Measured
from medssl.review.words import duration, interval, sentence, short

SVG = "{http://www.w3.org/2000/svg}"


def measured(system: str, value: float, low: float, high: float, metric: str = "auroc") -> Measured:
    return Measured(system, "linear", Score(metric, value, low, high, 9), "evaluate-1")


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def test_intervals_name_each_row_and_mark_chance() -> None:
    svg = plots.intervals([measured("encoder", 0.9, 0.8, 0.95), measured("pixels", 0.7, 0.6, 0.8)])
    assert {"pretrained encoder, linear probe", "raw pixels, linear probe", "chance", "AUROC"} <= set(texts(svg))
    assert "chance" not in texts(plots.intervals([measured("encoder", 0.9, 0.8, 0.95, "accuracy")]))


FIGURE = st.floats(-1, 1) | st.just(math.nan)


@settings(max_examples=15)
@given(st.tuples(FIGURE, FIGURE, FIGURE))
def test_any_interval_can_be_drawn(figures: tuple[float, float, float]) -> None:
    svg = plots.intervals([measured("$who$", *figures)], [measured("difference", *figures)])
    assert "encoder minus linear" in texts(svg)
    assert "$who$, linear probe" in texts(svg)


def test_curves_draw_what_was_recorded_and_stay_small() -> None:
    long = [(step, math.sin(step / 500)) for step in range(50_000)]
    svg = plots.curves({"loss": long, "rankme": [(1, 2.0)]}, {"loss": "Loss", "lr": "Learning rate", "rankme": "Rank"})
    assert {"Loss", "Rank"} <= set(texts(svg))
    assert "Learning rate" not in texts(svg)
    assert len(svg) < 60_000


def test_a_figure_is_the_same_each_time_and_has_no_date() -> None:
    rows = [measured("encoder", 0.9, 0.8, 0.95)]
    assert plots.intervals(rows) == plots.intervals(rows)
    assert "metadata" not in plots.intervals(rows)


def test_a_contact_sheet_holds_each_image_in_reading_order(tmp_path: Path) -> None:
    shades = [np.full((40, 40), level) for level in (0.2, 0.5, 0.8)]
    path = contact_sheet(shades, ["a", "b" * 200, "c"], tmp_path / "sheet.png", columns=2)
    with Image.open(path) as sheet:
        assert sheet.size == (2 * (TILE + GAP) + GAP, 2 * (TILE + CAPTION + GAP) + GAP)
        middles = [(GAP + TILE // 2, GAP + TILE // 2), (2 * GAP + TILE + TILE // 2, GAP + TILE // 2)]
        middles.append((GAP + TILE // 2, 2 * GAP + TILE + CAPTION + TILE // 2))
        assert [sheet.getpixel(point) for point in middles] == [51, 128, 204]
        beside_the_long_caption = sheet.crop((2 * (TILE + GAP), GAP + TILE, *(sheet.width, GAP + TILE + CAPTION)))
        assert beside_the_long_caption.getextrema() == (255, 255)


def test_a_tall_image_keeps_its_shape_and_colour(tmp_path: Path) -> None:
    red = np.zeros((80, 20, 3))
    red[..., 0] = 1
    with Image.open(contact_sheet([red], ["tall"], tmp_path / "sheet.png")) as sheet:
        row = np.asarray(sheet)[GAP + TILE // 2, GAP : GAP + TILE]
    assert (row == (255, 0, 0)).all(-1).sum() == TILE // 4
    assert (row[0] == 0).all()


@pytest.mark.parametrize(("num", "captions"), [(0, []), (2, ["one"])])
def test_a_sheet_without_images_or_captions_says_so(tmp_path: Path, num: int, captions: list[str]) -> None:
    with pytest.raises(MedsslError, match=f"got {num} and {len(captions)}"):
        contact_sheet(pictures(num), captions, tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())


def test_the_annotators_page_has_a_card_a_study_and_is_self_contained(tmp_path: Path) -> None:
    listed = [Listed(i + 1, f"{i:032x}", image, "high <loss>", 1.5) for i, image in enumerate(pictures(3))]
    text = worklist_page(listed, tmp_path / "worklist.html", "Round 0").read_text()
    assert text.count("data:image/png;base64,") == text.count("<article") == 3
    assert all(entry.study in text for entry in listed)
    assert "high &lt;loss&gt;" in text
    assert "http" not in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "< 1 s"), (12, "12 s"), (59.7, "1 min 00 s"), (75, "1 min 15 s"), (3725, "1 h 02 min")]
)
def test_durations_read_well(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_score_in_words_has_everything() -> None:
    assert interval(Score("auroc", 0.8731, 0.841, 0.902, 120)) == "0.873 [0.841, 0.902] n = 120"
    assert interval(Score("auroc", math.nan, math.nan, 0.902, 0)) == "n/a [n/a, 0.902] n = 0"


def test_a_pseudonym_is_shown_by_its_beginning_and_a_name_as_it_is() -> None:
    assert [short("0123456789abcdef" * 2), short("GE Definium 8000"), short("")] == [
        "01234567…",
        "GE Definium 8000",
        "",
    ]


def test_a_sentence_starts_with_a_capital_and_keeps_the_rest() -> None:
    assert [sentence(text) for text in ("aUROC of x", "", "É")] == ["AUROC of x", "", "É"]
