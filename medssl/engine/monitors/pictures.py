"""Pictures of what a run has learned: its task, its attention, its tokens as colours; on fixed images and keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medssl.core.batch import Progress, Views
from medssl.core.collectives import rank
from medssl.data import sheet
from medssl.engine.monitors.base import Observation, due, evaluating
from medssl.methods.base import Method
from medssl.models.encoders.base import TokenEncoder

Columns = Mapping[str, Tensor]  # B C *S each, under their captions
Picture = NDArray[np.float32]
Draw = Callable[[Sequence[Picture], Sequence[str], Path, int], Path]
HEADS = 4  # shown beside their mean
TILES_A_ROW = 6
RED, TINT = (1.0, 0.2, 0.0), 0.75  # of attention: its colour, and the most of it


@dataclass
class PicturesMonitor:
    """Write a sheet of each kind below ``folder`` every ``every`` steps and after the last one.

    ``batch`` holds fixed images in the views that scoring sees; ``examples`` are the columns of a sheet of training
    views, written at once. ``draw`` writes pictures (``Y X`` or ``Y X 3`` in [0, 1]) with a caption each, so many a
    row, to a file. Every process computes, for sharded parameters are gathered by all; the first one writes.
    """

    method: Method[Any]
    batch: Views
    examples: Columns
    draw: Draw
    folder: Path
    every: int
    _begun: bool = field(default=False, init=False)

    def after_step(self, model: nn.Module, progress: Progress, figures: Mapping[str, float]) -> Observation | None:
        """Return the files that were written."""
        sheets: dict[str, Columns] = {} if self._begun else {"views.png": self.examples}
        self._begun = True
        if due(progress, self.every):
            with evaluating(self.method):
                made = {"task": self.method.pictured(self.batch), **self._of_encoder()}
            sheets |= {f"{kind}-{progress.step:08d}.png": columns for kind, columns in made.items() if columns}
        if not sheets or rank() > 0:
            return None
        return Observation(pictures=tuple(self._write(name, columns) for name, columns in sheets.items()))

    def _of_encoder(self) -> dict[str, Columns]:
        encoder, images = self.method.export(), self.batch.images[0].float()
        if not isinstance(encoder, TokenEncoder):
            return {}
        tokens = encoder(images).tokens
        sheets: dict[str, Columns] = {
            "tokens": {"image": images, "tokens": on_grid(principal_colours(tokens), encoder, images)}
        }
        attention_map: Callable[[Tensor], Tensor] | None = getattr(encoder, "attention_map", None)
        if attention_map is not None:
            shards: list[Any] = [module for module in encoder.modules() if hasattr(module, "unshard")]
            for shard in shards:
                shard.unshard()  # a block that ran was sharded again; whoever opened them closes them
            heads = attention_map(images).float()  # B heads L
            shown = {
                "all heads": heads.mean(1),
                **{f"head {i + 1}": h for i, h in enumerate(heads[:, :HEADS].unbind(1))},
            }
            over = {name: tinted(images, on_grid(part.unsqueeze(2), encoder, images)) for name, part in shown.items()}
            sheets["attention"] = {"image": images, **over}
        return sheets

    def _write(self, name: str, columns: Columns) -> Path:
        tiles = [[flat(part) for part in planes(column)] for column in columns.values()]
        rows = list(zip(*tiles, strict=True))
        width = len(columns) * max(1, TILES_A_ROW // len(columns))
        return self.draw([t for row in rows for t in row], list(columns) * len(rows), self.folder / name, width)


def principal_colours(tokens: Tensor) -> Tensor:
    """Return ``B L 3`` colours in [0, 1]: the first three principal components of all tokens ``B L D`` together.

    As DINOv2's figures (Oquab 2023); each component spans its 1st to 99th percentile, and its largest loading is
    positive, so that colours do not flip at random.
    """
    rows = tokens.flatten(0, 1).double()
    rows = rows - rows.mean(0)
    axes = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -3:].flip(1)  # D 3
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    parts = rows @ axes
    low, high = torch.quantile(parts, torch.tensor([0.01, 0.99], dtype=parts.dtype, device=parts.device), dim=0)
    colours: Tensor = ((parts - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return colours.float().view(*tokens.shape[:2], 3)


def on_grid(values: Tensor, encoder: TokenEncoder, images: Tensor) -> Tensor:
    """Return ``B C *S`` maps of token values ``B L C``, each token as large as its patch."""
    grid = [size // patch for size, patch in zip(images.shape[2:], encoder.patch, strict=True)]
    maps = values.transpose(1, 2).reshape(len(values), -1, *grid)
    return F.interpolate(maps, size=images.shape[2:], mode="nearest")


def tinted(images: Tensor, values: Tensor) -> Tensor:
    """Return ``B 3 *S``: ``images`` in grey, the redder the larger ``values`` ``B 1 *S`` are.

    Each map runs from its least to its 99th percentile, so that one token that attracts everything hides nothing.
    """
    every = values.flatten(1)
    span = torch.stack([every.amin(1), torch.quantile(every, 0.99, dim=1)])  # 2 B
    low, high = span.view(2, -1, *(1,) * (values.ndim - 1))
    weight = TINT * ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    red = torch.tensor(RED, device=images.device).view(3, *(1,) * (images.ndim - 2))
    shown: Tensor = (1 - weight) * images.mean(1, keepdim=True) + weight * red
    return shown


def planes(images: Tensor) -> list[Tensor]:
    """Return ``C Y X`` pictures of ``B C *S``: the images, or of each volume the middle plane of every axis."""
    return [picture for of_one in zip(*sheet.planes(images), strict=True) for picture in of_one]


def flat(picture: Tensor) -> Picture:
    """Return ``Y X`` or ``Y X 3`` from ``C Y X``."""
    values = picture.float().cpu().clamp(0, 1)
    return np.asarray(values[0] if len(values) == 1 else values[:3].movedim(0, -1), np.float32)
