"""What a linear model sees without any encoder: small images, and of them the frame, the corners, a thumbnail.

These are the baselines that every table prints: where outer pixels alone tell the label, so may any encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from medssl.data.covers import Cover, covered, region
from medssl.data.prepared import Prepared

MOST = 64  # voxels an axis that a linear model can hold in memory
THUMBNAIL = 4  # voxels an axis


def small_images(data: Prepared, *, most: int = MOST) -> NDArray[np.float32]:
    """Return ``N C *S`` whole volumes, shrunk by area means to at most ``most`` voxels an axis, then covered."""
    shape = tuple(min(size, most) for size in data.geometry.shape)
    if data.cropped:  # each has an extent of its own
        whole = (torch.from_numpy(data.reader.read(row)).float()[None] for row in range(len(data)))
    else:
        chunks = np.array_split(np.arange(len(data)), max(1, len(data) // 64))
        plain = data.covered(None)
        whole = (plain.images(rows) for rows in chunks)
    small = torch.cat([F.interpolate(images, size=shape, mode="area") for images in whole])
    return (small if data.cover is None else covered(small, data.cover, torch.from_numpy(data.keys))).numpy()


def frame(images: NDArray[Any]) -> NDArray[Any]:
    """Return the outer eighth of each side of every slice of ``N C *S``, ``N D``."""
    return _seen(images, Cover.FRAME)


def corners(images: NDArray[Any]) -> NDArray[Any]:
    """Return the four corner squares of every slice of ``N C *S``, ``N D``."""
    return _seen(images, Cover.CORNERS)


def thumbnail(images: NDArray[Any]) -> NDArray[Any]:
    """Return the area means of a grid of ``THUMBNAIL`` cells an axis of ``N C *S``, ``N D``."""
    size = (THUMBNAIL,) * (images.ndim - 2)
    return F.interpolate(torch.from_numpy(images).float(), size=size, mode="area").flatten(1).numpy()


BASELINES: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "pixels": lambda images: images.reshape(len(images), -1),
    "frame": frame,
    "corners": corners,
    "thumbnail": thumbnail,
}


def _seen(images: NDArray[Any], cover: Cover) -> NDArray[Any]:
    inside = region(tuple(images.shape[2:]), cover)[0].numpy()
    return np.asarray(images[:, :, inside]).reshape(len(images), -1)
