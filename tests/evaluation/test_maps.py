"""A representation laid out for people: neighbourhoods survive, and nobody is his own neighbour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.evaluation.maps import agree, nearest, plane, shown_rows
from medssl.evaluation.problem import Kind, Problem


def problem(values: list[str | None], kind: Kind = Kind.CLASSES, order: tuple[str, ...] = ()) -> Problem:
    people = [f"p{i}" for i in range(len(values))]
    return Problem.of("t", values, ["dev"] * len(values), people, kind=kind, order=order)


def test_groups_that_lie_apart_stay_apart_on_the_plane_and_repeat() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (3, 16)).repeat(30, axis=0)
    features = centres + rng.normal(0, 1, centres.shape)
    points = plane(features, seed=1)
    assert points.shape == (90, 2)
    assert np.array_equal(points, plane(features, seed=1))
    group = np.arange(3).repeat(30)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + np.where(np.eye(90), np.inf, 0)
    assert (group[distance.argsort(axis=1)[:, :5]] == group[:, None]).all()


@settings(max_examples=12)
@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from(["random", "constant", "one odd"]))
def test_any_features_find_a_finite_place(num: int, width: int, kind: str) -> None:
    features = np.random.default_rng(num).normal(size=(num, width)) if kind == "random" else np.ones((num, width))
    if kind == "one odd":
        features[0] = 7
    points = plane(features, seed=0)
    assert points.shape == (num, 2)
    assert np.isfinite(points).all()


def test_labelled_rows_are_shown_first() -> None:
    found = shown_rows(problem([None, "a", None, "b", None, None]), 3, seed=0)
    assert {1, 3} <= set(found.tolist())
    assert len(found) == 3
    assert shown_rows(problem(["a"] * 4), 9, seed=0).tolist() == [0, 1, 2, 3]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 8))
def test_neighbours_are_the_nearest_images_of_other_patients_one_each(seed: int, k: int, num_patients: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(20, 4))
    patients = np.array([f"p{i}" for i in rng.integers(num_patients, size=20)])
    queries, bank = np.arange(5), np.arange(3, 20)
    found = nearest(features, queries, bank, patients, k)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for query, rows, values in zip(queries, found.rows, found.similarity, strict=True):
        assert patients[query] not in patients[rows]
        assert len({*patients[rows]}) == len(rows)
        assert np.allclose(values, unit[rows] @ unit[query])
        assert (np.diff(values) <= 0).all()
        others = [max(unit[bank[patients[bank] == p]] @ unit[query]) for p in {*patients[bank]} - {patients[query]}]
        assert np.allclose(values, sorted(others, reverse=True)[: len(rows)])


def test_an_empty_bank_has_no_neighbours() -> None:
    nobody = np.array([], np.int64)
    assert nearest(np.ones((2, 3)), np.arange(2), nobody, np.array(["a", "b"]), 5).rows.shape == (2, 0)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["a", "a", "b", None], Kind.CLASSES, [True, False, False]),
        (["x|y", "y|x", "x", None], Kind.MULTILABEL, [True, False, False]),
        (["1.0", "1.2", "9", None], Kind.REGRESSION, [True, False, False]),
    ],
)
def test_agreement_follows_the_kind_of_label(values: list[str | None], kind: Kind, expected: list[bool]) -> None:
    found = agree(problem(values, kind), np.array([0]), np.array([[1, 2, 3]]))
    assert found.tolist() == [expected]
