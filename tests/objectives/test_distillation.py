"""Self-distillation against formulas written out, pair by pair."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medssl.objectives.distillation import cross_entropy, multi_crop, sharpened


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 2), st.integers(0, 3), st.integers(1, 3), st.integers(2, 5))
def test_multi_crop_loss_equals_a_naive_loop_over_pairs(num_told: int, num_local: int, batch: int, k: int) -> None:
    if num_told == 1 and num_local == 0:
        num_local = 1  # a crop does not teach itself
    student, targets = logits(num_told + num_local, batch, k), logits(num_told, batch, k, seed=1).softmax(-1)
    made = multi_crop(student, targets, 0.1)
    for b in range(batch):
        pairs = [
            -(targets[i, b] * (student[j, b] / 0.1).log_softmax(-1)).sum()
            for i in range(num_told)
            for j in range(len(student))
            if i != j
        ]
        assert made[b].item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-9)


def test_multi_crop_gradient_is_that_of_the_naive_loop() -> None:
    student, targets = logits(4, 2, 5).requires_grad_(), logits(2, 2, 5, seed=1).softmax(-1)
    multi_crop(student, targets, 0.2).mean().backward()
    log = (student.detach() / 0.2).requires_grad_()
    told = [-(targets[i] * log[j].log_softmax(-1)).sum(-1) for i in range(2) for j in range(4) if i != j]
    torch.stack(told).mean(0).mean().backward()
    assert torch.allclose(student.grad, log.grad / 0.2, atol=1e-12)


def test_targets_are_centred_sharpened_and_know_their_entropy() -> None:
    told, centre = logits(3, 6), logits(6, seed=2)
    targets, entropy = sharpened(told, centre, 0.05)
    assert torch.allclose(targets, ((told - centre) / 0.05).softmax(-1), atol=1e-12)
    assert torch.allclose(entropy, torch.special.entr(targets).sum(-1), atol=1e-9)
    shifted, _ = sharpened(told + 7.0, centre + 7.0, 0.05)
    assert torch.allclose(shifted, targets, atol=1e-9)
    assert sharpened(told, centre, 0.01)[1].sum() < entropy.sum() < sharpened(told, centre, 1.0)[1].sum()


def test_cross_entropy_is_entropy_plus_divergence_and_golden() -> None:
    targets, entropy = sharpened(logits(2, 4), torch.zeros(4), 0.5)
    assert torch.allclose(cross_entropy(logits(2, 4), targets, 0.5), entropy)  # no divergence from itself
    assert cross_entropy(torch.tensor([0.1, 0.0]), torch.tensor([0.75, 0.25]), 0.1).item() == pytest.approx(0.563262)


def test_half_precision_logits_are_taken_in_full_precision() -> None:
    student = torch.full((3, 1, 4096), 1.0, dtype=torch.float16)
    targets, entropy = sharpened(torch.full((2, 1, 4096), 1.0, dtype=torch.bfloat16), torch.zeros(4096), 0.04)
    assert entropy.dtype == targets.dtype == torch.float32
    assert multi_crop(student, targets, 0.1).item() == pytest.approx(8.317766, rel=1e-5)  # ln 4096
