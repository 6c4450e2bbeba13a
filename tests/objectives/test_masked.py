"""Masked objectives against naive loops."""

import numpy as np
import pytest
import torch

from medssl.objectives.masked import normalised_patches, patch_mse, restored_patches


def test_loss_equals_a_naive_double_loop_over_patches() -> None:
    g = torch.Generator().manual_seed(0)
    patches, predicted = torch.rand(3, 4, 16, generator=g), torch.randn(3, 4, 16, generator=g)
    losses = patch_mse(predicted, normalised_patches(patches, 1e-4))
    for b in range(3):
        errors = []
        for token in range(4):
            p = patches[b, token]
            wanted = (p - p.mean()) / max(float(p.var()), 1e-4) ** 0.5
            errors.append(float(((predicted[b, token] - wanted) ** 2).mean()))
        assert losses[b].item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_air_does_not_become_amplified_noise() -> None:
    air = 1e-5 * torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
    assert normalised_patches(air, 1e-4).abs().max() < 0.01
    tissue = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
    assert normalised_patches(tissue, 1e-4).std() == pytest.approx(1, abs=1e-5)


def test_restored_patches_undo_the_normalisation() -> None:
    patches = torch.rand(2, 5, 27, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(restored_patches(normalised_patches(patches, 1e-4), patches, 1e-4), patches, atol=1e-6)


def test_the_loss_of_bfloat16_predictions_is_fp32() -> None:
    predicted = torch.full((1, 2, 3), 1.0, dtype=torch.bfloat16)
    assert patch_mse(predicted, torch.full((1, 2, 3), 1.001)).dtype == torch.float32
    assert patch_mse(predicted, torch.full((1, 2, 3), 1.001)).item() == pytest.approx(1e-6, rel=1e-2)
