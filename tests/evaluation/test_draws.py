"""Which labels a fraction buys: nested draws of whole patients that show what there is to learn."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_grid import cohort

from medssl.core.types import Role
from medssl.evaluation.label_efficiency import CurveConfig, draws
from medssl.evaluation.problem import Kind, Problem


@settings(max_examples=30)
@given(st.integers(30, 120), st.integers(1, 3), st.integers(0, 9), st.floats(0.2, 1.0))
def test_draws_are_nested_by_patient_see_every_class_and_scale_val_with_them(
    num_patients: int, images_each: int, seed: int, labelled: float
) -> None:
    problem = cohort(num_patients, images_each, seed, labelled)
    rows = {role: problem.rows(role) for role in Role}
    if any(len(np.unique(problem.truth[found])) < 2 for found in rows.values()):
        return
    made = draws(problem, CurveConfig(seeds=2), seed)
    for one in made:
        assert set(one.train) <= set(rows[Role.DEV]) and set(one.val) <= set(rows[Role.VAL])
        assert set(problem.truth[one.train]) == {0.0, 1.0}
        for drawn, role in ((one.train, Role.DEV), (one.val, Role.VAL)):
            bought = set(problem.patients[drawn])
            assert sorted(drawn) == [row for row in rows[role] if problem.patients[row] in bought]  # all of a patient
        num_val = len(np.unique(problem.patients[rows[Role.VAL]]))
        assert len(np.unique(problem.patients[one.val])) == round(one.fraction * num_val)
    for small, large in zip(made, made[2:], strict=False):
        assert small.seed == large.seed
        assert set(small.train) < set(large.train)
        assert set(small.val) <= set(large.val)
    assert set(made[-1].train) == set(rows[Role.DEV])


def test_a_regression_of_few_different_numbers_learns_from_two_that_differ() -> None:
    counts = cohort(120, 1)
    rare = np.where(np.random.default_rng(3).random(len(counts)) < 0.1, 2.0, 0.0)
    problem = replace(counts, kind=Kind.REGRESSION, names=(), truth=rare)
    config = CurveConfig(fractions=(0.01, 1.0), seeds=5)
    for one in draws(problem, config, 0):
        assert len({*problem.truth[one.train]}) == 2
    assert draws(problem, config, 0)[0].fraction < 0.05


@pytest.mark.parametrize("num_dev", [2, 5, 60])
def test_a_draw_is_called_by_what_it_buys_and_buys_as_large_a_share_of_val(num_dev: int) -> None:
    roles = ["dev"] * num_dev + ["val"] * 40 + ["test"] * 20
    labels = [str(i % 3 if i > 2 else i) for i in range(len(roles))]
    problem = Problem.of("t", labels, roles, [f"p{i:03}" for i in range(len(roles))])
    made = draws(problem, CurveConfig(seeds=1, fractions=(0.01, 0.02, 0.5, 1.0)), 0)
    for one in made:
        assert one.fraction == pytest.approx(len(one.train) / num_dev, abs=0.5 / num_dev)
        assert len(one.val) == round(one.fraction * 40)
    assert made[-1].fraction == 1 and len(made[-1].train) == num_dev
    assert len({one.fraction for one in made}) == len(made)
