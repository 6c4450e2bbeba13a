"""Probes: small classifiers on frozen features; all are tuned by the same rule, baselines included."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from medssl.core.errors import EvaluationError
from medssl.evaluation.metrics import Floats

INVERSE_PENALTIES = tuple(float(c) for c in np.logspace(-5, 2, 8))
UNTUNED_INVERSE_PENALTY = 1e-2  # where neither validation nor cross-validation can be had
COMPONENTS = (8, 16, 32, 64, 128, 256)
MAX_FOLDS = 5


@dataclass(frozen=True)
class Labelled:
    """Features with their labels: ``x`` ``N D``, ``y`` ``N`` class indices, ``patients`` ``N``."""

    x: NDArray[Any]
    y: NDArray[np.int64]
    patients: NDArray[Any]


@dataclass(frozen=True)
class _Fold:
    fit: NDArray[np.int64]  # rows of [train; val]
    held: NDArray[np.int64]


def linear_probe(train: Labelled, val: Labelled, test_x: NDArray[Any], *, num_classes: int) -> Floats:
    """Return ``M K`` probabilities of an l2-penalised logistic regression on features standardised by ``train``.

    The penalty has the lowest log loss on ``val``; where ``val`` lacks a class of ``train``, in patient-grouped
    cross-validation of ``train`` instead.

    Raises:
        EvaluationError: ``train`` holds fewer than two classes.
    """
    return _logistic([_standardised(train.x, val.x, test_x)], train, val, num_classes)


def pixels_probe(
    train: Labelled, val: Labelled, test_x: NDArray[Any], basis_x: NDArray[Any], *, num_classes: int, seed: int
) -> Floats:
    """Return ``M K`` probabilities of PCA and logistic regression: the baseline, tuned as well as what it judges.

    Pixels are standardised and decomposed on ``basis_x`` (``B D``; labels are not needed, an encoder sees the
    unlabelled images too). The number of components, whether each is scaled to unit spread, and the penalty are
    chosen together, by the rule of ``linear_probe``. Unscaled components equal logistic regression on all pixels
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
    return _logistic(spaces, train, val, num_classes)


def knn_probe(
    train: Labelled, test_x: NDArray[Any], *, num_classes: int, k: int = 20, temperature: float = 0.07
) -> Floats:
    """Return ``M K`` votes of the ``k`` most similar training rows, each weighted exp(cosine / temperature).

    Wu et al., CVPR 2018, section 3.4, with the ``k`` and temperature of DINO (Caron et al., ICCV 2021); ``k`` falls to
    the number of training rows where there are fewer.
    """
    k = min(k, len(train.x))
    bank, member = _unit(train.x), np.eye(num_classes)[train.y]
    votes = np.empty((len(test_x), num_classes))
    for start in range(0, len(test_x), 1024):  # never the whole M N matrix
        similarity = _unit(test_x[start : start + 1024]) @ bank.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        close = np.take_along_axis(similarity, nearest, axis=1)
        weight = np.exp((close - close.max(axis=1, keepdims=True)) / temperature)
        votes[start : start + 1024] = np.einsum("mk,mkc->mc", weight, member[nearest])
    return np.asarray(votes / votes.sum(axis=1, keepdims=True))


def _unit(x: NDArray[Any]) -> Floats:
    x = np.asarray(x, dtype=np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _standardised(train_x: NDArray[Any], val_x: NDArray[Any], test_x: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return [train; val] and test, scaled by the mean and spread of ``train_x``."""
    scaler = StandardScaler().fit(train_x.astype(np.float64))
    known = np.concatenate([train_x, val_x]).astype(np.float64)
    return scaler.transform(known), scaler.transform(test_x.astype(np.float64))


def _logistic(spaces: Sequence[tuple[Floats, Floats]], train: Labelled, val: Labelled, num_classes: int) -> Floats:
    """Fit on the space and penalty of least held-out log loss (ties: fewer dimensions, then more penalty)."""
    if len(np.unique(train.y)) < 2:
        raise EvaluationError(f"a probe needs two classes to train on, found one among {len(train.y)} rows")
    y, folds = np.concatenate([train.y, val.y]), _folds(train, val)
    best, space, inverse_penalty = np.inf, spaces[0], UNTUNED_INVERSE_PENALTY
    for candidate in spaces if folds else ():
        losses = np.mean([_path(candidate[0], y, fold, num_classes) for fold in folds], axis=0)
        if losses.min() < best:
            best, space, inverse_penalty = losses.min(), candidate, INVERSE_PENALTIES[int(losses.argmin())]
    model = LogisticRegression(C=inverse_penalty, max_iter=1000)
    return _probabilities(_fit(model, space[0][: len(train.y)], train.y), space[1], num_classes)


def _path(x: Floats, y: NDArray[np.int64], fold: _Fold, num_classes: int) -> list[float]:
    """Return the held-out log loss of each penalty; every fit starts from the one before."""
    model, losses = LogisticRegression(max_iter=1000, warm_start=True), []
    for c in INVERSE_PENALTIES:
        _fit(model.set_params(C=c), x[fold.fit], y[fold.fit])
        given = _probabilities(model, x[fold.held], num_classes)[np.arange(len(fold.held)), y[fold.held]]
        losses.append(float(-np.log(np.maximum(given, 1e-15)).mean()))
    return losses


def _fit(model: LogisticRegression, x: Floats, y: NDArray[np.int64]) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # held-out data judges an unfinished fit like any other
        return model.fit(x, y)


def _probabilities(model: LogisticRegression, x: Floats, num_classes: int) -> Floats:
    out = np.zeros((len(x), num_classes))
    out[:, model.classes_] = model.predict_proba(x)
    return out


def _folds(train: Labelled, val: Labelled) -> list[_Fold]:
    rows = np.arange(len(train.y))
    if set(train.y) <= set(val.y):
        return [_Fold(rows, len(rows) + np.arange(len(val.y)))]
    rarest = min(len(np.unique(train.patients[train.y == c])) for c in np.unique(train.y))
    if rarest < 2:
        return []
    splitter = StratifiedGroupKFold(min(MAX_FOLDS, rarest))
    folds = [_Fold(fit, held) for fit, held in splitter.split(rows, train.y, train.patients)]
    return [f for f in folds if len(f.held) and len(np.unique(train.y[f.fit])) > 1]
