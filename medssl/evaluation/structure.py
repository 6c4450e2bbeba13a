"""What classes look like in a representation that has seen none: clusters and nearest images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom
from sklearn.cluster import KMeans

from medssl.core.errors import EvaluationError
from medssl.core.keys import hash_words
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation.bootstrap import Figure, score_of
from medssl.evaluation.discrimination import ratio
from medssl.evaluation.fits import finite
from medssl.evaluation.problem import Floats, Problem
from medssl.evaluation.representation import directions
from medssl.evaluation.results import ENCODER

NEIGHBOURS = (1, 5)
QUERIES_AT_ONCE = 512


@dataclass(frozen=True)
class Structure:
    """Figures of each system by name, and by how much the encoder's are higher than another system's.

    ``nmi`` and ``ari`` compare k-means clusters with classes; ``recall_at_1``, ``recall_at_5`` and ``map`` are of
    retrieval, and ``chance`` says what a random order of the same images would reach.
    """

    figures: Mapping[str, Mapping[str, Score]]
    differences: Mapping[str, Mapping[str, Score]]
    chance: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        figures, differences = (
            {system: {name: asdict(score) for name, score in found.items()} for system, found in table.items()}
            for table in (self.figures, self.differences)
        )
        return {"figures": figures, "differences": differences, "chance": dict(self.chance)}


def structure(
    problem: Problem, systems: Mapping[str, NDArray[Any]], *, seed: int = 0, num_resamples: int = 1000
) -> Structure:
    """Measure clusters and retrieval on the labelled test images, no label having been seen.

    Features are directions from the mean of all dev images. k-means (one cluster a class, ten starts) is fitted on all
    dev images. Each test image then asks for its nearest test images of OTHER patients: how often is one of the same
    class among the first 1 or 5, and what is the mean average precision. Images whose class no other patient has are
    no queries. Intervals are over patients, clusters and gallery being as they are.

    Args:
        problem: of classes, ordered or not.
        systems: ``N D`` features by name; ``encoder`` is the one that differences are taken of.
        seed: of k-means and of the bootstrap.
        num_resamples: of the bootstrap.

    Raises:
        EvaluationError: a regression or findings, fewer dev images than classes, or the test patients share no class.
    """
    if not problem.kind.exclusive:
        raise EvaluationError(f"clusters are compared with classes; a {problem.kind} task has none")
    test = problem.rows(Role.TEST)
    dev, patients = np.flatnonzero(problem.roles == str(Role.DEV)), problem.patients[test]
    truth = problem.truth[test].astype(np.int64)
    if len(dev) < len(problem.names):
        raise EvaluationError(f"{len(dev)} dev images cannot form {len(problem.names)} clusters, one a class")
    found: dict[str, dict[str, Figure]] = {}
    for name, features in systems.items():
        x = directions(finite(name, features, len(problem)), dev)
        state = hash_words("k-means", seed) % 2**32
        clusters = KMeans(len(problem.names), n_init=10, random_state=state).fit(x[dev]).predict(x[test])
        found[name] = _agreement(truth, clusters) | {
            key: _mean_of(values) for key, values in retrieval(x[test], truth, patients).items()
        }
    given: dict[str, Any] = {"patients": patients, "seed": seed, "num": num_resamples}
    figures = {s: {name: score_of(name, f, **given) for name, f in each.items()} for s, each in found.items()}
    differences = {
        s: {name: score_of(f"{name} difference", _minus(found[ENCODER][name], f), **given) for name, f in each.items()}
        for s, each in found.items()
        if s != ENCODER and ENCODER in found
    }
    return Structure(figures, differences, chance(truth, patients))


def retrieval(x: Floats, truth: NDArray[np.int64], patients: NDArray[Any]) -> dict[str, Floats]:
    """Return each image's ``recall_at_1``, ``recall_at_5`` and ``map``, NaN where no other patient has its class."""
    found = {name: np.full(len(x), np.nan) for name in (*(f"recall_at_{k}" for k in NEIGHBOURS), "map")}
    for start in range(0, len(x), QUERIES_AT_ONCE):
        rows = np.arange(start, min(start + QUERIES_AT_ONCE, len(x)))
        similarity = x[rows] @ x.T
        similarity[patients[rows][:, None] == patients] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")
        other = np.take_along_axis(similarity, order, axis=1) > -np.inf
        hit = (truth[order] == truth[rows][:, None]) & other
        asked = hit.any(axis=1)
        for k in NEIGHBOURS:
            found[f"recall_at_{k}"][rows[asked]] = hit[asked, :k].any(axis=1)
        precision = np.cumsum(hit[asked], axis=1) / np.arange(1, len(x) + 1)
        found["map"][rows[asked]] = (precision * hit[asked]).sum(axis=1) / hit[asked].sum(axis=1)
    return found


def chance(truth: NDArray[np.int64], patients: NDArray[Any]) -> dict[str, float]:
    """Return what a random order reaches on average, over the same queries and galleries."""
    person = np.unique(patients, return_inverse=True)[1]
    size = len(truth) - _same(person)
    alike = _same(truth) - _same(person * (int(truth.max()) + 1) + truth)
    size, alike = size[alike > 0], alike[alike > 0]
    if not len(size):
        raise EvaluationError("no class is shared by two test patients: nothing can be retrieved")
    found = {f"recall_at_{k}": float(np.mean(hypergeom.sf(0, size, alike, np.minimum(k, size)))) for k in NEIGHBOURS}
    harmonic = np.cumsum(1 / np.arange(1, size.max() + 1))[size - 1]
    # A hit at rank r is certain itself; the r - 1 images before it are alike with the rate of the rest.
    found["map"] = float(np.mean((harmonic + ratio(alike - 1, size - 1 + (size == 1)) * (size - harmonic)) / size))
    return found


def nmi(table: Floats) -> Floats:
    """Return normalised mutual information (arithmetic mean) of contingency tables ``R C K``; NaN for one class."""
    whole = table.sum(axis=(1, 2), keepdims=True)
    joint = table / np.maximum(whole, 1)
    rows, columns = joint.sum(axis=2), joint.sum(axis=1)
    information = _entropy(rows) + _entropy(columns) - _entropy(joint.reshape(len(joint), -1))
    undefined = (rows > 0).sum(axis=1) < 2
    return np.asarray(np.where(undefined, np.nan, ratio(2 * information, _entropy(rows) + _entropy(columns))))


def ari(table: Floats) -> Floats:
    """Return the Rand index adjusted for chance (Hubert and Arabie 1985) of tables ``R C K``; NaN for one class."""
    together, of_rows, of_columns, whole = (
        (n * (n - 1) / 2).sum(axis=1)
        for n in (table.reshape(len(table), -1), table.sum(axis=2), table.sum(axis=1), table.sum(axis=(1, 2))[:, None])
    )
    expected = ratio(of_rows * of_columns, whole)
    undefined = (table.sum(axis=2) > 0).sum(axis=1) < 2
    return np.asarray(np.where(undefined, np.nan, ratio(together - expected, (of_rows + of_columns) / 2 - expected)))


def _agreement(truth: NDArray[np.int64], clusters: NDArray[Any]) -> dict[str, Figure]:
    num = int(max(truth.max(), clusters.max())) + 1
    cell = (truth * num + clusters)[:, None] == np.arange(num * num)  # N C*K

    def table(weights: Floats) -> Floats:
        return np.asarray(weights @ cell).reshape(-1, num, num)

    return {"nmi": lambda weights: nmi(table(weights)), "ari": lambda weights: ari(table(weights))}


def _same(names: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many rows have the name of each row."""
    _, member, counts = np.unique(names, return_inverse=True, return_counts=True)
    return counts[member]


def _mean_of(values: Floats) -> Figure:
    known = ~np.isnan(values)

    def mean(weights: Floats) -> Floats:
        return ratio(weights[:, known] @ values[known], weights[:, known].sum(1))

    return mean


def _minus(a: Figure, b: Figure) -> Figure:
    return lambda weights: a(weights) - b(weights)


def _entropy(p: Floats) -> Floats:
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1))
