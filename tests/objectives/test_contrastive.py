"""Contrast against a naive double loop, known cosines, and what must not overflow."""

import pytest
import torch

from medssl.objectives.contrastive import cosine_similarity, info_nce


@pytest.mark.parametrize(
    ("one", "other", "cosine"),
    [([2, 1], [3, 2], 0.992), ([2, 1], [-2, 1], -0.600), ([1, 0], [0.9, 0.4], 0.914), ([1, 0], [-0.5, 0.8], -0.530)],
)
def test_cosine_similarity_of_known_pairs(one: list[float], other: list[float], cosine: float) -> None:
    a, b = torch.tensor([one], dtype=torch.float32), torch.tensor([other], dtype=torch.float32)
    assert cosine_similarity(a, b).item() == pytest.approx(cosine, abs=5e-4)
    assert cosine_similarity(3 * a, 7 * b).item() == pytest.approx(cosine, abs=5e-4)


def test_loss_equals_a_naive_double_loop_over_negatives() -> None:
    g = torch.Generator().manual_seed(0)
    similarity = torch.rand(3, 6, generator=g, dtype=torch.float64) * 2 - 1
    positive, negative = torch.tensor([3, 0, 5]), torch.rand(3, 6, generator=g) < 0.5
    made = info_nce(similarity, positive, negative, 0.2)
    for i in range(3):
        own = (similarity[i, positive[i]] / 0.2).exp()
        others = [(similarity[i, j] / 0.2).exp() for j in range(6) if negative[i, j] and j != positive[i]]
        assert made[i].item() == pytest.approx(-(own / (own + sum(others))).log().item(), rel=1e-9)


def test_what_is_no_negative_has_no_influence() -> None:
    similarity, positive = torch.zeros(1, 4), torch.tensor([0])
    negative = torch.tensor([[False, True, False, False]])
    before = info_nce(similarity, positive, negative, 0.1)
    similarity[0, 2:] = 1.0
    assert torch.equal(info_nce(similarity, positive, negative, 0.1), before)
    assert before.item() == pytest.approx(0.693147)  # one negative as near as the positive


def test_no_negative_is_no_loss_and_small_temperatures_stay_finite() -> None:
    similarity = torch.tensor([[1.0, -1.0]], requires_grad=True)
    assert info_nce(similarity, torch.tensor([0]), torch.zeros(1, 2, dtype=torch.bool), 0.2).item() == 0
    loss = info_nce(similarity, torch.tensor([1]), torch.ones(1, 2, dtype=torch.bool), 1e-4)
    loss.sum().backward()
    assert loss.item() == pytest.approx(2e4)
    assert torch.isfinite(similarity.grad).all()


def test_half_precision_vectors_are_compared_in_full_precision() -> None:
    vectors = torch.full((2, 300), 300.0, dtype=torch.float16)  # their squared length is beyond float16
    assert torch.allclose(cosine_similarity(vectors, vectors), torch.ones(2, 2), atol=1e-5)
