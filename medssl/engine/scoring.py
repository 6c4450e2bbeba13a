"""Score prepared volumes in catalog order: embeddings and pretext losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medssl.core.batch import Views
from medssl.core.keys import view_keys
from medssl.core.progress import bar
from medssl.data.prepared import Prepared
from medssl.data.views import make_views
from medssl.engine.monitors.representation import pooled
from medssl.methods.base import SCORING_BATCH, Method
from medssl.models.encoders.base import Encoder

SCORING_EPOCH = -1  # keys of scoring never meet those of training


def embed(encoder: Encoder, data: Prepared, device: torch.device) -> NDArray[np.float32]:
    """Return ``N D`` pooled features of every prepared volume, in catalog order."""
    encoder.to(device)
    with bar("embed", len(data)) as shown:
        parts = []
        for rows in _chunks(len(data)):
            parts.append(pooled(encoder, data.images(rows)))
            shown.advance(len(rows))
    return np.concatenate(parts) if parts else np.zeros((0, encoder.width), np.float32)


def pretext_losses(method: Method[Any], data: Prepared, device: torch.device, seed: int) -> NDArray[np.float64]:
    """Return one pretext loss a volume, ``N`` float64, computed in fp32 on the method's deterministic view."""
    method.to(device)
    recipe = type(method).scoring_views(method.config, method.encoder.geometry)
    with bar("pretext losses", len(data)) as shown:
        parts = []
        for rows in _chunks(len(data)):
            keys = torch.from_numpy(view_keys(seed, SCORING_EPOCH, data.keys[rows], len(recipe.views)))
            batch: Views = make_views(data.images(rows), keys, torch.from_numpy(rows), recipe).to(device)
            parts.append(method.pretext_losses(batch).double().cpu().numpy())
            shown.advance(len(rows))
    return np.concatenate(parts) if parts else np.zeros(0)


def _chunks(num: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, num, SCORING_BATCH):
        yield np.arange(start, min(start + SCORING_BATCH, num))
