"""Make, save and load encoders: ``encoder.safetensors`` beside ``encoder.json``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medssl.core.config import Config
from medssl.core.errors import EncoderError
from medssl.core.files import atomic, read_json, write_json
from medssl.core.keys import hash_words
from medssl.core.types import Geometry
from medssl.models.encoders.base import ENCODERS, Encoder


def build_encoder(name: str, config: Config, geometry: Geometry, *, seed: int) -> Encoder:
    """Return a freshly initialised encoder; the same seed gives the same weights."""
    plugin: type[Encoder] = ENCODERS.load(name)
    encoder: Encoder = seeded(lambda: plugin(config, geometry), "encoder", seed)
    return encoder


def seeded(make: Any, *words: Any) -> Any:
    """Call ``make`` with torch's generator seeded by ``words``, and leave that generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_words(*words) & (2**63 - 1))
        return make()


def save_encoder(
    encoder: Encoder, folder: Path, about: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
) -> Path:
    """Write weights and description; ``about`` holds ``name``, ``config`` and what else is known (run, method …).

    ``weights``: the encoder's whole state dict, where its own holds shards.

    Raises:
        EncoderError: the disk is full, or may not be written to.
    """
    weights = encoder.state_dict() if weights is None else weights
    weights = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    path = folder / "encoder.safetensors"
    geometry = {"shape": list(encoder.geometry.shape), "channels": encoder.geometry.channels}
    try:
        with atomic(path) as partial:
            save_file(weights, partial)
        write_json(folder / "encoder.json", {**about, "geometry": geometry, "width": encoder.width})
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free / 2**30
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise EncoderError(
            f"{folder.name}/{path.name} cannot be written ({reason}, {free:.2f} GiB free); make room and go on"
        ) from None
    return path


def load_encoder(folder: Path) -> tuple[Encoder, dict[str, Any]]:
    """Return the encoder in ``folder`` and its description.

    Raises:
        EncoderError: no encoder there, or weights that do not fit its description.
    """
    if not (folder / "encoder.json").is_file():
        raise EncoderError(f"{folder}: no encoder.json there; name a run or a folder that `medssl pretrain` wrote")
    try:
        about: dict[str, Any] = read_json(folder / "encoder.json")
    except ValueError:
        raise EncoderError(f"{folder}/encoder.json is damaged: not JSON") from None
    config = ENCODERS.load(about["name"]).config_class.parse(about["config"], "encoder")
    geometry = Geometry(tuple(about["geometry"]["shape"]), about["geometry"]["channels"])
    encoder = build_encoder(about["name"], config, geometry, seed=0)
    try:
        encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise EncoderError(
            f"{folder}/encoder.safetensors does not fit its encoder.json: {error}".splitlines()[0]
        ) from None
    return encoder, about


@torch.no_grad()
def verify_reload(encoder: Encoder, about: Mapping[str, Any], images: Tensor, folder: Path) -> None:
    """Save ``encoder`` below ``folder``, load it back and compare what both make of ``images`` ``B C *S``, bit by bit.

    To be called before training starts: weights that would not come back are found now, not after days.

    Raises:
        EncoderError: it does not load, or gives other features.
    """
    was_training, device = encoder.training, next(encoder.parameters()).device
    with TemporaryDirectory(dir=folder, prefix=".reload-") as temporary:
        save_encoder(encoder, Path(temporary), about)
        loaded, _ = load_encoder(Path(temporary))
    encoder.eval()
    before, after = (e(images.to(device)) for e in (encoder, loaded.to(device).eval()))
    encoder.train(was_training)
    pairs = [(before.pooled, after.pooled), *zip(before.maps, after.maps, strict=True)]
    if not all(torch.equal(a, b) for a, b in pairs):
        worst = max(float((a - b).abs().max()) for a, b in pairs)
        raise EncoderError(
            f"encoder {about['name']}: saved and loaded again it gives other features (by up to {worst:.2g}); "
            "its weights are not all in its state dict, or its config is another"
        )
