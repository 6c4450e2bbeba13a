"""Choosing by held-out labels: val where it is large enough, patient-grouped folds where not, never test."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core.errors import EvaluationError
from medssl.evaluation.choosing import ENOUGH, BestOf, Telling, Tuning, holdouts, standing
from medssl.evaluation.problem import Kind, Problem


def problem(num_val: int, num_dev: int = 30, images_each: int = 2, kind: Kind = Kind.CLASSES) -> Problem:
    """Patients of alternating classes: dev first, then val, then 40 of test."""
    num = num_dev + num_val + 40
    roles = ["dev"] * num_dev + ["val"] * num_val + ["test"] * 40
    each = np.repeat(np.arange(num), images_each)
    values = [str(i % 2) for i in range(num)]
    return Problem.of(
        "t", [values[i] for i in each], [roles[i] for i in each], [f"p{i:03}" for i in each], kind=kind,
        order=() if kind is Kind.REGRESSION else ("0", "1"),
    )  # fmt: skip


def rows(found: Problem, role: str) -> np.ndarray:
    return np.flatnonzero(found.roles == role)


def knows(found: Problem, worth: float, seen: list | None = None):
    """A fit whose predictions follow the truth by ``worth``, and are noise for the rest."""

    def fit(train, val, test, seed):
        if seen is not None:
            seen.append((set(train.tolist()), set(val.tolist()), set(test.tolist())))
        noise = np.random.default_rng(seed).random(len(found))[test]
        chance = worth * found.truth[test] + (1 - worth) * noise
        return np.stack([1 - chance, chance], axis=1)

    return fit


def test_val_chooses_where_each_class_has_enough_patients_there_and_folds_where_not() -> None:
    large, small = problem(2 * ENOUGH), problem(2 * ENOUGH - 1)
    (only,) = holdouts(large, rows(large, "dev"), rows(large, "val"))
    assert set(only.fit) == set(rows(large, "dev")) and set(only.held) == set(rows(large, "val"))
    folds = holdouts(small, rows(small, "dev"), rows(small, "val"))
    assert len(folds) == 3
    assert {row for way in folds for row in (*way.fit, *way.held)} == set(rows(small, "dev"))  # val is not learnt from


@settings(max_examples=40)
@given(st.integers(4, 40), st.integers(1, 4), st.sampled_from([Kind.CLASSES, Kind.REGRESSION]))
def test_no_patient_is_on_both_sides_of_a_fold_and_each_row_is_held_out_once(
    num_dev: int, images_each: int, kind: Kind
) -> None:
    found = problem(0, num_dev, images_each, kind)
    train = rows(found, "dev")
    ways = holdouts(found, train, train[:0])
    assert sorted(row for way in ways for row in way.held) == train.tolist()
    for way in ways:
        assert not {*found.patients[way.fit]} & {*found.patients[way.held]}
        assert sorted((*way.fit, *way.held)) == train.tolist()


def test_a_class_of_one_patient_leaves_nothing_to_hold_out() -> None:
    found = problem(0, 3)
    assert holdouts(found, rows(found, "dev"), np.array([], np.int64)) == []


def test_patients_of_two_classes_who_leave_one_usable_fold_leave_nothing_to_choose_by_and_val_is_not_blamed() -> None:
    labels, patients = [0, 1, 0, 1, 1, 0, 1, 0, 0, 1], [*"abccc", *"vwx", *"st"]
    roles = ["dev"] * 5 + ["val"] * 3 + ["test"] * 2
    found = Problem.of("t", [str(label) for label in labels], roles, patients)
    dev, val, test = (rows(found, role) for role in ("dev", "val", "test"))
    assert len(val) < 2 * ENOUGH
    for held in (val, val[:0]):
        assert holdouts(found, dev, held, 2) == []
    seen: list = []
    best = BestOf(found, {"first": knows(found, 0.5, seen), "second": knows(found, 0.9)}, "auroc")
    best(dev, val, test, 0)
    assert best.told["chosen"] == "first"
    assert seen == [(set(dev.tolist()), set(val.tolist()), set(test.tolist()))]  # on all of train


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=2, max_size=16))
def test_however_patients_mix_classes_there_are_no_folds_or_several_that_each_teach_every_class(
    images: list[tuple[int, int]],
) -> None:
    found = Problem.of("t", [str(c) for _, c in images], ["dev"] * len(images), [f"p{p}" for p, _ in images])
    train = np.arange(len(images))
    ways = holdouts(found, train, train[:0])
    assert len(ways) != 1
    for way in ways:
        assert not way.is_val
        assert {*found.truth[way.fit]} == {*found.truth}


def test_ties_of_the_metric_are_settled_by_the_log_loss_and_lower_is_better_where_it_is() -> None:
    found = problem(10, images_each=1)
    val = rows(found, "val")
    truth = found.truth[val]
    sure, unsure = (np.stack([1 - p, p], axis=1) for p in (0.1 + 0.8 * truth, 0.45 + 0.1 * truth))
    assert standing(found, val, sure, "auroc")[0] == standing(found, val, unsure, "auroc")[0] == 1
    assert standing(found, val, sure, "auroc") > standing(found, val, unsure, "auroc")
    assert standing(found, val, sure, "brier") > standing(found, val, unsure, "brier")
    assert standing(found, val[::2], sure[::2], "auroc")[0] == -np.inf  # one class


@pytest.mark.parametrize("num_val", [0, 24])
def test_the_better_fit_is_chosen_and_its_predictions_returned(num_val: int) -> None:
    found = problem(num_val)
    fits = {"poor": knows(found, 0.1), "good": knows(found, 0.9)}
    best = BestOf(found, fits, "auroc")
    dev, val, test = (rows(found, role) for role in ("dev", "val", "test"))
    assert np.array_equal(best(dev, val, test, 3), fits["good"](dev, val, test, 3))
    assert isinstance(best, Telling)
    assert best.told["chosen"] == "good"
    assert best.told["because"] == ("val" if num_val else "3 folds")


@pytest.mark.parametrize("num_val", [0, 24])
def test_labels_of_test_patients_reach_no_choice(num_val: int) -> None:
    """Two fits, the one better on test being worse on what may be seen: the choice does not follow test."""
    found = problem(num_val)
    test = rows(found, "test")

    def seer(train, val, asked, seed):  # right on test alone
        chance = np.where(np.isin(asked, test), found.truth[asked], 1 - found.truth[asked])
        return np.stack([1 - chance, chance], axis=1)

    best = BestOf(found, {"seer": seer, "honest": knows(found, 0.5)}, "auroc")
    best(rows(found, "dev"), rows(found, "val"), test, 0)
    assert best.told["chosen"] == "honest"


def test_without_anything_to_hold_out_the_first_stands() -> None:
    found = problem(0, 3)
    best = BestOf(found, {"first": knows(found, 0.1), "second": knows(found, 0.9)}, "auroc")
    best(rows(found, "dev"), rows(found, "val"), rows(found, "test"), 0)
    assert best.told == {"chosen": "first", "because": "no label can be held out"}


def test_a_metric_of_another_kind_of_task_is_refused() -> None:
    found = problem(24)
    with pytest.raises(EvaluationError, match="does not judge"):
        BestOf(found, {"a": knows(found, 0.5)}, "r2")(*(rows(found, r) for r in ("dev", "val", "test")), 0)


@given(st.integers(1, 100), st.integers(1, 5000))
def test_steps_have_a_floor_and_a_ceiling_that_one_epoch_may_pass(epochs: int, steps_per_epoch: int) -> None:
    tuning = Tuning(least=200, most=1000)
    steps = tuning.epochs(epochs, steps_per_epoch) * steps_per_epoch
    assert steps >= 200
    assert steps < 1000 + steps_per_epoch
    if 200 <= epochs * steps_per_epoch <= 1000:
        assert steps == epochs * steps_per_epoch
