"""Pictures of an evaluated encoder: every point, bin and neighbour is drawn, and told apart by more than colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_study import pictures

from medssl.core.score import Score
from medssl.evaluation.reliability import reliability
from medssl.review import encoder_pictures
from medssl.review.contact_sheet import GAP, contact_sheet


def colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        return {tuple(int(c) for c in pixel[:3]) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_a_map_has_a_colour_a_group_and_grey_for_what_is_not_known(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(60, 2))
    groups = ["_a", "b", ""] * 20
    few = encoder_pictures.embedding_map(points, groups, "By site", tmp_path / "few.png")
    many = encoder_pictures.embedding_map(points, [f"s{i % 20}" for i in range(60)], "By site", tmp_path / "many.png")
    sizes = [len(colours(path)) for path in (few, many)]
    assert sizes[1] > sizes[0] > 10
    assert few.read_bytes() == encoder_pictures.embedding_map(points, groups, "By site", few).read_bytes()


def test_the_legend_counts_every_group_even_those_whose_names_begin_alike_or_with_an_underscore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(
        encoder_pictures.Figure, "legend", lambda self, handles, names, **_: shown.extend(names) or Legend()
    )
    long = [f"the same long beginning of a scanner's name {i}" for i in range(3)]
    groups = [*long, "_b", "_b", ""]
    encoder_pictures.embedding_map(np.zeros((6, 2)), groups, "By scanner", tmp_path / "map.png")
    assert len({*shown}) == 5
    assert {"_b (2)", "not known (1)"} <= {*shown}
    assert all(name.endswith(f"name {i} (1)") for i, name in enumerate(n for n in shown if n.startswith("the same")))


class Legend:
    legend_handles: tuple[object, ...] = ()


@pytest.mark.parametrize("num", [0, 1, 30])
def test_any_number_of_points_can_be_drawn(tmp_path: Path, num: int) -> None:
    points = np.zeros((num, 2))
    encoder_pictures.embedding_map(points, [""] * num, "$t$", tmp_path / "map.png")
    encoder_pictures.value_map(points, np.full(num, np.nan), "$t$", tmp_path / "values.png")
    encoder_pictures.value_map(points, np.arange(float(num)), "$t$", tmp_path / "values.png")
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_neighbours_stand_beside_their_query_framed_and_captioned_by_agreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, told = pictures(6), dict[str, object]()

    def sheet(shown: object, captions: object, out: Path, columns: int, tile: int, frames: object) -> Path:
        told.update(shown=shown, captions=captions, columns=columns, frames=frames)
        return out

    monkeypatch.setattr(encoder_pictures, "contact_sheet", sheet)
    similarity, same = np.array([[0.9, 0.8], [0.7, 0.6]]), np.array([[True, False], [False, False]])
    encoder_pictures.neighbours(images[:2], [images[2:4], images[4:]], similarity, same, tmp_path / "n.png")
    assert told["captions"] == [
        "query", "same label, 0.900", "other label, 0.800", "query", "other label, 0.700", "other label, 0.600"
    ]  # fmt: skip
    blue, orange = encoder_pictures.SAME, encoder_pictures.OTHER
    assert told["frames"] == [None, blue, orange, None, orange, orange]
    assert told["columns"] == 3
    assert [id(image) for image in told["shown"]] == [id(images[i]) for i in (0, 2, 3, 1, 4, 5)]  # type: ignore[attr-defined]
    encoder_pictures.neighbours(images[:1], [images[2:4]], similarity[:1], None, tmp_path / "n.png")
    assert told["captions"] == ["query", "0.900", "0.800"]
    assert told["frames"] == [None, None, None]


def test_a_frame_lies_around_its_tile_only(tmp_path: Path) -> None:
    path = contact_sheet([np.zeros((9, 9))] * 2, ["a", "b"], tmp_path / "s.png", 2, 80, ["#0072B2", None])
    with Image.open(path) as sheet:
        assert sheet.getpixel((GAP, GAP)) == rgb("#0072B2")
        assert sheet.getpixel((GAP + 40, GAP + 40)) == sheet.getpixel((2 * GAP + 80, GAP)) == (0, 0, 0)


def test_a_reliability_curve_is_drawn_of_any_bins(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(size=150)
    score = Score("ece", 0.05, 0.03, 0.11, 75)
    for rows in (slice(0, 1), slice(None)):
        p = predicted[rows]
        bins = reliability(p, rng.uniform(size=len(p)) < p, np.arange(len(p)).astype(str))
        path = encoder_pictures.reliability_curve(bins, score, "predicted probability of $x$", tmp_path / "r.png")
        assert rgb("#0072B2") in colours(path)
