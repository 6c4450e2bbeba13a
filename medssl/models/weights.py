"""Weights from a run, a file or a Hugging Face folder, by an encoder's own names; nothing is downloaded or executed."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medssl.core.errors import EncoderError
from medssl.core.files import read_json
from medssl.models.encoders.base import Encoder

OWN = "encoder.safetensors"
HUB = ("model.safetensors", "pytorch_model.bin")  # what a folder of the Hugging Face hub holds, beside config.json
HALF = (torch.float16, torch.bfloat16)
CHECKPOINT = frozenset({"model", "optimiser", "identity"})  # of what a checkpoint of medssl's holds
WRAPPERS = ("state_dict", "model", "network_weights", "teacher", "student")  # where checkpoints keep their weights


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of each channel that images in [0, 1] were standardised by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Weights:
    """Tensors by the encoder's names, made for images of ``shape``, where that is known.

    Weights of medssl's ``own`` had their images `centred`; public ones had them in [0, 1], or standardised by
    ``normalisation``.
    """

    tensors: Mapping[str, Tensor]
    shape: tuple[int, ...] | None = None
    own: bool = False
    normalisation: Normalisation | None = None
    licence: str | None = None


def read_weights(path: Path, encoder: Encoder) -> Weights:
    """Return the weights at ``path``: a run or folder with an encoder, a tensor file, a folder of the Hugging Face hub.

    Of a checkpoint of medssl's this is the teacher's encoder, where there is a teacher: what a run would export.

    Raises:
        EncoderError: nothing there, not readable as plain tensors, or another encoder of medssl.
    """
    beside = path / "encoder.json" if path.is_dir() else path.with_name("encoder.json")
    if beside.is_file() and (path.is_dir() or path.name == OWN):
        about, wanted = _described(beside), type(encoder).__module__.rpartition(".")[2]
        if about["name"] != wanted:
            raise EncoderError(
                f"{path} holds encoder {about['name']}, expected {wanted}; change encoder.name or the path"
            )
        return Weights(_tensors(_loaded(beside.with_name(OWN)), path), tuple(about["geometry"]["shape"]), own=True)
    file = next((path / name for name in HUB if (path / name).is_file()), path)
    if not file.is_file():
        raise EncoderError(
            f"{path}: no weights there; name a run, a folder with encoder.json or {' or '.join(HUB)}, or a file"
        )
    loaded = _loaded(file)
    if isinstance(loaded, Mapping) and loaded.keys() >= CHECKPOINT:
        return Weights(_encoder_of(_tensors(loaded["model"], file)), own=True)
    about = _described(file.with_name("config.json"))
    about = about.get("pretrained_cfg", about)
    scale = Normalisation(tuple(about["mean"]), tuple(about["std"])) if {"mean", "std"} <= about.keys() else None
    tensors = own_names(_tensors(loaded, file), encoder)
    return Weights(tensors, normalisation=scale, licence=about.get("license"))


def own_names(tensors: Mapping[str, Tensor], encoder: Encoder) -> dict[str, Tensor]:
    """Return ``tensors`` by the encoder's names: its aliases applied, and a wrapper's prefix changed for its own."""
    named = {}
    for name, tensor in tensors.items():
        for pattern, replacement in encoder.aliases.items():
            name = re.sub(pattern, replacement, name)
        named[name] = tensor
    own = encoder.state_dict().keys()
    theirs = {""} | {".".join(name.split(".")[:i]) + "." for name in named for i in (1, 2, 3)}
    ours = {""} | {name.partition(".")[0] + "." for name in own}
    prefixes = [(a, b) for a in sorted(theirs, key=len) for b in sorted(ours)]  # of equal ones the shortest wins

    def placed(name: str, prefix: tuple[str, str]) -> str:
        return prefix[1] + name.removeprefix(prefix[0]) if name.startswith(prefix[0]) else name

    best = max(prefixes, key=lambda prefix: sum(placed(name, prefix) in own for name in named))
    return {placed(name, best): tensor for name, tensor in named.items()}


def _described(file: Path) -> dict[str, Any]:
    try:
        return dict(read_json(file)) if file.is_file() else {}
    except (ValueError, TypeError):
        raise EncoderError(f"{file} is damaged: not a JSON description") from None


def _encoder_of(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder among the tensors of a method or a classifier."""
    prefix = next((p for p in ("teacher.encoder.", "encoder.") if any(name.startswith(p) for name in model)), "")
    return {name.removeprefix(prefix): tensor for name, tensor in model.items() if name.startswith(prefix)}


def _loaded(file: Path) -> Any:
    try:
        return load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise EncoderError(f"{file}: holds more than tensors and would run code; save its state_dict alone") from None
    except (OSError, RuntimeError, EOFError, SafetensorError) as error:
        raise EncoderError(f"{file}: cannot be read as weights ({type(error).__name__})") from None


def _tensors(loaded: Any, file: Path) -> dict[str, Tensor]:
    """Return the tensors of what was in ``file``, taken out of what they are wrapped in."""
    while isinstance(loaded, Mapping):
        inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            found = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
            return {key: value.float() if value.dtype in HALF else value for key, value in found.items()}
        loaded = inner
    raise EncoderError(f"{file}: holds a {type(loaded).__name__}, expected tensors by name")
