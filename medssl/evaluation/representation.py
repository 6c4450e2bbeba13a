"""What a representation shows without labels: figures that tell a collapsed encoder, and its directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RANKME_ROWS = 25_600  # the paper's sample
RANKME_EPSILON = 1e-7


def feature_std(features: NDArray[Any]) -> float:
    """Return the mean per-dimension standard deviation of the l2-normalised features, times sqrt(D).

    About 1 for features spread over the sphere, 0 when every image maps to one point
    (Chen and He, SimSiam, CVPR 2021, section 4.1 and figure 2). A mean that all images share lowers it too.

    Args:
        features: ``N D``.
    """
    z = unit(features)
    return float(z.std(axis=0).mean() * np.sqrt(z.shape[1]))


def rankme(features: NDArray[Any]) -> float:
    """Return the effective rank: exp of the entropy of the normalised singular values, from 1 to min(N, D).

    Garrido et al., RankMe, ICML 2023, equations 1 and 2; not centred, as in the paper. Above 25,600 rows, as many
    evenly spaced rows stand for all.

    Args:
        features: ``N D``.
    """
    z = np.asarray(features)
    if len(z) > RANKME_ROWS:
        z = z[np.linspace(0, len(z) - 1, RANKME_ROWS).astype(np.int64)]
    sigma = np.linalg.svd(z.astype(np.float64), compute_uv=False)
    p = sigma / max(float(sigma.sum()), 1e-300) + RANKME_EPSILON
    return float(np.exp(-(p * np.log(p)).sum()))


def unit(features: NDArray[Any]) -> NDArray[np.float64]:
    """Return rows of length 1."""
    z = np.asarray(features, dtype=np.float64)
    return np.asarray(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12))


def directions(features: NDArray[Any], basis: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return features as directions from the mean of the rows ``basis``, which needs no label.

    A mean that all images share hides their differences from cosines (CL2N of Wang et al., SimpleShot,
    arXiv:1911.04623).
    """
    z = np.asarray(features, dtype=np.float64)
    return unit(z - z[basis].mean(axis=0))
