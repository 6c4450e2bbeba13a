"""PT4AL against an independent reference, and against the ways in which it is known to go wrong."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core.errors import SelectionError
from medssl.core.keys import generator
from medssl.selection.strategies.base import SelectionPool
from medssl.selection.strategies.pt4al import PT4AL, PT4ALConfig


def reference(losses, posteriors_by_round, num_rounds, budget):
    """The published recipe on plain dicts, every study of another patient: the picks of each round."""
    hardest_first = sorted(losses, key=lambda study: (-losses[study], study))
    batches, start = [], 0
    for i in range(num_rounds):
        size = len(hardest_first) // num_rounds + (i < len(hardest_first) % num_rounds)
        batches.append(hardest_first[start : start + size])
        start += size
    picks = [[batches[0][j * len(batches[0]) // budget] for j in range(budget)]]
    for batch, posteriors in zip(batches[1:], posteriors_by_round[1:], strict=True):
        unsure_first = sorted(batch, key=lambda study: (max(posteriors[study]), study))
        picks.append(unsure_first[:budget])
    return picks


def pt4al(**config):
    return PT4AL(PT4ALConfig(**config))


def pool_of(losses, **changes):
    num = len(losses)
    columns = {
        "studies": [f"s{i:03}" for i in range(num)],
        "patients": [f"p{i:03}" for i in range(num)],
        "strata": ["CR"] * num,
        "pretext_losses": losses,
        "num_rounds": 1,
    }
    return SelectionPool(**{**columns, **changes})


def run(losses, posteriors, num_rounds, budget, strategy=None):
    """All rounds; labelled studies leave the pool, as they do in use."""
    strategy, picks, frozen, left = strategy or pt4al(), [], None, np.arange(len(losses))
    whole = pool_of(losses)
    for n in range(num_rounds):
        pool = SelectionPool(
            whole.studies[left], whole.patients[left], whole.strata[left], pretext_losses=np.asarray(losses)[left],
            probabilities=posteriors[n][left], round=n, num_rounds=num_rounds, frozen=frozen,
        )  # fmt: skip
        ranking = strategy.select(pool, budget, generator("unused", n))
        frozen = ranking.frozen
        picks.append(list(ranking.studies))
        left = np.array([i for i in left if whole.studies[i] not in ranking.studies], dtype=int)
    return picks


@st.composite
def histories(draw):
    num_rounds = draw(st.integers(1, 5))
    num = draw(st.integers(num_rounds, 60))
    budget = draw(st.integers(1, num // num_rounds))
    loss = st.one_of(st.floats(0, 100), st.sampled_from([0.5, 9.9e-05, 4.41, 1e-300]))  # many ties
    losses = draw(st.lists(loss, min_size=num, max_size=num))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    raw = rng.integers(1, 4, size=(num_rounds, num, 3)).astype(float)
    return losses, raw / raw.sum(-1, keepdims=True), num_rounds, budget


@settings(max_examples=200)
@given(histories())
def test_pt4al_equals_the_reference_in_every_round(history):
    losses, posteriors, num_rounds, budget = history
    names = [f"s{i:03}" for i in range(len(losses))]
    by_round = [dict(zip(names, p, strict=True)) for p in posteriors]
    expected = reference(dict(zip(names, losses, strict=True)), by_round, num_rounds, budget)
    assert run(losses, posteriors, num_rounds, budget) == expected


def test_losses_are_compared_as_numbers_and_not_as_text():
    """As text "9.9e-05" is above "4.41", which would put the easiest study into the hardest batch."""
    losses = [4.41, 9.9e-05, 0.7, 1.2e-07]
    as_text = sorted(range(4), key=lambda i: str(losses[i]), reverse=True)
    assert as_text[:2] == [1, 0]  # the trap is set
    frozen = pt4al().select(pool_of(losses, num_rounds=2), 1, generator(0)).frozen
    assert frozen.studies == ("s000", "s002", "s001", "s003")
    assert frozen.batch(0) == ("s000", "s002")


def test_round_0_is_evenly_spaced_through_the_hardest_batch_from_its_hardest():
    ranking = pt4al().select(pool_of(np.arange(100.0), num_rounds=5), 4, generator(0))
    assert ranking.studies == ("s099", "s094", "s089", "s084")
    assert ranking.reasons[0] == "pretext loss 99, rank 1 of 100 (1 is hardest); evenly spaced in batch 1 of 5"


def test_a_stratum_of_large_losses_does_not_fill_the_hardest_batch():
    rng = np.random.default_rng(0)
    strata = np.array(["DX|quiet", "CR|noisy"])[np.arange(200) % 2]
    losses = rng.exponential(size=200) * np.where(strata == "CR|noisy", 100, 1)
    for how in ("rank", "zscore"):
        frozen = pt4al(standardise=how).select(pool_of(losses, strata=strata, num_rounds=4), 4, generator(0)).frozen
        noisy = sum(int(s[1:]) % 2 for s in frozen.batch(0))
        assert 15 <= noisy <= 35, how  # 25 expected of 50; raw losses give 50


def test_new_arrivals_wait_and_missing_studies_shrink_the_batch():
    first = pt4al().select(pool_of(np.arange(20.0), num_rounds=4), 2, generator(0))
    batch = first.frozen.batch(1)
    there = sorted({*first.frozen.studies, "new1", "new2"} - {batch[0]} - set(first.studies))
    pool = SelectionPool(
        there, there, ["CR"] * len(there), probabilities=np.full((len(there), 2), 0.5), round=1, num_rounds=4,
        frozen=first.frozen,
    )  # fmt: skip
    ranking = pt4al().select(pool, 4, generator(0))
    assert sorted(ranking.studies) == sorted(batch[1:])
    with pytest.raises(SelectionError, match="budget 5 is more than the 4 studies left in batch 2 of 4"):
        pt4al().select(pool, 5, generator(0))


def test_a_later_round_without_the_kept_ranking_and_a_round_after_the_last_are_refused():
    pool = pool_of(np.arange(8.0), num_rounds=2, probabilities=np.full((8, 2), 0.5))
    with pytest.raises(SelectionError, match="needs the ranking that was kept in round 0"):
        pt4al().select(replace(pool, round=1), 1, generator(0))
    frozen = pt4al().select(pool, 1, generator(0)).frozen
    with pytest.raises(SelectionError, match="all 2 batches are used; rank the pool anew"):
        pt4al().select(replace(pool, round=2, frozen=frozen), 1, generator(0))


def test_a_later_ranking_keeps_the_order_of_round_0_whatever_the_losses_say_then():
    first = pt4al().select(pool_of(np.arange(12.0), num_rounds=3), 2, generator(0))
    later = pool_of(-np.arange(12.0), num_rounds=3, round=1, frozen=first.frozen, probabilities=np.full((12, 2), 0.5))
    ranking = pt4al().select(later, 4, generator(0))
    assert set(ranking.studies) == set(first.frozen.batch(1))
    assert ranking.frozen == first.frozen


def test_the_largest_budget_said_beforehand_is_the_largest_that_round_0_serves():

    for num, rounds in ((10, 3), (9, 3), (7, 2), (5, 5)):
        ids = np.array([f"s{i}" for i in range(num)])
        pool = SelectionPool(ids, ids, np.full(num, "x"), pretext_losses=np.arange(num, dtype=float), num_rounds=rounds)
        budgets = [np.array_split(np.arange(num), rounds)[k].size for k in range(rounds)]
        assert PT4AL.most(num, 0, rounds) == min(budgets)
        strategy = PT4AL(PT4ALConfig())
        assert len(strategy.select(pool, min(budgets), np.random.default_rng(0)).studies) == min(budgets)
        assert PT4AL.most(num, 1, rounds) == num
