"""Pictures of what an encoder sees: its attention, and its tokens or feature maps as colours, over the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medssl.data import sheet
from medssl.models.encoders.base import Encoder, TokenEncoder

Columns = Mapping[str, Tensor]  # B C *S each, under their captions
Picture = NDArray[np.float32]
HEADS = 4  # shown beside their mean
COARSEST = 3  # feature maps shown: the finer ones are edges, and large
TILES_A_ROW = 6
RED, TINT = (1.0, 0.2, 0.0), 0.75  # of attention: its colour, and the most of it


def encoder_pictures(encoder: Encoder, images: Tensor) -> dict[str, Columns]:
    """Return sheets of ``B C *S`` images: ``tokens`` and ``attention``, or ``features`` of an encoder without tokens.

    Everything runs as the caller set it: the mode of ``encoder``, gradients, precision.
    """
    features = encoder(images)
    if not isinstance(encoder, TokenEncoder):
        maps = [part for part in features.maps[:COARSEST] if part[0, 0].numel() > 1]
        return {"features": {"image": images, **{_grid_name(part): coloured(part, images) for part in maps}}}
    sheets: dict[str, Columns] = {
        "tokens": {"image": images, "tokens": on_grid(principal_colours(features.tokens), encoder, images)}
    }
    attention_map: Callable[[Tensor], Tensor] | None = getattr(encoder, "attention_map", None)
    if attention_map is not None:
        shards: list[Any] = [module for module in encoder.modules() if hasattr(module, "unshard")]
        for shard in shards:
            shard.unshard()  # a block that ran was sharded again; whoever opened them closes them
        heads = attention_map(images).float()  # B heads L
        shown = {"all heads": heads.mean(1), **{f"head {i + 1}": h for i, h in enumerate(heads[:, :HEADS].unbind(1))}}
        over = {name: tinted(images, on_grid(part.unsqueeze(2), encoder, images)) for name, part in shown.items()}
        sheets["attention"] = {"image": images, **over}
    return sheets


def tiles(columns: Columns) -> tuple[list[Picture], list[str], int]:
    """Return the pictures of ``columns`` a row an image (or plane of a volume), their captions, and how many a row."""
    flattened = [[flat(part) for part in planes(column)] for column in columns.values()]
    rows = list(zip(*flattened, strict=True))
    return (
        [t for row in rows for t in row],
        list(columns) * len(rows),
        len(columns) * max(1, TILES_A_ROW // len(columns)),
    )


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


def coloured(maps: Tensor, images: Tensor) -> Tensor:
    """Return ``B 3 *S`` colours of feature maps ``B C *S'``, each of their voxels as large as what it stands for."""
    colours = principal_colours(maps.flatten(2).transpose(1, 2)).transpose(1, 2)
    return F.interpolate(colours.reshape(len(maps), 3, *maps.shape[2:]), size=images.shape[2:], mode="nearest")


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


def _grid_name(maps: Tensor) -> str:
    return "features " + "×".join(map(str, maps.shape[2:]))
