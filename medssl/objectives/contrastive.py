"""Contrastive objectives: which of many keys belongs to a query."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the cosine of every query with every key, ``B N`` from ``B D`` and ``N D``, in fp32 at least."""
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        return F.normalize(queries.to(dtype), dim=-1) @ F.normalize(keys.to(dtype), dim=-1).T


def info_nce(similarity: Tensor, positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Return each query's ``-log(exp(s₊/τ) / (exp(s₊/τ) + Σ₋ exp(s₋/τ)))``, ``B`` (van den Oord 2018, eq. 4).

    The exponents are shifted by their maximum, so no temperature overflows; without a negative the loss is 0.

    Args:
        similarity: of every query with every key, ``B N``.
        positive: the place of each query's key, ``B`` int64.
        negative: ``B N`` bool, True where a key is a negative of the query; all others but its positive are left out.
        temperature: τ.
    """
    counted = negative | F.one_hot(positive, negative.shape[1]).bool()
    return F.cross_entropy((similarity / temperature).masked_fill(~counted, -torch.inf), positive, reduction="none")
