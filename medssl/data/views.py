"""Random views of a batch: every draw comes from the view's key, every operation is batched on the device.

Randomness (`draw`) stands apart from the pure operations (`crop_resize`, `adjust`), so that each can be tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.batch import Views
from medssl.core.keys import uniform


class Stream(IntEnum):
    """What a draw is for; streams are independent of each other."""

    CROP = 1
    FLIP = 2
    INTENSITY = 3
    NOISE = 4
    MASK = 10
    ANGLE = 11


@dataclass(frozen=True)
class View:
    """How one view is drawn; the defaults draw nothing.

    ``size``: its shape, where that is not the geometry's (local crops of multi-crop). ``crop_scale``: share of the
    image's area or volume kept. ``crop_ratio``: largest aspect ratio. ``flip``: chance of a last-axis mirror (0 where
    laterality matters). ``contrast``, ``brightness``: largest relative and absolute change. ``gamma``: largest change of
    log-gamma. ``noise``: largest standard deviation. ``blur``: largest standard deviation of a Gaussian, in voxels of
    the view; ``blur_chance``: how often.
    """

    size: tuple[int, ...] | None = None

    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: float = 1.0
    flip: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    blur_chance: float = 1.0


@dataclass(frozen=True)
class ViewRecipe:
    """The views of one sample, in order."""

    views: tuple[View, ...] = (View(),)


def make_views(
    images: Tensor, keys: Tensor, volume: Tensor, recipe: ViewRecipe, targets: Tensor | None = None
) -> Views:
    """Draw the views of a batch: ``images`` ``B C *S`` in [0, 1], ``keys`` ``B V``."""
    made = tuple(draw(images, keys[:, index], view) for index, view in enumerate(recipe.views))
    return Views(made, keys, volume, targets)


def draw(images: Tensor, keys: Tensor, view: View) -> Tensor:
    """Draw one view of each image ``B C *S`` from its key ``B``."""
    if view.crop_scale != (1.0, 1.0) or view.crop_ratio != 1.0 or view.flip:
        images = crop_resize(images, *crop_boxes(keys, images.ndim - 2, view))
    if view.contrast or view.brightness or view.gamma:
        span = torch.tensor([view.contrast, view.brightness, view.gamma], device=images.device)
        change = (uniform(keys, 3, Stream.INTENSITY) * 2 - 1) * span
        images = adjust(images, 1 + change[:, 0], change[:, 1], change[:, 2].exp())
    if view.noise:
        images = add_noise(images, keys, view.noise)
    return images


def crop_boxes(keys: Tensor, ndim: int, view: View) -> tuple[Tensor, Tensor]:
    """Return centres and signed half-sizes, ``B ndim`` each, in units where the image spans [-1, 1] per axis.

    The relative size is the ndim-th root of the scale, spread log-uniformly over the axes by the ratio; a negative
    half-size on the last axis is a mirror.
    """
    u = uniform(keys, 2 * ndim, Stream.CROP)
    low, high = view.crop_scale
    scale = (low + (high - low) * u[:, :1]) ** (1 / ndim)
    stretch = (u[:, 1:ndim] * 2 - 1) * torch.log(torch.tensor(view.crop_ratio)) / 2
    stretch = torch.cat([stretch, -stretch.sum(1, keepdim=True)], dim=1).exp() if ndim > 1 else torch.ones_like(scale)
    half = (scale * stretch).clamp(max=1.0)  # B ndim
    centre = (u[:, ndim:] * 2 - 1) * (1 - half)
    mirrored = uniform(keys, 1, Stream.FLIP)[:, 0] < view.flip
    sign = torch.ones_like(half)
    sign[:, -1] = torch.where(mirrored, -1.0, 1.0)
    return centre, half * sign


def crop_resize(images: Tensor, centre: Tensor, half: Tensor) -> Tensor:
    """Resample the box of each image to the full shape, linearly (pixel centres as in align_corners=False)."""
    theta = torch.diag_embed(half.flip(1))  # affine_grid counts axes from the last
    theta = torch.cat([theta, centre.flip(1).unsqueeze(-1)], dim=2).to(images.dtype)
    return warp(images, theta)


def warp(images: Tensor, theta: Tensor) -> Tensor:
    """Resample ``B C *S`` through ``B ndim ndim+1`` affine maps from output to input places; outside is the border."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def adjust(images: Tensor, contrast: Tensor, brightness: Tensor, gamma: Tensor) -> Tensor:
    """Change contrast about each image's mean, then brightness, then gamma; all ``B``; clipped to [0, 1]."""
    shape = (-1, *(1,) * (images.ndim - 1))
    mean = images.flatten(1).mean(1).view(shape)
    changed = (images - mean) * contrast.view(shape) + mean + brightness.view(shape)
    return changed.clamp(1e-6, 1).pow(gamma.view(shape))


def add_noise(images: Tensor, keys: Tensor, largest: float) -> Tensor:
    """Add Gaussian noise (Box-Muller over keyed draws) with a keyed standard deviation up to ``largest``."""
    num = images[0].numel()
    u = uniform(keys, 2 * num + 1, Stream.NOISE)
    normal = (-2 * (u[:, :num] + 2.0**-25).log()).sqrt() * (2 * torch.pi * u[:, num:-1]).cos()
    return images + (u[:, -1:] * largest * normal).view_as(images)
