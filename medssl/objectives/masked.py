"""Masked-image objectives: normalised targets of patches, and the loss on what was hidden."""

from __future__ import annotations

from torch import Tensor


def normalised_patches(patches: Tensor, variance_floor: float) -> Tensor:
    """Standardise each patch ``B L P`` (He 2022, "norm_pix_loss").

    Departure: variances below ``variance_floor`` count as the floor, so that air does not become amplified noise.
    """
    _, deviation, centred = _spread(patches, variance_floor)
    return centred / deviation


def restored_patches(predicted: Tensor, patches: Tensor, variance_floor: float) -> Tensor:
    """Undo `normalised_patches`: give ``predicted`` ``B L P`` the mean and spread of the true ``patches``."""
    mean, deviation, _ = _spread(patches, variance_floor)
    return predicted * deviation + mean


def patch_mse(predicted: Tensor, target: Tensor) -> Tensor:
    """Return, per image ``B``, the mean squared error in fp32 over its hidden patches ``B M P``."""
    return (predicted.float() - target.float()).square().mean((1, 2))


def _spread(patches: Tensor, variance_floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and deviation ``B L 1``, and the patches without their mean; `Tensor.var` is slower on a CPU."""
    mean = patches.mean(-1, keepdim=True)
    centred = patches - mean
    variance = centred.square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)
    return mean, variance.clamp_min(variance_floor).sqrt(), centred
