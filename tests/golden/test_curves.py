"""Golden curves stay where they are, raise no alarm, and a forced collapse raises one."""

from pathlib import Path

import pytest
from golden.curves import CASES, STEPS, read, run

COLLAPSING = [("dino", 2), ("dino", 3), ("moco_v3", 2), ("moco_v3", 3)]
WITHIN = 100  # steps


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_twenty_steps_follow_the_golden_curve_without_an_alarm(name: str, ndim: int, tmp_path: Path) -> None:
    losses, journal = run(name, ndim, tmp_path)
    assert len(losses) == STEPS
    assert losses == pytest.approx(read(name, ndim), rel=1e-4)  # another BLAS adds in another order
    assert not journal.notes


@pytest.mark.parametrize(("name", "ndim"), COLLAPSING)
def test_a_hundred_times_the_learning_rate_raises_an_alarm_within_a_hundred_steps(
    name: str, ndim: int, tmp_path: Path
) -> None:
    _, journal = run(name, ndim, tmp_path, steps=WITHIN, lr_times=100, log_steps=10)
    assert any("collapsed to uniform" in note or "contrast is at chance" in note for note in journal.notes)
    assert any("the representation is collapsing" in note for note in journal.notes)


@pytest.mark.parametrize(("name", "ndim"), COLLAPSING)
def test_the_same_hundred_steps_at_the_golden_learning_rate_raise_none(name: str, ndim: int, tmp_path: Path) -> None:
    _, journal = run(name, ndim, tmp_path, steps=WITHIN, log_steps=10)
    assert not journal.notes


def test_a_centre_that_stands_still_leaves_one_prototype_and_that_is_said(tmp_path: Path) -> None:
    settings = {"centre_momentum": 0.9999, "teacher_temperature": (0.04, 0.04)}
    _, journal = run("dino", 2, tmp_path, steps=WITHIN, lr_times=10, log_steps=10, **settings)
    assert any("collapsed to one prototype" in note for note in journal.notes)
