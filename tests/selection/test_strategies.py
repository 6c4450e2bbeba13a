"""One contract for every strategy that the registry finds; a new file is tested without a new line here."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core.errors import SelectionError, StudyError
from medssl.core.keys import generator
from medssl.core.types import Signal
from medssl.selection.strategies.base import STRATEGIES, SelectionPool

EVERY = pytest.mark.parametrize("name", STRATEGIES.names())


def strategy(name, **config):
    found = STRATEGIES.load(name)
    return found(found.config_class(**config))


def pool_of(num, seed=0, num_patients=None, num_rounds=1, **changes):
    """A pool with every signal; two strata of different loss scale."""
    rng = np.random.default_rng(seed)
    strata = rng.choice(["CR|a", "DX|b"], num)
    columns = {
        "studies": np.array([f"s{i:05}" for i in rng.permutation(num)]),
        "patients": np.array([f"p{i % (num_patients or num):05}" for i in range(num)]),
        "strata": strata,
        "embeddings": rng.normal(size=(num, 6)),
        "probabilities": rng.dirichlet(np.ones(3), num) if num else np.empty((0, 3)),
        "pretext_losses": rng.exponential(size=num) * np.where(strata == "CR|a", 1, 50),
    }
    return SelectionPool(**{**columns, "num_rounds": num_rounds, **changes})


def later_round(name, pool, round):
    """The same pool in a later round, with whatever ranking the strategy kept in round 0."""
    first = strategy(name).select(replace(pool, round=0), 1, generator(0))
    return replace(pool, round=round, frozen=first.frozen)


@EVERY
@pytest.mark.parametrize("round", [0, 1])
def test_picks_are_distinct_candidates_exactly_budget_many_each_with_score_and_reason(name, round):
    pool = later_round(name, pool_of(90, num_rounds=3), round)
    ranking = strategy(name).select(pool, 12, generator(1))
    assert len(set(ranking.studies)) == len(ranking.studies) == len(ranking.scores) == len(ranking.reasons) == 12
    assert set(ranking.studies) <= set(pool.studies)
    assert np.isfinite(ranking.scores).all()
    assert all(ranking.reasons)


@EVERY
@settings(max_examples=25)
@given(seed=st.integers(0, 999), round=st.sampled_from([0, 2]))
def test_a_ranking_depends_on_the_seed_and_not_on_the_order_of_the_rows(name, seed, round):
    pool = later_round(name, pool_of(40, seed=seed, num_rounds=4), round)
    order = np.random.default_rng(seed).permutation(40)
    columns = ("studies", "patients", "strata", *map(str, Signal))
    mixed = replace(pool, **{column: getattr(pool, column)[order] for column in columns})
    first = strategy(name).select(pool, 5, generator(seed))
    assert first == strategy(name).select(mixed, 5, generator(seed)) == strategy(name).select(pool, 5, generator(seed))


@EVERY
@settings(max_examples=25)
@given(cap=st.integers(1, 3), seed=st.integers(0, 99), round=st.sampled_from([0, 1]))
def test_the_patient_cap_holds(name, cap, seed, round):
    pool = later_round(name, pool_of(60, seed=seed, num_patients=12, num_rounds=2), round)
    ranking = strategy(name, max_per_patient=cap).select(pool, 6, generator(seed))
    patient = dict(zip(pool.studies, pool.patients, strict=True))
    _, counts = np.unique([patient[s] for s in ranking.studies], return_counts=True)
    assert counts.max() <= cap
    assert counts.sum() == 6


@EVERY
def test_one_candidate_and_all_candidates_can_be_picked(name):
    one = pool_of(1)
    assert strategy(name).select(one, 1, generator(0)).studies == tuple(one.studies)
    every = pool_of(30)
    assert sorted(strategy(name).select(every, 30, generator(0)).studies) == sorted(every.studies)


@EVERY
@pytest.mark.parametrize(
    ("num", "budget", "words"),
    [
        (10, 11, "budget 11 is more than the 10 studies left"),
        (0, 1, "budget 1 is more than the 0 studies left"),
        (10, 0, "budget 0 is not right, expected at least 1 study"),
    ],
)
def test_a_budget_that_cannot_be_served_is_refused_with_the_numbers(name, num, budget, words):
    with pytest.raises(SelectionError, match=words):
        strategy(name).select(pool_of(num), budget, generator(0))


@EVERY
def test_a_cap_that_makes_the_budget_impossible_is_named(name):
    with pytest.raises(SelectionError, match=r"more than the 4 studies left.* \(20 without max_per_patient 1\)"):
        strategy(name).select(pool_of(20, num_patients=4), 5, generator(0))
    assert len(strategy(name, max_per_patient=None).select(pool_of(20, num_patients=4), 5, generator(0)).studies) == 5


@EVERY
def test_ties_and_constant_scores_are_served_and_repeat(name):
    flat = pool_of(30, pretext_losses=np.ones(30), probabilities=np.full((30, 3), 1 / 3), embeddings=np.ones((30, 6)))
    first = strategy(name).select(flat, 7, generator(3))
    assert len(set(first.studies)) == 7
    assert first == strategy(name).select(flat, 7, generator(3))


@EVERY
@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("round", [0, 1])
def test_a_score_that_is_no_number_is_refused_when_the_strategy_reads_it(name, round, poison):
    pool = later_round(name, pool_of(20, num_rounds=2), round)
    for signal in STRATEGIES.load(name).needs_in(round):
        values = np.array(getattr(pool, signal))
        values[4] = poison
        with pytest.raises(SelectionError, match=f"{signal} of 1 of 20 studies are not finite"):
            strategy(name).select(replace(pool, **{signal: values}), 2, generator(0))
        with pytest.raises(SelectionError, match=f"needs {signal}, which the pool does not have"):
            strategy(name).select(replace(pool, **{signal: None}), 2, generator(0))


@EVERY
def test_only_what_a_strategy_says_it_needs_is_read(name):
    for round in (0, 1):
        pool = later_round(name, pool_of(20, num_rounds=2), round)
        unneeded = {str(signal): None for signal in set(Signal) - STRATEGIES.load(name).needs_in(round)}
        assert STRATEGIES.load(name).needs_in(round) <= STRATEGIES.load(name).needs
        assert strategy(name).select(replace(pool, **unneeded), 3, generator(0)).studies


def test_a_pool_refuses_a_study_twice_and_columns_of_another_length():
    with pytest.raises(SelectionError, match="1 of 2 candidates occur twice"):
        SelectionPool(["a", "a"], ["p", "q"], ["x", "x"])
    with pytest.raises(SelectionError, match="patients has 1 rows, expected one a study: 2"):
        SelectionPool(["a", "b"], ["p"], ["x", "x"])
    with pytest.raises(SelectionError, match="round 0 of 0 is not right"):
        SelectionPool(["a"], ["p"], ["x"], num_rounds=0)


def test_an_unknown_strategy_gets_a_suggestion():
    with pytest.raises(StudyError, match="did you mean 'pt4al'"):
        STRATEGIES.load("pt4a1")


def test_random_picks_every_candidate_about_equally_often():
    pool, counts = pool_of(20), dict.fromkeys(pool_of(20).studies, 0)
    for seed in range(1000):
        for study in strategy("random").select(pool, 5, generator(seed)).studies:
            counts[study] += 1
    assert all(190 < c < 310 for c in counts.values())  # 250 expected, sd 14
