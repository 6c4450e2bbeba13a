"""A small form of every method around a small encoder, in two and three dimensions, and batches for it."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from medssl.core.batch import Views
from medssl.core.collectives import rank, world_size
from medssl.core.keys import view_keys
from medssl.core.types import Geometry
from medssl.data.views import make_views
from medssl.methods.base import METHODS
from medssl.models.build import build_encoder, seeded
from medssl.models.encoders.base import ENCODERS

SHAPES = {2: (16, 16), 3: (8, 8, 8)}
ENCODER: dict[str, dict[str, Any]] = {
    "vit": {"width": 24, "depth": 2, "heads": 2, "patch": 4},
    "resnet": {"depth": 10, "width": 8, "norm": "group"},
}
CONFIG: dict[str, dict[str, Any]] = {  # heads as small as the encoder; a method that is not here keeps its defaults
    "dino": {"prototypes": 32, "hidden": 32, "bottleneck": 16, "local_crops": 2},
    "moco_v3": {"hidden": 32, "output": 16},
}


def small_method(name: str, ndim: int = 2, encoder: str = "vit", **config: Any) -> Any:
    """Return a method around an encoder for images of ``SHAPES[ndim]``; the same weights every time."""
    method, geometry = METHODS.load(name), Geometry(SHAPES[ndim])
    made = build_encoder(encoder, ENCODERS.load(encoder).config_class.parse(ENCODER.get(encoder, {})), geometry, seed=0)
    settings = method.config_class.parse({**CONFIG.get(name, {}), **config})
    method.check(settings, geometry)
    return seeded(lambda: method(settings, made), "method", 0)


def batch_of(method: Any, num: int, epoch: int = 0) -> Views:
    """Return keyed views of ``num`` smooth images, two of each patient."""
    shape = method.encoder.geometry.shape
    coarse = torch.rand(num, 1, *(4,) * len(shape), generator=torch.Generator().manual_seed(0))
    images = F.interpolate(coarse, size=shape, mode="bilinear" if len(shape) == 2 else "trilinear")
    recipe = type(method).views(method.config, method.encoder.geometry)
    keys = torch.from_numpy(view_keys(0, epoch, np.arange(num), len(recipe.views)))
    return make_views(images, keys, torch.arange(num), recipe, patient=torch.arange(num) // 2)


def part(batch: Views, rows: slice) -> Views:
    """Return some rows of a batch."""
    patient = None if batch.patient is None else batch.patient[rows]
    images = tuple(image[rows] for image in batch.images)
    return Views(images, batch.keys[rows], batch.volume[rows], patient=patient)


def doubled(batch: Views) -> Views:
    """Return the batch in float64."""
    return replace(batch, images=tuple(image.double() for image in batch.images))


def share(batch: Views) -> Views:
    """Return this process's rows."""
    num = len(batch) // world_size()
    return part(batch, slice(rank() * num, (rank() + 1) * num))
