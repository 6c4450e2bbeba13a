"""Self-distillation objectives: sharpened teacher targets and their cross-entropy over crops."""

from __future__ import annotations

import torch
from torch import Tensor


def sharpened(logits: Tensor, centre: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return a teacher's centred and sharpened probabilities ``… K`` and their entropy ``…``, in fp32 at least.

    Source: Caron 2021, eq. 1 with the teacher's temperature, and eq. 4's centre subtracted.
    """
    scaled = (logits.to(torch.promote_types(logits.dtype, torch.float32)) - centre) / temperature
    log_sum = scaled.logsumexp(-1, keepdim=True)
    probabilities = (scaled - log_sum).exp()
    return probabilities, log_sum[..., 0] - (probabilities * scaled).sum(-1)


def cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return ``H(targets, softmax(logits / temperature))`` over the last axis (Caron 2021, eq. 2)."""
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return scaled.logsumexp(-1) - (targets * scaled).sum(-1)


def multi_crop(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return each image's mean cross-entropy over all pairs of a teacher's crop and another crop of the student, ``B``.

    The pairs' sum (Caron 2021, eq. 3) is taken apart: targets sum to 1, so a pair is ``logsumexp(z) - <target, z>``,
    and neither log-probabilities nor pairs are ever laid out.

    Args:
        logits: the student's, ``V B K``.
        targets: the teacher's probabilities for the first G of the V crops, ``G B K``.
        temperature: the student's.
    """
    num_views, num_targets = len(logits), len(targets)
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    pairs = torch.full((num_views, 1), float(num_targets), device=logits.device)
    pairs[:num_targets] -= 1  # a crop does not teach itself
    wanted = (scaled.sum(0) * targets.sum(0)).sum(-1) - (scaled[:num_targets] * targets).sum((0, -1))
    return ((pairs * scaled.logsumexp(-1)).sum(0) - wanted) / pairs.sum()
