"""Golden curves stay where they are, raise no alarm, and a forced collapse raises one."""

from pathlib import Path

import pytest
from golden.curves import CASES, STEPS, read, run

from medssl.core.errors import TrainingError

COLLAPSING = [("dino", 2), ("dino", 3), ("moco_v3", 2), ("moco_v3", 3)]
WITHIN = 100  # steps
RUINED = [  # within so many steps; rotation only lives to see it with its gradients clipped, MAE in 2D mostly recovers
    pytest.param("mae", 3, 100, None, marks=pytest.mark.slow),  # another BLAS might recover
    ("rotation", 2, 100, 1.0),
    ("rotation", 3, 100, 1.0),
]


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


@pytest.mark.parametrize(("name", "ndim", "within", "clip_norm"), RUINED)
def test_a_method_that_cannot_collapse_by_its_loss_is_ruined_by_a_hundred_times_the_learning_rate_and_that_is_said(
    name: str, ndim: int, within: int, clip_norm: float | None, tmp_path: Path
) -> None:
    _, journal = run(name, ndim, tmp_path, steps=within, lr_times=100, log_steps=10, clip_norm=clip_norm)
    assert any("the representation is collapsing" in note for note in journal.notes)


@pytest.mark.parametrize(("name", "ndim", "within", "clip_norm"), RUINED)
def test_the_same_steps_at_the_golden_learning_rate_ruin_nothing(
    name: str, ndim: int, within: int, clip_norm: float | None, tmp_path: Path
) -> None:
    _, journal = run(name, ndim, tmp_path, steps=within, log_steps=10, clip_norm=clip_norm)
    assert not journal.notes


@pytest.mark.parametrize(
    ("name", "ndim", "steps"),
    [
        ("mae", 2, 420),  # methods judge their task from 200 steps on: too hard halfway, too easy in the first fifth
        ("rotation", 2, 420),
        *(pytest.param(*case, 420, marks=pytest.mark.slow) for case in CASES),
        *(pytest.param(name, 2, 1200, marks=pytest.mark.slow) for name in ("mae", "moco_v3", "rotation")),
    ],
)
def test_a_healthy_run_that_is_long_enough_to_be_judged_raises_no_alarm(
    name: str, ndim: int, steps: int, tmp_path: Path
) -> None:
    _, journal = run(name, ndim, tmp_path, steps=steps, log_steps=20)
    assert not journal.notes


@pytest.mark.parametrize("ndim", [2, 3])
def test_rotation_without_clipping_does_not_survive_that_rate_and_says_what_to_lower(ndim: int, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not finite in 5 steps in a row.*lower loop\.lr"):
        run("rotation", ndim, tmp_path, steps=WITHIN, lr_times=100, log_steps=10)


def test_a_centre_that_stands_still_leaves_one_prototype_and_that_is_said(tmp_path: Path) -> None:
    settings = {"centre_momentum": 0.9999, "teacher_temperature": (0.04, 0.04)}
    _, journal = run("dino", 2, tmp_path, steps=WITHIN, lr_times=10, log_steps=10, **settings)
    assert any("collapsed to one prototype" in note for note in journal.notes)
