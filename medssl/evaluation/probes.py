"""Probes: small models on frozen features of every kind of task; all are tuned by the same rule, baselines included."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from medssl.evaluation.problem import Floats, Kind
from medssl.evaluation.representation import unit
from medssl.evaluation.solvers import INVERSE_PENALTIES, Labelled, Space, solve

__all__ = ["INVERSE_PENALTIES", "Labelled", "knn_probe", "linear_probe", "pixels_probe"]

COMPONENTS = (8, 16, 32, 64, 128, 256)


def linear_probe(
    train: Labelled, val: Labelled, test_x: NDArray[Any], *, num_classes: int, kind: Kind = Kind.CLASSES
) -> Floats:
    """Return ``M K`` predictions of an l2-penalised linear model on features standardised by ``train``.

    Model and rule of tuning are those of ``solvers``; ``num_classes`` (findings; 1 of a regression) is ``K``.

    Raises:
        EvaluationError: ``train`` holds fewer than two classes.
    """
    return solve([_standardised(train.x, val.x, test_x)], train, val, kind=kind, num_classes=num_classes)


def pixels_probe(
    train: Labelled,
    val: Labelled,
    test_x: NDArray[Any],
    basis_x: NDArray[Any],
    *,
    num_classes: int,
    seed: int,
    kind: Kind = Kind.CLASSES,
) -> Floats:
    """Return ``M K`` predictions of PCA and a linear model: the baseline, tuned as well as what it judges.

    Pixels are standardised and decomposed on ``basis_x`` (``B D``; labels are not needed, an encoder sees the
    unlabelled images too). The number of components, whether each is scaled to unit spread, and the penalty are
    chosen together, by the rule of ``linear_probe``. Unscaled components equal a linear model on all pixels
    where there are many labels, scaled ones win where there are few.
    """
    scaler = StandardScaler().fit(basis_x.astype(np.float64))
    limit = min(*basis_x.shape, COMPONENTS[-1])
    pca = PCA(limit, svd_solver="randomized", random_state=seed).fit(scaler.transform(basis_x))
    limit = max(1, int((pca.explained_variance_ > 1e-10 * pca.explained_variance_[0]).sum()))  # the rest is rounding

    def components(x: NDArray[Any]) -> Floats:
        return pca.transform(scaler.transform(x))[:, :limit] if len(x) else np.empty((0, limit))

    parts = components(train.x), components(val.x), components(test_x)
    spaces = []
    for size in [k for k in COMPONENTS if k < limit] + [limit]:
        train_x, val_x, rest_x = (part[:, :size] for part in parts)
        spaces.append(_standardised(train_x, val_x, rest_x))
        spread = max(float(train_x.std()), 1e-12)
        spaces.append((np.concatenate([train_x, val_x]) / spread, rest_x / spread))
    return solve(spaces, train, val, kind=kind, num_classes=num_classes)


def knn_probe(
    train: Labelled,
    test_x: NDArray[Any],
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    kind: Kind = Kind.CLASSES,
) -> Floats:
    """Return ``M K`` votes (means of numbers) of the ``k`` most similar rows, weighted exp(cosine / temperature).

    Wu et al., CVPR 2018, section 3.4, with the ``k`` and temperature of DINO (Caron et al., ICCV 2021); ``k`` falls to
    the number of training rows where there are fewer.
    """
    k = min(k, len(train.x))
    bank = unit(train.x)
    member = np.eye(num_classes)[train.y] if kind.exclusive else train.y.reshape(-1, num_classes)
    votes = np.empty((len(test_x), num_classes))
    for start in range(0, len(test_x), 1024):  # never the whole M N matrix
        similarity = unit(test_x[start : start + 1024]) @ bank.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        close = np.take_along_axis(similarity, nearest, axis=1)
        weight = np.exp((close - close.max(axis=1, keepdims=True)) / temperature)
        weight /= weight.sum(axis=1, keepdims=True)
        votes[start : start + 1024] = np.einsum("mk,mkc->mc", weight, member[nearest])
    return votes


def _standardised(train_x: NDArray[Any], val_x: NDArray[Any], test_x: NDArray[Any]) -> Space:
    """Return [train; val] and test, scaled by the mean and spread of ``train_x``."""
    scaler = StandardScaler().fit(train_x.astype(np.float64))
    known = np.concatenate([train_x, val_x]).astype(np.float64)
    return scaler.transform(known), scaler.transform(test_x.astype(np.float64))
