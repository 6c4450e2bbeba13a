"""Separable resampling: a box, its resizing, a mirror and a blur are one matrix an axis, so all of it is a few matmuls.

Against sampling voxel by voxel this is exact where nothing changes, does not alias where a box shrinks, and is several
times faster in 3D.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

BLUR_REACH = 4.0  # standard deviations, as MONAI truncates


def box_matrix(centre: Tensor, half: Tensor, num: int, size: int) -> Tensor:
    """Return the ``B size num`` weights of linear resampling of a box of an axis of ``num`` voxels to ``size``.

    Pixel centres are those of ``align_corners=False``, beyond the border is the border. Where the box shrinks, the
    triangle widens by the same factor, as in Pillow and torchvision with ``antialias=True``.

    Args:
        centre: of the boxes, ``B``, where the axis spans [-1, 1].
        half: their half-sizes, ``B``; negative mirrors.
        num: voxels of the axis.
        size: voxels of the result.
    """
    place = (torch.arange(size, device=centre.device, dtype=centre.dtype) * 2 + 1) / size - 1
    place = ((centre[:, None] + half[:, None] * place + 1) * num - 1) / 2  # B size, in voxels
    support = (half.abs() * num / size).clamp(min=1).view(-1, 1, 1)
    reach = 2 * ceil(max(1.0, num / size))
    taps = (place - support[:, 0]).floor().unsqueeze(-1) + 1 + torch.arange(reach, device=centre.device)
    weights = (1 - (taps - place.unsqueeze(-1)).abs() / support).clamp(min=0)
    weights = weights * ((taps >= 0) & (taps <= num - 1))
    weights = weights / weights.sum(-1, keepdim=True)
    matrix = torch.zeros(len(centre), size, num, device=centre.device, dtype=centre.dtype)
    return matrix.scatter_add_(2, taps.clamp(0, num - 1).long(), weights)


def blur_matrix(sigma: Tensor, largest: float, size: int) -> Tensor:
    """Return the ``B size size`` weights of a Gaussian of ``sigma`` voxels (``B``, at most ``largest``; 0: none).

    The sampled Gaussian, normalised, as torchvision's and MONAI's ``approx="sampled"``; the border goes on for ever.
    """
    reach = ceil(BLUR_REACH * largest)
    taps = torch.arange(-reach, reach + 1, device=sigma.device, dtype=sigma.dtype)
    kernel = (-0.5 * (taps / sigma.clamp(min=1e-3)[:, None]).square()).exp()
    kernel = kernel / kernel.sum(1, keepdim=True)  # B K
    place = torch.arange(size, device=sigma.device)[:, None] + taps.long()
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device, dtype=sigma.dtype)
    return matrix.scatter_add_(
        2, place.clamp(0, size - 1).expand(len(sigma), -1, -1), kernel[:, None].expand(-1, size, -1)
    )


def ringing_matrix(share: Tensor, size: int) -> Tensor:
    """Return the ``B size size`` weights that keep the lowest ``share`` (``B``; 1: all) of an axis's frequencies.

    What a scanner sees that samples fewer lines of k-space: edges ring (Gibbs), and the axis closes on itself.
    """
    most = size // 2
    k, place = torch.arange(1, most + 1, device=share.device), torch.arange(size, device=share.device)
    waves = (2 * torch.pi / size * k[:, None] * place).cos() * 2 / size  # K size
    if size % 2 == 0:
        waves[-1] /= 2  # Nyquist's frequency is its own mirror
    kept = (k <= (share[:, None] * most + 1e-6).floor()).to(waves.dtype)  # B K
    kernel = kept @ waves + 1 / size
    return kernel[:, (place[:, None] - place) % size]


def resample(images: Tensor, matrices: list[Tensor]) -> Tensor:
    """Apply one ``B size num`` matrix an axis to ``B C *S``; axes that shrink most go first."""
    order = sorted(range(len(matrices)), key=lambda axis: matrices[axis].shape[1] / matrices[axis].shape[2])
    for axis in order:
        images = _along(images, matrices[axis], 2 + axis)
    return images


def _along(images: Tensor, matrix: Tensor, axis: int) -> Tensor:
    shape = (*images.shape[:axis], matrix.shape[1], *images.shape[axis + 1 :])
    batch = len(images)
    if axis == images.ndim - 1:
        return torch.bmm(images.reshape(batch, -1, images.shape[-1]), matrix.mT).view(shape)
    inner = images.shape[axis + 1 :].numel()
    lines = images.reshape(batch, -1, images.shape[axis], inner)  # B rest num inner
    return torch.matmul(matrix.unsqueeze(1), lines).view(shape)
