"""Distances of domains: those of a textbook, nothing between halves of one domain, far where nothing is alike."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from medssl.core.errors import EvaluationError
from medssl.evaluation.domains import Domain, cross_domain_table, distance, domain_audit, frechet, separable


def domain(seed, shift=0.0, num=300, scale=1.0, width=8):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(width, width))
    x = scale * rng.normal(size=(num, width)) @ mixing + shift
    return Domain(x, np.array([f"{seed} p{i // 2}" for i in range(num)]))


def test_the_frechet_distance_is_that_of_the_formula_and_of_gaussians_with_known_moments():
    a, b = domain(0).features, domain(1, shift=1.5, scale=0.7).features
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    naive = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert frechet(a, b) == pytest.approx(naive, rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 2) == pytest.approx(8 * 4)
    assert frechet(a, 3 * (a - a.mean(0)) + a.mean(0)) == pytest.approx(4 * np.cov(a, rowvar=False).trace())


def test_halves_of_one_domain_are_near_and_a_shifted_one_is_far():
    near, far = (distance(domain(0), domain(1, shift), seed=0, num_resamples=200) for shift in (0.0, 12.0))
    assert not near.is_far
    assert near.separable.low < 0.5 < near.separable.high
    assert near.frechet == pytest.approx(near.reference, abs=0.1)
    assert far.is_far
    assert far.a_distance > 1.9


def test_a_domain_that_can_be_told_apart_but_differs_by_little_is_not_far():
    source, target = domain(0), domain(1)
    marked = Domain(target.features + 0.9 * target.features.std(0) * np.eye(8)[0], target.patients)
    found = distance(source, marked, seed=0, num_resamples=200)
    assert found.separable.low > 0.5
    assert not found.is_far


def test_the_patients_of_a_classifier_are_on_one_side_and_a_patient_is_no_clue():
    """Every patient has features of its own: a classifier that knew the patient would be right."""
    rng = np.random.default_rng(0)
    own = np.repeat(rng.normal(size=(60, 40)), 5, axis=0)
    people = np.array([f"p{i // 5}" for i in range(300)])
    a, b = Domain(own[:150], people[:150]), Domain(own[150:], people[150:])
    assert separable(a, b, seed=0, num_resamples=200).low < 0.6


def test_too_few_images_are_refused():
    with pytest.raises(EvaluationError, match="needs 20 images"):
        distance(domain(0), domain(1, num=10), seed=0)


def test_a_far_domain_is_warned_of_in_plain_words():
    source, near, far = domain(0), domain(1), domain(2, 12.0)
    warned = domain_audit({"random": source}, {"random": far}, seed=0, num_resamples=100)
    assert warned.warning
    assert warned.finding.startswith("Transfer is unlikely to help")
    assert not domain_audit({"random": source}, {"random": near}, seed=0, num_resamples=100).warning


def test_the_table_has_every_ordered_pair():
    table = cross_domain_table({"a": domain(0), "b": domain(1), "far": domain(2, 12.0)}, num_resamples=50)
    assert len(table) == 6
    assert {pair for pair, found in table.items() if found.is_far} == {
        ("a", "far"), ("b", "far"), ("far", "a"), ("far", "b"),
    }  # fmt: skip
