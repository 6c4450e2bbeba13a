"""How far the images of the task are from those of pretraining, in features that know neither.

Fréchet distance of Gaussians (Dowson and Landau, Journal of Multivariate Analysis 1982), and how well a classifier
tells the domains apart (Ben-David et al., NIPS 2006). The former grows without any meaning on few images, so it stands
beside the same figure between halves of one domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from medssl.core.errors import EvaluationError
from medssl.core.keys import generator
from medssl.core.score import Score
from medssl.evaluation.audits import Audit
from medssl.evaluation.bootstrap import patient_bootstrap
from medssl.evaluation.probes import Labelled, linear_probe
from medssl.evaluation.problem import Floats

COMPONENTS = 32
APART = 0.9  # area under the curve above which domains hardly overlap
FAR = 1.0  # distance in units of the source's own variance: other images differ by less than the domains do
LEAST = 20  # images of a half


@dataclass(frozen=True)
class Domain:
    """Images of one origin: ``features`` ``N D``, ``patients`` ``N``."""

    features: NDArray[Any]
    patients: NDArray[Any]

    def halves(self, seed: int) -> tuple[Domain, Domain]:
        """Cut by patient."""
        people = generator("halves", seed).permutation(np.unique(self.patients))
        inside = np.isin(self.patients, people[: len(people) // 2])
        return self.only(inside), self.only(~inside)

    def only(self, rows: NDArray[Any]) -> Domain:
        """Keep these rows."""
        return Domain(self.features[rows], self.patients[rows])


@dataclass(frozen=True)
class Distance:
    """From a source to a target; ``reference`` is the same between two halves of the source.

    ``frechet`` is in units of the source's variance; ``separable`` is the area under the curve of a linear classifier
    of source against target, on patients that it did not learn from.
    """

    frechet: float
    reference: float
    separable: Score

    @property
    def a_distance(self) -> float:
        """The proxy A-distance, 0 to 2, with the area under the curve in the place of the accuracy."""
        return float(np.clip(2 * (2 * self.separable.value - 1), 0, 2))

    @property
    def is_far(self) -> bool:
        """Whether the domains hardly overlap, and differ by more than images of the source do."""
        return self.separable.low > APART and self.frechet - self.reference > FAR


def distance(source: Domain, target: Domain, *, seed: int, num_resamples: int = 1000) -> Distance:
    """Return how far ``target`` is from ``source``, both by the same features.

    Features are standardised and reduced to ``COMPONENTS`` by one half of the source; the other half is the reference,
    cut to the target's size, since the Fréchet distance shrinks with the number of images.

    Raises:
        EvaluationError: too few images.
    """
    base, other = source.halves(seed)
    rng = generator("domains", seed)
    num = min(len(base.features), len(other.features), len(target.features))
    if num < LEAST:
        raise EvaluationError(f"a distance of domains needs {LEAST} images of the target and of each half, got {num}")
    drawn = [d.only(np.sort(rng.permutation(len(d.features))[:num])) for d in (base, other, target)]
    base, other, target = _reduced(drawn, seed)
    spread = float(base.features.var(0).sum())
    return Distance(
        frechet(base.features, target.features) / spread,
        frechet(base.features, other.features) / spread,
        separable(base, target, seed=seed, num_resamples=num_resamples),
    )


def frechet(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to ``N D`` and ``M D`` features."""
    one, other = (np.cov(np.asarray(x, np.float64), rowvar=False) for x in (a, b))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0)).sum()  # trace of (one other)^(1/2)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(other) - 2 * overlap)


def separable(a: Domain, b: Domain, *, seed: int, num_resamples: int = 1000) -> Score:
    """Return the area under the curve of a linear classifier of two domains, on patients that it did not learn from."""
    train, test = zip(a.halves(seed), b.halves(seed), strict=True)
    x, test_x = (np.concatenate([d.features for d in part]) for part in (train, test))
    y, truth = (np.repeat([0, 1], [len(d.features) for d in part]) for part in (train, test))
    people, judged = (
        np.concatenate([[f"{i} {p}" for p in d.patients] for i, d in enumerate(part)]) for part in (train, test)
    )
    nothing = Labelled(x[:0], y[:0], people[:0])
    found: Floats = linear_probe(Labelled(x, y, people), nothing, test_x, num_classes=2)
    return patient_bootstrap("auroc", truth, found, judged, seed=seed, num=num_resamples)


def domain_audit(source: Mapping[str, Domain], target: Mapping[str, Domain], *, seed: int, num_resamples: int) -> Audit:
    """Ask whether the images of the task are those of pretraining, by each kind of features (``random`` decides).

    A warning where they are far: an encoder hardly helps where it has seen nothing alike.
    """
    found = {name: distance(source[name], target[name], seed=seed, num_resamples=num_resamples) for name in source}
    facts: dict[str, float | int | str] = {}
    for name, each in found.items():
        facts |= {f"{name} frechet": each.frechet, f"{name} frechet reference": each.reference}
        facts |= {f"{name} A-distance": each.a_distance}
    decides = found["random"]
    finding = (
        f"From the images of pretraining to those of the task it is {decides.frechet:.2f} in units of the variance of "
        f"images ({decides.reference:.2f} between halves of the former); a classifier tells them apart with "
        f"{decides.separable}"
    )
    if decides.is_far:
        finding = f"Transfer is unlikely to help: the task's images are far from those of pretraining. {finding}"
    scores = {f"{name} tells apart": each.separable for name, each in found.items()}
    return Audit("domain", f"{finding}.", decides.is_far, scores, facts)


def cross_domain_table(
    domains: Mapping[str, Domain], *, seed: int = 0, num_resamples: int = 1000
) -> dict[tuple[str, str], Distance]:
    """Return the distance from each named domain (pretraining) to each other one (target); by the same features."""
    return {
        (a, b): distance(domains[a], domains[b], seed=seed, num_resamples=num_resamples)
        for a, b in permutations(domains, 2)
    }


def _reduced(domains: list[Domain], seed: int) -> list[Domain]:
    first = np.asarray(domains[0].features, np.float64)
    mean, deviation = first.mean(0), first.std(0)
    deviation = np.maximum(deviation, max(0.01 * float(deviation.mean()), 1e-6))  # dead features stay small
    pca = PCA(min(COMPONENTS, *(n // 2 for n in first.shape)), svd_solver="full").fit((first - mean) / deviation)
    return [Domain(pca.transform((d.features - mean) / deviation), d.patients) for d in domains]
