"""How far the views of pretraining move an image, in terms of how far apart other images are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.audits import Audit
from medssl.evaluation.bootstrap import mean_bootstrap
from medssl.evaluation.problem import Floats

WEAK, STRONG = 0.995, 0.60  # area under the curve of "same image?" by similarity, with features that learned nothing


def view_audit(
    views: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    patients: Sequence[Any] | NDArray[Any],
    *,
    comparing: bool,
    seed: int,
    num_resamples: int = 1000,
) -> Audit:
    """Ask whether two views of an image are still recognised as one, and whether that takes anything.

    A warning, for methods that compare views, where an untrained encoder recognises nearly all (there is nothing to
    learn: too weak) or hardly any (there is nothing left to learn from: too strong).

    Args:
        views: features ``N D`` of a first and a second view of the same images, by system; ``random`` decides.
        patients: of the images; other images of one patient are no "other image".
        comparing: whether the method learns by comparing views.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
    """
    scores = {
        name: mean_bootstrap("same-image auroc", recognised(*pair, patients), patients, seed=seed, num=num_resamples)
        for name, pair in views.items()
    }
    found = scores["random"]
    finding = f"Two views of an image are recognised among other images by an untrained encoder with {found}"
    finding += f", by the encoder with {scores['encoder'].value:.3f}" if "encoder" in scores else ""
    weak, strong = comparing and found.low > WEAK, comparing and found.high < STRONG
    if weak:
        finding = f"The views are too weak: they move an image less than images differ. {finding}"
    if strong:
        finding = f"The views are too strong: hardly anything of an image is left in both. {finding}"
    return Audit("views", f"{finding}.", weak or strong, scores)


def recognised(first: NDArray[Any], second: NDArray[Any], patients: Sequence[Any] | NDArray[Any]) -> Floats:
    """Return for each image how many images of other patients its second view is nearer to the first than, ``N``.

    A share in [0, 1], ties count half; NaN without another patient. Nearness is the cosine of centred features.
    """
    a, b = (np.asarray(x, np.float64) for x in (first, second))
    centre = np.concatenate([a, b]).mean(0)
    a, b = (x - centre for x in (a, b))
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    nearness = a @ b.T  # N N
    _, person = np.unique(np.asarray(patients), return_inverse=True)
    other = person[:, None] != person
    own = np.diagonal(nearness)[:, None]
    beaten = (nearness < own) + 0.5 * (nearness == own)
    num = other.sum(1)
    return np.where(num > 0, (beaten * other).sum(1) / np.maximum(num, 1), np.nan)
