"""Overlap of segmentations: MONAI's values, cases worked by hand, and cases in which one side finds nothing."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance

from medssl.core.errors import EvaluationError
from medssl.evaluation.bootstrap import mean_bootstrap
from medssl.finetune.overlap import overlap


def box(shape, *slices):
    image = np.zeros(shape, np.uint8)
    image[slices] = 1
    return image


def test_a_square_moved_by_two_pixels_has_the_dice_and_distance_worked_by_hand():
    truth = box((20, 20), slice(4, 10), slice(4, 10))[None]
    moved = box((20, 20), slice(6, 12), slice(4, 10))[None]  # 6 x 4 of 6 x 6 pixels in common
    found = overlap(truth, moved, (1.5, 0.5), num_classes=2)
    assert found.dice[0, 0] == pytest.approx(24 / 36)
    assert found.hd95_mm[0, 0] == pytest.approx(2 * 1.5)  # the far edge lies two rows of 1.5 mm away
    same = overlap(truth, truth, (1.5, 0.5), num_classes=2)
    assert (same.dice[0, 0], same.hd95_mm[0, 0]) == (1, 0)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("shape", [(24, 20), (12, 10, 14)])
def test_values_equal_monai_on_the_same_masks_for_each_case_and_class(shape):
    rng = np.random.default_rng(0)
    truth, predicted = (rng.integers(3, size=(4, *shape)) for _ in range(2))
    spacing = [0.7, 1.3, 2.0][: len(shape)]
    found = overlap(truth, predicted, spacing, num_classes=3)
    y, p = (torch.nn.functional.one_hot(torch.from_numpy(v), 3).movedim(-1, 1) for v in (truth, predicted))
    assert found.dice == pytest.approx(compute_dice(p, y, include_background=False).numpy())
    distance = compute_hausdorff_distance(p, y, percentile=95, spacing=spacing)
    assert found.hd95_mm == pytest.approx(distance.numpy())


def test_a_missed_and_an_invented_structure_are_the_worst_and_one_that_nobody_sees_has_no_value():
    something, nothing = box((9, 13), slice(2, 5), slice(2, 5)), np.zeros((9, 13), np.uint8)
    truth, predicted = np.stack([something, nothing, nothing]), np.stack([nothing, something, nothing])
    found = overlap(truth, predicted, (3.0, 4.0), num_classes=2)
    assert found.dice[:2, 0].tolist() == [0, 0]
    assert found.hd95_mm[:2, 0] == pytest.approx(np.hypot(9 * 3, 13 * 4))
    assert np.isnan(found.dice[2, 0]) and np.isnan(found.hd95_mm[2, 0])
    score = mean_bootstrap("dice", found.dice[:, 0], ["a", "b", "c"], seed=0, num=100)
    assert (score.value, score.n) == (0, 2)


@pytest.mark.parametrize(
    ("truth", "predicted", "spacing", "words"),
    [
        (np.zeros((1, 4, 4), int), np.zeros((1, 4, 5), int), (1, 1), "do not fit together"),
        (np.zeros((1, 4, 4), int), np.zeros((1, 4, 4), int), (1, 1, 1), "3 spacings do not fit"),
        (np.full((1, 4, 4), 2), np.zeros((1, 4, 4), int), (1, 1), "truth holds classes 2 to 2, expected 0 to 1"),
    ],
)
def test_maps_that_do_not_fit_are_refused(truth, predicted, spacing, words):
    with pytest.raises(EvaluationError, match=words):
        overlap(truth, predicted, spacing, num_classes=2)
