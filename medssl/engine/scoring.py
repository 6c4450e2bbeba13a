"""Score prepared volumes in catalog order, embeddings and pretext losses: a job of chunks that stops and goes on.

Rank r of n scores chunks r, r + n, …; a chunk and the batches in it are always the same, so neither the number of
processes nor a stop changes a score. With a folder, a finished chunk is kept there and never computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medssl.core.collectives import rank, world_size
from medssl.core.config import fingerprint
from medssl.core.keys import view_keys
from medssl.core.progress import bar
from medssl.data.passes import Pass, passes
from medssl.data.prepared import Prepared
from medssl.data.views import make_views
from medssl.engine.distributed import everyone
from medssl.engine.parts import Parts, weights_mark
from medssl.methods.base import SCORING_BATCH, Method
from medssl.models.encoders.base import Encoder, TokenEncoder

SCORING_EPOCH = -1  # keys of scoring never meet those of training
CHUNK = 8 * SCORING_BATCH  # volumes

T = TypeVar("T")


def embed(encoder: Encoder, data: Prepared, device: torch.device, folder: Path | None = None) -> NDArray[np.float32]:
    """Return ``N D`` pooled features of every prepared volume, in catalog order, on every rank.

    A volume larger than the geometry is its windows' mean. ``folder`` keeps finished chunks, those of covered images
    apart from the others.
    """
    with _scoring(encoder, encoder, device):
        parts = _parts(folder, "embedding", encoder, data)
        found = _scored(lambda seen: encoder(seen.images.to(device)).pooled.float(), data, parts, "embed")
    return found.astype(np.float32) if len(found) else np.zeros((0, encoder.width), np.float32)


def embed_tokens(
    encoder: TokenEncoder, data: Prepared, device: torch.device, folder: Path | None = None, *, most: int = 7
) -> NDArray[np.float16]:
    """Return ``N L D`` tokens of every prepared volume, averaged over neighbours to at most ``most`` an axis.

    Like ``embed`` in all else.
    """
    grid = tuple(min(size, most) for size in encoder.grid)
    pool: Callable[..., Tensor] = F.adaptive_avg_pool2d if len(grid) == 2 else F.adaptive_avg_pool3d

    def tokens(seen: Pass) -> Tensor:
        found = encoder(seen.images.to(device)).tokens
        maps = found.float().transpose(1, 2).unflatten(2, encoder.grid)
        return pool(maps, grid).flatten(2).transpose(1, 2).flatten(1).half()

    with _scoring(encoder, encoder, device):
        parts = _parts(folder, "tokens", encoder, data, grid)
        made = _scored(tokens, data, parts, "embed tokens")
    return made.reshape(len(data), prod(grid), encoder.width).astype(np.float16)


def pretext_losses(
    method: Method[Any], data: Prepared, device: torch.device, seed: int, folder: Path | None = None
) -> NDArray[np.float64]:
    """Return one pretext loss a volume, ``N`` float64, computed in fp32 on the method's deterministic view.

    A volume larger than the geometry is its windows' mean. ``folder`` is that of `embed`.
    """
    recipe = type(method).scoring_views(method.config, method.encoder.geometry)

    def losses(seen: Pass) -> Tensor:
        keys = torch.from_numpy(view_keys(seed, SCORING_EPOCH, seen.keys, len(recipe.views))).to(device)
        batch = make_views(seen.images.to(device), keys, torch.from_numpy(seen.rows).to(device), recipe)
        return method.pretext_losses(batch).double()

    with _scoring(method, method.encoder, device):
        parts = _parts(folder, "loss", method, data, repr(recipe), method.config.data(), seed)
        return _scored(losses, data, parts, "pretext losses").astype(np.float64)


@contextmanager
def _scoring(model: nn.Module, encoder: Encoder, device: torch.device) -> Iterator[None]:
    """Score in eval mode and true fp32, a CNN with its channels last (faster); leave the model as it was."""
    was_training, convolves = model.training, not isinstance(encoder, TokenEncoder)
    layout: Any = torch.channels_last_3d if encoder.geometry.ndim == 3 else torch.channels_last
    model.to(device).eval()
    if convolves:
        encoder.to(memory_format=layout)
    try:
        precise = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), torch.autocast(device.type, enabled=False), precise:
            yield
    finally:
        if convolves:
            encoder.to(memory_format=torch.contiguous_format)
        model.train(was_training)


def _scored(score: Callable[[Pass], Tensor], data: Prepared, parts: Parts | None, what: str) -> NDArray[Any]:
    """Return the scores of all volumes, ``N`` or ``N D``, computed by all ranks."""
    chunks = [np.arange(i, min(i + CHUNK, len(data))) for i in range(0, len(data), CHUNK)]
    own: dict[int, NDArray[Any]] = {}
    mine = range(rank(), len(chunks), world_size())
    with bar(what, sum(len(chunks[i]) for i in mine)) as shown:
        for i in mine:
            volumes = data.catalog.volumes[int(chunks[i][0]) : int(chunks[i][-1]) + 1]
            found = parts.read(i, volumes) if parts else None
            if found is None:
                found = _chunk(score, data, chunks[i])
                if parts:
                    parts.write(i, volumes, found)
            own[i] = found
            shown.advance(len(chunks[i]))
    made = {i: values for part in everyone(own) for i, values in part.items()}
    return np.concatenate([made[i] for i in range(len(chunks))]) if chunks else np.zeros(0)


def _chunk(score: Callable[[Pass], Tensor], data: Prepared, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Score ``rows``, each by the mean over its windows."""
    seen, values = [], []
    for one in _ahead(passes(data, rows, SCORING_BATCH)):
        values.append(score(one).cpu().numpy())
        seen.append(one.rows)
    scores = np.concatenate(values)
    if not data.cropped:
        return scores
    first = np.searchsorted(np.concatenate(seen), rows)
    counts = np.diff(np.append(first, len(scores))).reshape(-1, *(1,) * (scores.ndim - 1))
    means: NDArray[Any] = (np.add.reduceat(scores.astype(np.float64), first) / counts).astype(scores.dtype)
    return means


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield ``items``, each read in a thread while the one before it is scored."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _parts(folder: Path | None, what: str, model: nn.Module, data: Prepared, *more: Any) -> Parts | None:
    """Return where finished chunks are kept: by the weights, by what ``data`` shows of its volumes, and by ``more``."""
    if folder is None:
        return None
    cover = data.cover.mark if data.cover else ()
    mark = fingerprint(weights_mark(model), repr(data.geometry), data.cropped, *more, *cover)
    return Parts(folder / data.cover if data.cover else folder, what, mark)
