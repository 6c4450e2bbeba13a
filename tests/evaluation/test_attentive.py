"""The attentive probe: torch's own attention, a signal that the mean of tokens hides, and repeatability."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medssl.core.errors import EvaluationError
from medssl.core.types import Role
from medssl.evaluation.attentive import AttentiveProbe, attentive_fit
from medssl.evaluation.bootstrap import patient_bootstrap
from medssl.evaluation.fits import linear_fit
from medssl.evaluation.metrics import DEFAULT_METRIC
from medssl.evaluation.problem import Kind, Problem


def hidden(kind=Kind.CLASSES, num=400, seed=0, val=True):
    """Tokens of noise, one of which carries a mark (channel 0) and says the answer (channel 1)."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(num, 16, 16)).astype(np.float32)
    answer = rng.normal(size=num)
    place = rng.integers(16, size=num)
    tokens[np.arange(num), place, 0] = 8
    tokens[np.arange(num), place, 1] = 3 * answer
    values = {
        Kind.CLASSES: ["high" if a > 0 else "low" for a in answer],
        Kind.ORDINAL: [("low", "mid", "high")[i] for i in np.digitize(answer, [-0.6, 0.6])],
        Kind.MULTILABEL: ["|".join(n for n, v in (("a", a > 0), ("b", a < 0.8)) if v) for a in answer],
        Kind.REGRESSION: [str(40 + 10 * a) for a in answer],
    }[kind]
    roles = [["dev", "dev", "val" if val else "dev", "test"][i % 4] for i in range(num)]
    order = ("low", "mid", "high") if kind is Kind.ORDINAL else ()
    return Problem.of("t", values, roles, [f"p{i}" for i in range(num)], kind=kind, order=order), tokens


def rows_of(problem):
    return [problem.rows(role) for role in (Role.DEV, Role.VAL, Role.TEST)]


def test_the_probe_is_multi_head_cross_attention_of_one_query_with_its_redundant_matrices_multiplied_out():
    width, heads = 24, 4
    generator = torch.Generator().manual_seed(0)
    attention = torch.nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
    head, query = torch.nn.Linear(width, 3), torch.randn(1, 1, width, generator=generator)
    tokens = torch.randn(5, 7, width, generator=generator)
    expected = head(attention(query.expand(5, 1, width), tokens, tokens)[0][:, 0])
    to_query, to_key, to_value = attention.in_proj_weight.chunk(3)
    size = width // heads
    probe = AttentiveProbe(width, heads, 3, generator)
    with torch.no_grad():
        asked = (to_query @ query[0, 0]).reshape(heads, size) / size**0.5
        probe.query.copy_(torch.einsum("hv,hvd->hd", asked, to_key.reshape(heads, size, width)))
        probe.value.copy_(to_value.reshape(heads, size, width).transpose(1, 2))
        probe.head.copy_(head.weight @ attention.out_proj.weight)
        probe.bias.copy_(head.bias)
    torch.testing.assert_close(probe(tokens), expected)


@pytest.mark.parametrize("val", [True, False])
def test_it_finds_what_one_token_says_and_the_mean_of_all_hides_and_repeats_bit_for_bit(val):
    problem, tokens = hidden(val=val)
    train, val_rows, test = rows_of(problem)
    before = torch.get_rng_state()
    fit = attentive_fit(problem, tokens)
    given = fit(train, val_rows, test, 0)
    assert (torch.get_rng_state() == before).all()
    mean = linear_fit(problem, tokens.mean(axis=1))(train, val_rows, test, 0)
    attentive, linear = (roc_auc_score(problem.truth[test], p[:, 1]) for p in (given, mean))
    assert attentive > 0.93
    assert attentive > linear + 0.03
    assert given.sum(axis=1) == pytest.approx(1)
    few = fit(train[:40], val_rows, test, 0)
    assert (few == attentive_fit(problem, tokens)(train[:40], val_rows, test, 0)).all()
    assert (few != fit(train[:40], val_rows, test, 1)).any()


@pytest.mark.parametrize("kind", [Kind.ORDINAL, Kind.MULTILABEL, Kind.REGRESSION])
def test_it_serves_every_kind_of_task(kind):
    problem, tokens = hidden(kind)
    train, val, test = rows_of(problem)
    given = attentive_fit(problem, tokens)(train, val, test, 0)
    assert given.shape == (len(test), problem.num_outputs)
    truth = problem.truth[test].astype(int if problem.names else float)
    score = patient_bootstrap(DEFAULT_METRIC[kind], truth, given, problem.patients[test], seed=0, num=200)
    if kind is Kind.REGRESSION:
        assert score.high < 0.7 * np.abs(truth - truth.mean()).mean()
    else:
        assert score.low > 0.5


def test_pure_noise_is_not_learned():
    problem, tokens = hidden()
    noise = np.random.default_rng(1).normal(size=tokens.shape)
    train, val, test = rows_of(problem)
    given = attentive_fit(problem, noise)(train, val, test, 0)
    assert abs(roc_auc_score(problem.truth[test], given[:, 1]) - 0.5) < 0.15


def test_labels_that_cannot_be_held_out_get_a_fixed_number_of_epochs_and_one_class_is_refused():
    problem, tokens = hidden()
    first = [int(np.flatnonzero((problem.truth == c) & (problem.roles == "dev"))[0]) for c in (0, 1)]
    fit = attentive_fit(problem, tokens)
    given = fit(np.array(first), np.array([], np.int64), problem.rows(Role.TEST), 0)
    assert np.isfinite(given).all()
    with pytest.raises(EvaluationError, match="needs two labels to train on, found one among 1 rows"):
        fit(np.array(first[:1]), np.array([], np.int64), problem.rows(Role.TEST), 0)


@pytest.mark.parametrize("change", [lambda t: t[:, 0], lambda t: t[1:], lambda t: t[:, :, :7]])
def test_tokens_of_another_shape_are_refused(change):
    problem, tokens = hidden(num=20)
    with pytest.raises(EvaluationError, match="expected 20 rows, tokens, and a multiple of 8 channels"):
        attentive_fit(problem, change(tokens))
    tokens[3, 2, 1] = np.nan
    with pytest.raises(EvaluationError, match="1 rows are not finite"):
        attentive_fit(problem, tokens)
