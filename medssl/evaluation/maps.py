"""A representation laid out for people: a plane of points, and the nearest images of other patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.keys import generator, hash_words
from medssl.evaluation.problem import Floats, Problem, Rows

COMPONENTS, PERPLEXITY = 50, 30.0  # van der Maaten and Hinton 2008, section 4.2
FEWEST = 10  # points that t-SNE can say anything about


def shown_rows(problem: Problem, most: int, seed: int) -> Rows:
    """Return up to ``most`` rows, ascending: labelled ones first, drawn at random where they are too many."""
    order = generator("embedding map", seed).permutation(len(problem))
    first = order[np.argsort(~problem.known[order], kind="stable")]
    return np.sort(first[:most])


def plane(features: NDArray[Any], seed: int) -> Floats:
    """Return ``N 2``: t-SNE of the first 50 principal components of features ``N D``.

    Of fewer than ten points the first two principal components alone. Neighbourhoods are kept; distances between groups
    and their sizes mean nothing (van der Maaten and Hinton, JMLR 2008).
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = np.asarray(features, np.float64)
    x = x - x.mean(0)
    x = x / max(float(x.std()), 1e-12)
    if min(x.shape) < 2 or not np.any(x):
        return np.pad(x[:, :2], ((0, 0), (0, max(0, 2 - x.shape[1]))))
    state = hash_words("embedding map", seed) % 2**32
    parts: Floats = PCA(min(COMPONENTS, *x.shape), random_state=state).fit_transform(x)
    if len(x) < FEWEST:
        return parts[:, :2]
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    start = parts[:, :2] / max(float(parts[:, 0].std()), 1e-12) * 1e-4  # as sklearn's init="pca", of a constant too
    laid_out: Floats = TSNE(perplexity=perplexity, init=start, random_state=state).fit_transform(parts)
    return laid_out.astype(np.float64)


@dataclass(frozen=True)
class Nearest:
    """The ``k`` nearest rows of ``Q`` queries, nearest first, and their cosine similarities: ``Q k`` each."""

    rows: Rows
    similarity: Floats


def nearest(features: NDArray[Any], queries: Rows, bank: Rows, patients: NDArray[np.str_], k: int) -> Nearest:
    """Return for each query its ``k`` nearest rows of ``bank``, each of another patient, none of the query's own.

    Fewer than ``k`` where the bank has fewer patients.

    Args:
        features: ``N D``.
        queries: rows.
        bank: rows.
        patients: ``N``.
        k: neighbours of a query.
    """
    x = np.asarray(features, np.float64).reshape(len(features), -1)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    own = int(np.isin(patients[queries], patients[bank]).any())
    k = max(0, min(k, len(np.unique(patients[bank])) - own))
    similarity = x[queries] @ x[bank].T  # Q B
    similarity[patients[queries][:, None] == patients[bank]] = -np.inf
    rows, values = [], []
    for found in similarity:
        order = np.argsort(-found, kind="stable")
        _, first = np.unique(patients[bank][order], return_index=True)
        chosen = order[np.sort(first)][:k]
        rows.append(bank[chosen])
        values.append(found[chosen])
    return Nearest(np.array(rows, np.int64).reshape(len(queries), k), np.array(values).reshape(len(queries), k))


def agree(problem: Problem, queries: Rows, found: Rows) -> NDArray[np.bool_]:
    """Return whether each of ``found``, ``Q k``, has the label of its query; a number within half a deviation."""
    truth = problem.truth.reshape(len(problem), -1)  # N K
    slack = 0.0 if problem.names else 0.5 * float(np.nanstd(truth))
    return np.asarray((np.abs(truth[found] - truth[queries][:, None]) <= slack).all(axis=2))
