"""How well segmentations overlap, case by case, by MONAI: Dice and the 95th percentile of the Hausdorff distance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics import compute_dice, compute_hausdorff_distance
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError


@dataclass(frozen=True)
class Overlap:
    """One row a case, one column a class but for the background: both ``N K-1``.

    A class that neither truth nor prediction holds has no value: NaN. One that only one of them holds is missed or
    invented: Dice 0, and as distance the diagonal of the image, above any that there is, since to leave such cases out
    would reward a model that finds nothing.
    """

    dice: NDArray[np.float64]
    hd95_mm: NDArray[np.float64]


def overlap(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], spacing_mm: Sequence[float], *, num_classes: int
) -> Overlap:
    """Compare label maps of one grid.

    Args:
        truth: ``N *S`` class indices, 0 is background; *S* has two or three axes.
        predicted: likewise.
        spacing_mm: of the axes *S*.
        num_classes: background included.

    Raises:
        EvaluationError: shapes differ, the spacing does not fit, or a class is out of range.
    """
    if truth.shape != predicted.shape or len(spacing_mm) != truth.ndim - 1:
        raise EvaluationError(
            f"truth {truth.shape}, prediction {predicted.shape} and {len(spacing_mm)} spacings do not fit together"
        )
    for name, labels in (("truth", truth), ("prediction", predicted)):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            raise EvaluationError(
                f"{name} holds classes {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}"
            )
    diagonal = float(np.linalg.norm(np.array(truth.shape[1:]) * np.array(spacing_mm)))
    cases = [_case(t, p, list(spacing_mm), num_classes, diagonal) for t, p in zip(truth, predicted, strict=True)]
    found = np.array(cases, np.float64).reshape(len(truth), 2, num_classes - 1)
    return Overlap(found[:, 0], found[:, 1])


def _case(
    truth: NDArray[np.integer],
    predicted: NDArray[np.integer],
    spacing_mm: list[float],
    num_classes: int,
    diagonal: float,
) -> tuple[list[float], list[float]]:
    """Return Dice and HD95 of each class; one case at a time, since one-hot maps are large."""
    y, given = (_one_hot(labels, num_classes) for labels in (truth, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MONAI warns of each class that a case lacks,
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)  # and of how it calls itself
        dice = compute_dice(given, y, include_background=False, ignore_empty=False)[0]
        distance = compute_hausdorff_distance(given, y, percentile=95, spacing=spacing_mm)[0]
    held = torch.stack([part[0, 1:].flatten(1).any(dim=1) for part in (y, given)]).sum(dim=0)
    nothing = torch.full_like(dice, torch.nan)
    dice = torch.where(held == 0, nothing, torch.where(held == 1, 0.0, dice))
    distance = torch.where(held == 0, nothing, torch.where(held == 1, diagonal, distance))
    return dice.tolist(), distance.tolist()


def _one_hot(labels: NDArray[np.integer], num_classes: int) -> torch.Tensor:
    """Return ``1 K *S``."""
    return F.one_hot(torch.from_numpy(labels.astype(np.int64)), num_classes).movedim(-1, 0)[None]
