"""Weights for another shape of the same encoder: channels, intensity scale, patch size, positions, 2D to 3D.

A grey image and its copy in every channel give the same features before and after. The scale of the input that weights
expect is folded into the first convolution: exactly, but for the border that a padded convolution sees (mid-grey
there, instead of the mean colour).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from medssl.core.errors import EncoderError
from medssl.models.encoders.base import CENTRE, GAIN, Encoder, TokenEncoder
from medssl.models.positions import interpolate
from medssl.models.weights import IMAGENET, Normalisation, Weights, read_weights

LEAST_SHARE = 0.9  # of an encoder's parameters: below that it is another encoder
NAMED = 4  # names that a line lists
POSITIONS, CLASS = "net.pos_embed", "net.cls_token"  # as timm's vision transformer has them


@dataclass(frozen=True)
class Adaptation:
    """What became of each weight, in the encoder's names; ``share`` of its parameters came from ``source``.

    ``adapted`` and ``missing`` say how and why; what is missing keeps its initial value; ``unexpected`` found no place.
    ``licence`` is what stands beside the weights, None where nothing does.
    """

    source: str
    matched: tuple[str, ...]
    adapted: Mapping[str, str]
    missing: Mapping[str, str]
    unexpected: tuple[str, ...]
    share: float
    licence: str | None

    def __str__(self) -> str:
        return (
            f"{self.source} (licence: {self.licence or 'not stated'}): {self.share:.1%} of the encoder's parameters, "
            f"{len(self.matched)} tensors as they are; adapted: {_some(self.adapted)}; missing: {_some(self.missing)}; "
            f"without a place: {_some(self.unexpected)}"
        )


def load_weights(
    encoder: Encoder, path: Path, *, normalisation: Normalisation | None = None, least: float = LEAST_SHARE
) -> Adaptation:
    """Load the weights at ``path`` into ``encoder``, adapting what differs in shape, and say what became of them.

    Args:
        encoder: changed in place; untouched where an error is raised.
        path: a run or folder with an encoder of medssl, a ``.safetensors`` or PyTorch file, or a Hugging Face folder.
        normalisation: what public weights expect of images in [0, 1]; absent: what stands beside the file, else
            ImageNet's for three channels and none for any other number.
        least: the smallest share of the encoder's parameters to accept.

    Raises:
        EncoderError: nothing readable there, another encoder, or too small a share.
    """
    found = read_weights(path, encoder)
    first = _first(encoder)
    weights, adapted = _scaled(found, first, normalisation)
    adapted |= _placed(weights, encoder, first, found.shape)
    taken, missing = {}, {}
    for name, like in encoder.state_dict().items():
        fitted, change = _fitted(weights[name], like, name, first) if name in weights else (None, "not there")
        if fitted is not None:
            taken[name] = fitted
            adapted |= {name: ", ".join(filter(None, (adapted.get(name), change)))} if change else {}
        elif like.is_floating_point():
            missing[name] = change
    sizes = {name: parameter.numel() for name, parameter in encoder.named_parameters()}
    share = sum(sizes.get(name, 0) for name in taken) / sum(sizes.values())
    if share < least:
        raise EncoderError(
            f"{path}: has {share:.0%} of the encoder's parameters, expected at least {least:.0%}; "
            f"missing {_some(missing)}"
        )
    encoder.load_state_dict(taken, strict=False)
    adapted = {name: change for name, change in adapted.items() if name in taken}
    matched = tuple(name for name in taken if name not in adapted)
    unexpected = tuple(name for name in weights if name not in taken and name not in missing)
    return Adaptation(path.name, matched, adapted, missing, unexpected, share, found.licence)


def spread_channels(weight: Tensor, num: int) -> Tensor:
    """Return a convolution of ``num`` input channels that sees a replicated grey image as ``weight`` ``O C *K`` does.

    From RGB to one channel this is the sum: keeping one filter, or their mean, changes every feature.
    """
    shape = (len(weight), num, *weight.shape[2:])
    return weight.sum(1, keepdim=True).div(num).expand(shape).clone()


def fold_normalisation(weight: Tensor, scale: Normalisation) -> tuple[Tensor, Tensor]:
    """Return the weight and bias that do to `centred` images what ``weight`` does to standardised ones."""
    shape = (1, -1, *(1,) * (weight.ndim - 2))
    mean, std = (torch.tensor(v, dtype=weight.dtype).view(shape) for v in (scale.mean, scale.std))
    return weight / (GAIN * std), (weight * ((CENTRE - mean) / std)).flatten(1).sum(1)


def inflated(weight: Tensor, depth: int) -> Tensor:
    """Return ``O C Z Y X`` of ``O C Y X``: repeated along the new axis, divided by its length (I3D, Carreira 2017)."""
    return weight.unsqueeze(2).div(depth).repeat(1, 1, depth, 1, 1)


def resized_patch(weight: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the patch embedding ``O C *K`` for patches of ``size``: FlexiViT's PI-resize (Beyer 2023), axis by axis.

    The pseudo-inverse of linear resizing: embedding a patch that was enlarged with its image gives the same tokens.
    """
    for axis, (old, new) in enumerate(zip(weight.shape[2:], size, strict=True), start=2):
        resize = F.interpolate(torch.eye(old, dtype=torch.float64)[None], size=new, mode="linear")[0]  # old new
        weight = (weight.double().movedim(axis, -1) @ torch.linalg.pinv(resize).T).movedim(-1, axis).to(weight.dtype)
    return weight


def resized_offsets(table: Tensor, num: int, ndim: int) -> Tensor:
    """Return a table of relative positions ``L heads`` over ``ndim`` axes for another window: ``num heads``.

    A table over another number of axes is returned as it is.
    """
    old, new = (round(n ** (1 / ndim)) for n in (len(table), num))
    return interpolate(table, (old,) * ndim, (new,) * ndim) if old**ndim == len(table) else table


@dataclass(frozen=True)
class _First:
    """The convolution that sees the image, and the batch norm after it, by name."""

    name: str
    conv: _ConvNd
    norm: str | None

    @property
    def patches(self) -> bool:
        """Whether it cuts the image into patches."""
        return tuple(self.conv.stride) == tuple(self.conv.kernel_size)


def _first(encoder: Encoder) -> _First:
    leaves = [(name, module) for name, module in encoder.named_modules() if not any(True for _ in module.children())]
    at = next(i for i, (_, module) in enumerate(leaves) if isinstance(module, _ConvNd))
    (name, conv), (after, norm) = leaves[at], leaves[at + 1]
    return _First(name, cast(_ConvNd, conv), after if isinstance(norm, _BatchNorm) else None)


def _scaled(found: Weights, first: _First, asked: Normalisation | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights with the scale of their input folded in, and what was done to which."""
    weights, name = dict(found.tensors), f"{first.name}.weight"
    if found.own or name not in weights or weights[name].ndim < 4:
        return weights, {}
    channels = weights[name].shape[1]
    plain = IMAGENET if channels == 3 else Normalisation((0.0,) * channels, (1.0,) * channels)
    scale = asked or found.normalisation or plain
    if len(scale.mean) != channels:
        raise EncoderError(f"normalisation has {len(scale.mean)} channels, but the weights have {channels}")
    weights[name], shift = fold_normalisation(weights[name].float(), scale)
    adapted = {name: f"input scale folded in (mean {scale.mean}, deviation {scale.std})"}
    mean = f"{first.norm}.running_mean"
    if first.conv.bias is not None:
        weights[f"{first.name}.bias"] = weights.get(f"{first.name}.bias", 0) + shift
        adapted[f"{first.name}.bias"] = "input scale folded in"
    elif mean in weights:
        weights[mean] = weights[mean] - shift
        adapted[mean] = "input scale folded in"
    return weights, adapted


def _placed(
    weights: dict[str, Tensor], encoder: Encoder, first: _First, shape: tuple[int, ...] | None
) -> dict[str, str]:
    """Bring learned positions in ``weights`` to the encoder's grid; the class token's own joins the class token."""
    embedding = weights.get(f"{first.name}.weight")
    if POSITIONS not in weights or embedding is None or not isinstance(encoder, TokenEncoder):
        return {}
    if POSITIONS not in encoder.state_dict():
        raise EncoderError(
            "these weights have learned positions, the encoder has fixed ones: set encoder.positions=learned"
        )
    table, kernel = weights[POSITIONS][0], embedding.shape[2:]
    if len(kernel) not in range(2, len(encoder.grid) + 1):
        return {}
    side = int(len(table) ** (1 / len(kernel)) + 1e-6)
    grid = tuple(n // k for n, k in zip(shape, kernel, strict=True)) if shape else (side,) * len(kernel)
    adapted, extra = {}, len(table) - prod(grid)
    if extra > 1:
        raise EncoderError(f"{len(table)} learned positions are no grid of {len(kernel)} equal axes with a class token")
    if extra and CLASS in weights:
        weights[CLASS] = weights[CLASS] + table[0]
        adapted[CLASS] = "its position added"
    if grid != encoder.grid:
        adapted[POSITIONS] = f"{grid} to {encoder.grid}"
    whole = (1,) * (len(encoder.grid) - len(grid)) + grid  # a plane's positions hold at any depth
    weights[POSITIONS] = interpolate(table[extra:], whole, encoder.grid)[None]
    return adapted


def _fitted(value: Tensor, like: Tensor, name: str, first: _First) -> tuple[Tensor | None, str]:
    """Return ``value`` in the shape of ``like`` and what it took; or None and why not."""
    there, done, sees = tuple(value.shape), [], name == f"{first.name}.weight"
    if sees and value.ndim > 3 and value.shape[1] != like.shape[1]:
        done.append(f"{value.shape[1]} channels to {like.shape[1]}")
        value = spread_channels(value, like.shape[1])
    if value.ndim == 4 and like.ndim == 5:
        done.append("inflated to 3D")
        value = inflated(value, like.shape[2])
    if sees and first.patches and value.ndim == like.ndim and value.shape[2:] != like.shape[2:]:
        done.append(f"patch {tuple(value.shape[2:])} to {tuple(like.shape[2:])}")
        value = resized_patch(value, tuple(like.shape[2:]))
    if name.endswith("relative_position_bias_table") and len(value) != len(like):
        done.append(f"{len(value)} relative positions to {len(like)}")
        value = resized_offsets(value, len(like), first.conv.weight.ndim - 2)
    if value.shape != like.shape:
        return None, f"{there} there, {tuple(like.shape)} here"
    return value.to(like.dtype), ", ".join(done)


def _some(names: Mapping[str, str] | Iterable[str]) -> str:
    """Return the first few names, with what is said of them, and how many more there are."""
    said = [f"{n} ({names[n]})" if isinstance(names, Mapping) else n for n in names]
    more = f" and {len(said) - NAMED} more" if len(said) > NAMED else ""
    return ", ".join(said[:NAMED]) + more if said else "none"
