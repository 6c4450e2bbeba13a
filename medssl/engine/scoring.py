"""Score prepared volumes in catalog order, embeddings and pretext losses: a job of chunks that stops and goes on.

Rank r of n scores chunks r, r + n, …; a chunk and the batches in it are always the same, so neither the number of
processes nor a stop changes a score. With a folder, a finished chunk is kept there and never computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
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
from medssl.data.covers import CORNER, FRAME, GRID, MEAN, SIGMA, SPREAD, Cover, covered
from medssl.data.crops import windows
from medssl.data.prepared import Prepared
from medssl.data.views import make_views
from medssl.engine.distributed import everyone
from medssl.engine.parts import Parts, weights_mark
from medssl.methods.base import SCORING_BATCH, Method
from medssl.models.encoders.base import Encoder, TokenEncoder

SCORING_EPOCH = -1  # keys of scoring never meet those of training
CHUNK = 8 * SCORING_BATCH  # volumes

T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """What one forward pass sees: ``images`` ``B C *S``, their ``rows`` and the ``keys`` of their windows, ``B``.

    Windows begin at ``first`` of volumes of shape ``extent``, ``B ndim`` each.
    """

    images: Tensor
    rows: NDArray[np.int64]
    keys: NDArray[np.int64]
    first: NDArray[np.int64] | None = None
    extent: NDArray[np.int64] | None = None

    def shown(self, device: torch.device, cover: Cover | None) -> Tensor:
        """Return the images on ``device``, without what is covered."""
        images = self.images.to(device)
        if cover is None:
            return images
        first, extent = (None if at is None else torch.from_numpy(at) for at in (self.first, self.extent))
        return covered(images, cover, torch.from_numpy(self.keys).to(device), first=first, extent=extent)


def embed(
    encoder: Encoder,
    data: Prepared,
    device: torch.device,
    folder: Path | None = None,
    *,
    cover: Cover | None = None,
) -> NDArray[np.float32]:
    """Return ``N D`` pooled features of every prepared volume, in catalog order, on every rank.

    A volume larger than the geometry is its windows' mean. ``folder`` keeps finished chunks, those of covered images
    apart from the others. ``cover``: what the encoder is not to see.
    """
    with _scoring(encoder, encoder, device):
        parts = Parts(_kept(folder, cover), "embedding", _mark(encoder, data, *_said(cover))) if folder else None
        found = _scored(lambda block: encoder(block.shown(device, cover)).pooled.float(), data, parts, "embed")
    return found.astype(np.float32) if len(found) else np.zeros((0, encoder.width), np.float32)


def embed_tokens(
    encoder: TokenEncoder, data: Prepared, device: torch.device, folder: Path | None = None, *, most: int = 7
) -> NDArray[np.float16]:
    """Return ``N L D`` tokens of every prepared volume, averaged over neighbours to at most ``most`` an axis.

    Like ``embed`` in all else.
    """
    grid = tuple(min(size, most) for size in encoder.grid)
    pool: Callable[..., Tensor] = F.adaptive_avg_pool2d if len(grid) == 2 else F.adaptive_avg_pool3d

    def tokens(block: Block) -> Tensor:
        found = encoder(block.shown(device, None)).tokens
        maps = found.float().transpose(1, 2).unflatten(2, encoder.grid)
        return pool(maps, grid).flatten(2).transpose(1, 2).flatten(1).half()

    with _scoring(encoder, encoder, device):
        parts = Parts(folder, "tokens", _mark(encoder, data, grid)) if folder else None
        made = _scored(tokens, data, parts, "embed tokens")
    return made.reshape(len(data), prod(grid), encoder.width).astype(np.float16)


def pretext_losses(
    method: Method[Any],
    data: Prepared,
    device: torch.device,
    seed: int,
    folder: Path | None = None,
    *,
    cover: Cover | None = None,
) -> NDArray[np.float64]:
    """Return one pretext loss a volume, ``N`` float64, computed in fp32 on the method's deterministic view.

    A volume larger than the geometry is its windows' mean. ``folder`` and ``cover`` are those of `embed`.
    """
    recipe = type(method).scoring_views(method.config, method.encoder.geometry)

    def losses(block: Block) -> Tensor:
        keys = torch.from_numpy(view_keys(seed, SCORING_EPOCH, block.keys, len(recipe.views))).to(device)
        batch = make_views(block.shown(device, cover), keys, torch.from_numpy(block.rows).to(device), recipe)
        return method.pretext_losses(batch).double()

    with _scoring(method, method.encoder, device):
        mark = _mark(method, data, repr(recipe), method.config.data(), seed, *_said(cover))
        parts = Parts(_kept(folder, cover), "loss", mark) if folder else None
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


def _scored(score: Callable[[Block], Tensor], data: Prepared, parts: Parts | None, what: str) -> NDArray[Any]:
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


def _chunk(score: Callable[[Block], Tensor], data: Prepared, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Score ``rows``, each by the mean over its windows."""
    seen, values = [], []
    for block in _ahead(_blocks(data, rows)):
        values.append(score(block).cpu().numpy())
        seen.append(block.rows)
    scores = np.concatenate(values)
    if not data.cropped:
        return scores
    first = np.searchsorted(np.concatenate(seen), rows)
    counts = np.diff(np.append(first, len(scores))).reshape(-1, *(1,) * (scores.ndim - 1))
    means: NDArray[Any] = (np.add.reduceat(scores.astype(np.float64), first) / counts).astype(scores.dtype)
    return means


def _blocks(data: Prepared, rows: NDArray[np.int64]) -> Iterator[Block]:
    """Cut ``rows`` into batches of ``SCORING_BATCH`` volumes, or windows where they are larger than the geometry."""
    if not data.cropped:
        for part in np.split(rows, range(SCORING_BATCH, len(rows), SCORING_BATCH)):
            yield Block(data.images(part), part, data.keys[part])
        return
    places = [
        (int(row), number, box)
        for row in rows
        for number, box in enumerate(windows(tuple(data.shapes[row].tolist()), data.geometry.shape))
    ]
    for start in range(0, len(places), SCORING_BATCH):
        row, number, box = zip(*places[start : start + SCORING_BATCH], strict=True)
        images = data.reader.read_many(row, [(slice(None), *spans) for spans in box])
        keys = data.keys[np.array(row)] + np.array(number)  # the first window has the volume's own key
        first = np.array([[span.start for span in spans] for spans in box])
        yield Block(torch.from_numpy(images).float(), np.array(row), keys, first, data.shapes[np.array(row)])


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield ``items``, each read in a thread while the one before it is scored."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _kept(folder: Path, cover: Cover | None) -> Path:
    return folder if cover is None else folder / cover


def _said(cover: Cover | None) -> tuple[Any, ...]:
    """Return what a mark says of a cover: its name, and the sizes that it depends on."""
    return () if cover is None else (cover, FRAME, CORNER, SIGMA, GRID, MEAN, SPREAD)


def _mark(model: nn.Module, data: Prepared, *more: Any) -> str:
    return fingerprint(weights_mark(model), repr(data.geometry), data.cropped, *more)
