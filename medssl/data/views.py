"""Random views of a batch: every draw comes from the view's key, every operation is batched on the device.

Randomness (`draw`) stands apart from the pure operations (`crop_resize`, `adjust`), so that each can be tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.batch import Views
from medssl.core.keys import uniform
from medssl.data.crops import Stored, cut
from medssl.data.memory import empty
from medssl.data.resample import blur_matrix, box_matrix, resample, ringing_matrix

CHUNK = 2**19  # voxels drawn at a time on a CPU


class Stream(IntEnum):
    """What a draw is for; streams are independent of each other."""

    CROP = 1
    FLIP = 2
    INTENSITY = 3
    NOISE = 4
    BLUR = 5
    BLOCK = 6
    BOX = 7
    MASK = 10
    ANGLE = 11
    SHUFFLE = 12
    FIELD = 13
    RINGING = 14


@dataclass(frozen=True)
class View:
    """How one view is drawn; the defaults draw nothing.

    ``size``: its shape, where that is not the geometry's (local crops of multi-crop). ``crop_scale``: share of the
    image's area or volume kept; where every box has just ``size`` voxels it is sliced, not interpolated.
    ``crop_ratio``: largest aspect ratio. ``flip``: chance of a last-axis mirror (0 where laterality matters).
    ``contrast``, ``brightness``: largest relative and absolute change. ``gamma``: largest change of log-gamma.
    ``noise``: largest standard deviation. ``blur``: largest standard deviation of a Gaussian, in voxels of the view;
    ``blur_chance``: how often. ``gibbs``: largest share of each axis's frequencies that is lost. ``bias``: largest
    logarithm of a smooth field of brightness, as coils leave in MR.
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
    gibbs: float = 0.0
    bias: float = 0.0

    @property
    def alters(self) -> bool:
        """Whether the view changes what it cuts out, not only where and how large that is."""
        return any((self.blur, self.gibbs, self.bias, self.contrast, self.brightness, self.gamma, self.noise))

    def moves(self, shape: tuple[int, ...]) -> bool:
        """Say whether the view of an image of ``shape`` has another place or size than the image."""
        return self.crop_scale != (1.0, 1.0) or self.crop_ratio != 1.0 or (self.size or shape) != shape


@dataclass(frozen=True)
class ViewRecipe:
    """The views of one sample, in order."""

    views: tuple[View, ...] = (View(),)


def make_views(
    images: Tensor | Stored,
    keys: Tensor,
    volume: Tensor,
    recipe: ViewRecipe,
    targets: Tensor | None = None,
    patient: Tensor | None = None,
) -> Views:
    """Draw the views of a batch: ``images`` ``B C *S`` in [0, 1] or uint8, ``keys`` ``B V``.

    Stored images serve views that `only_cut`.
    """
    made = tuple(draw(images, keys[:, index], view) for index, view in enumerate(recipe.views))
    return Views(made, keys, volume, targets, patient)


def draw(images: Tensor | Stored, keys: Tensor, view: View) -> Tensor:
    """Draw one view of each image ``B C *S`` from its key ``B``, as float32."""
    shape = tuple(images.shape[2:])
    size = view.size or shape
    moved = view.moves(shape)
    resampled = moved and not is_slice(view, shape)
    if isinstance(images, Stored) or (not resampled and (moved or view.flip)):
        images = slices(images, keys, view, size)
    if not (resampled or view.alters):
        return in_unit_range(images)
    if images.device.type != "cpu":
        return change(images, keys, view, size, resampled=resampled)
    num, made = max(1, CHUNK // images[:1].numel()), empty((*images.shape[:2], *size))
    for part in range(0, len(images), num):  # what fits a cache is drawn faster, and the same bit by bit
        now = slice(part, part + num)
        made[now] = change(images[now], keys[now], view, size, resampled=resampled)
    return made


def only_cut(view: View, shape: tuple[int, ...]) -> bool:
    """Say whether a view of images of ``shape`` looks at each of them once, to cut a box from it."""
    return is_slice(view, shape) if view.moves(shape) else view.flip > 0


def slices(images: Tensor | Stored, keys: Tensor, view: View, size: tuple[int, ...]) -> Tensor:
    """Cut and mirror without interpolation, in storage type."""
    ndim = len(size)
    room = torch.tensor(images.shape[2:], device=keys.device) - torch.tensor(size, device=keys.device) + 1
    first = (uniform(keys, 2 * ndim, Stream.CROP)[:, ndim:] * room).long()
    mirrored = uniform(keys, 1, Stream.FLIP)[:, 0] < view.flip if view.flip else None
    return cut(images, torch.arange(len(images), device=keys.device), first, size, mirrored)


def change(images: Tensor, keys: Tensor, view: View, size: tuple[int, ...], *, resampled: bool) -> Tensor:
    """Resample where the view does, blur, ring, and change intensities."""
    images = in_unit_range(images)
    matrices: list[Tensor] = []
    if resampled:  # a box can be mirrored
        matrices = box_matrices(*crop_boxes(keys, len(size), view), tuple(images.shape[2:]), size)
    if view.blur:
        u = uniform(keys, 2, Stream.BLUR)
        sigma = torch.where(u[:, 1] < view.blur_chance, u[:, 0] * view.blur, 0.0)
        matrices = after(matrices, [blur_matrix(sigma, view.blur, n) for n in size])
    if view.gibbs:
        share = 1 - uniform(keys, 1, Stream.RINGING)[:, 0] * view.gibbs
        matrices = after(matrices, [ringing_matrix(share, n) for n in size])
    images = resample(images, matrices) if matrices else images
    if view.bias:
        images = images * bias_field(keys, view.bias, size)
    if view.gibbs or view.bias:
        images = images.clamp(0, 1)
    if view.contrast or view.brightness or view.gamma:
        span = torch.tensor([view.contrast, view.brightness, view.gamma], device=images.device)
        amount = (uniform(keys, 3, Stream.INTENSITY) * 2 - 1) * span
        images = adjust(images, 1 + amount[:, 0], amount[:, 1], amount[:, 2].exp() if view.gamma else None)
    return add_noise(images, keys, view.noise) if view.noise else images


def after(first: list[Tensor], then: list[Tensor]) -> list[Tensor]:
    """Return one matrix an axis for both; ``first`` may be empty."""
    return [b @ a for a, b in zip(first, then, strict=True)] if first else then


def bias_field(keys: Tensor, largest: float, shape: tuple[int, ...]) -> Tensor:
    """Return ``B 1 *S`` to multiply with: the exponential of a keyed polynomial that stays within ±``largest``.

    Legendre polynomials up to the third degree in all axes together, as bias fields are modelled when they are
    corrected (Van Leemput et al., IEEE TMI 1999).
    """
    degrees = [each for each in product(range(4), repeat=len(shape)) if 1 <= sum(each) <= 3]
    u = uniform(keys, len(degrees) + 1, Stream.FIELD) * 2 - 1
    weights = u[:, :-1] / u[:, :-1].abs().sum(1, keepdim=True).clamp(min=1e-6) * u[:, -1:] * largest
    field = torch.zeros(len(keys), *(4,) * len(shape), device=keys.device)
    places: tuple[Tensor | slice, ...] = (slice(None), *torch.tensor(degrees).unbind(1))
    field[places] = weights
    for size in shape:  # each pass replaces the first axis of degrees by one of places, the last
        x = ((torch.arange(size, device=keys.device) * 2 + 1) / size - 1).to(field.dtype)
        powers = torch.stack([torch.ones_like(x), x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2])
        field = torch.tensordot(field, powers, dims=([1], [0]))
    return field.exp().unsqueeze(1)


def in_unit_range(images: Tensor) -> Tensor:
    """Return float32 in [0, 1] from the storage type: float16 as it is, uint8 by 255."""
    if images.dtype == torch.float32:
        return images
    made = empty(tuple(images.shape)).copy_(images) if images.device.type == "cpu" else images.float()
    return made.div_(255) if images.dtype == torch.uint8 else made


def is_slice(view: View, shape: tuple[int, ...]) -> bool:
    """Say whether the view's boxes have exactly as many voxels as the view, so that none is interpolated."""
    low, high = view.crop_scale
    side = low ** (1 / len(shape))
    sizes = zip(view.size or shape, shape, strict=True)
    return low == high and view.crop_ratio == 1.0 and all(abs(side * n - size) < 1e-3 for size, n in sizes)


def crop_boxes(keys: Tensor, ndim: int, view: View) -> tuple[Tensor, Tensor]:
    """Return centres and signed half-sizes, ``B ndim`` each, in units where the image spans [-1, 1] per axis.

    The relative size is the ndim-th root of the scale, spread over the axes so that two of them differ by the ratio at
    most (log-uniformly in 2D); a negative half-size on the last axis is a mirror.
    """
    u = uniform(keys, 2 * ndim + 1, Stream.CROP)
    low, high = view.crop_scale
    scale = (low + (high - low) * u[:, :1]) ** (1 / ndim)
    if ndim == 2:
        stretch = (u[:, 1:2] * 2 - 1) * torch.log(torch.tensor(view.crop_ratio)) / 2
        stretch = torch.cat([stretch, -stretch], dim=1)
    else:
        free = torch.cat([u[:, 1:ndim], u[:, -1:]], dim=1)
        stretch = (free - free.mean(1, keepdim=True)) * torch.log(torch.tensor(view.crop_ratio))
    half = (scale * stretch.exp()).clamp(max=1.0)  # B ndim
    centre = (u[:, ndim : 2 * ndim] * 2 - 1) * (1 - half)
    mirrored = uniform(keys, 1, Stream.FLIP)[:, 0] < view.flip
    sign = torch.ones_like(half)
    sign[:, -1] = torch.where(mirrored, -1.0, 1.0)
    return centre, half * sign


def crop_resize(images: Tensor, centre: Tensor, half: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
    """Resample the box of each image to ``size`` (its own shape without), linearly, without aliasing."""
    shape = tuple(images.shape[2:])
    return resample(images, box_matrices(centre, half, shape, size or shape))


def box_matrices(centre: Tensor, half: Tensor, shape: tuple[int, ...], size: tuple[int, ...]) -> list[Tensor]:
    """Return the weights of `box_matrix` for every axis."""
    axes = zip(centre.unbind(1), half.unbind(1), shape, size, strict=True)
    return [box_matrix(*axis) for axis in axes]


def warp(images: Tensor, theta: Tensor) -> Tensor:
    """Resample ``B C *S`` through ``B ndim ndim+1`` affine maps from output to input places; outside is the border."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def adjust(images: Tensor, contrast: Tensor, brightness: Tensor, gamma: Tensor | None = None) -> Tensor:
    """Change contrast about each image's mean, then brightness, then gamma; all ``B``; clipped to [0, 1]."""
    shape = (-1, *(1,) * (images.ndim - 1))
    mean = images.flatten(1).mean(1).view(shape)
    changed = (images - mean).mul_(contrast.view(shape)).add_(mean).add_(brightness.view(shape)).clamp_(1e-6, 1)
    return changed if gamma is None else changed.pow_(gamma.view(shape))


def add_noise(images: Tensor, keys: Tensor, largest: float) -> Tensor:
    """Add Gaussian noise (Box-Muller over keyed draws) with a keyed standard deviation up to ``largest``."""
    num = images[0].numel()
    half = (num + 1) // 2
    u = uniform(keys, 2 * half + 1, Stream.NOISE)
    radius, angle = (u[:, :half] + 2.0**-25).log_().mul_(-2).sqrt_(), u[:, half:-1] * (2 * torch.pi)
    normal = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :num]
    return images + normal.mul_(u[:, -1:] * largest).view_as(images)
