"""Classification with few labels: an encoder, a linear head, and a learning rate for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medssl.core.batch import ParamGroup, Progress, StepOutput, Views, decay_groups
from medssl.core.config import Config, Fraction, Span
from medssl.core.errors import EncoderError
from medssl.core.files import atomic, read_json, write_json
from medssl.data.passes import passes
from medssl.data.prepared import Prepared
from medssl.data.views import View, ViewRecipe
from medssl.engine.optim import LoopConfig
from medssl.models.build import load_encoder, save_encoder
from medssl.models.encoders.base import Encoder
from medssl.models.heads import linear_head

LOOP_DEFAULTS = {"epochs": 30, "batch_size": 32, "lr": 1e-2, "weight_decay": 0.01}


class ClassifyConfig(Config):
    """A classification task. ``frozen`` trains the head alone; else the encoder learns at ``encoder_lr_scale`` × lr."""

    frozen: bool = False
    encoder_lr_scale: Annotated[float, Ge(0)] = 0.1
    balance: bool = True
    crop_scale: Span = (0.7, 1.0)
    flip: Fraction = 0.0
    contrast: Annotated[float, Ge(0)] = 0.2
    loop: LoopConfig = Field(default_factory=lambda: LoopConfig.parse(LOOP_DEFAULTS))

    @field_validator("loop", mode="before")
    @classmethod
    def _few_label_defaults(cls, loop: Any) -> Any:
        return {**LOOP_DEFAULTS, **loop} if isinstance(loop, Mapping) else loop

    def shaping(self) -> dict[str, Any]:
        """Return the settings that can change a result."""
        return {**self.data(), "loop": self.loop.shaping()}

    @property
    def views(self) -> ViewRecipe:
        """One mildly cropped and contrast-jittered view."""
        return ViewRecipe(
            (View(crop_scale=self.crop_scale, flip=self.flip, contrast=self.contrast, gamma=self.contrast),)
        )


class Classifier(nn.Module):
    """Encoder and linear head on standardised features; a `Trainable`.

    ``features`` ``N D`` are the encoder's features of the training images before training: the head sees them with
    mean 0 and deviation 1 (dead ones stay small), since scales differ by orders of magnitude between
    encoders. ``class_weights`` ``K`` weigh the cross-entropy.
    """

    def __init__(
        self, encoder: Encoder, classes: list[str], config: ClassifyConfig, features: Tensor, class_weights: Tensor
    ) -> None:
        super().__init__()
        self.encoder, self.classes, self.config = encoder, classes, config
        self.head = linear_head(encoder.width, len(classes))
        self.register_buffer("class_weights", class_weights)
        self.register_buffer("mean", features.mean(0))
        deviation = features.std(0, correction=0)
        self.register_buffer("deviation", deviation.clamp_min(max(0.01 * float(deviation.mean()), 1e-6)))
        self.class_weights: Tensor
        self.mean: Tensor
        self.deviation: Tensor
        if config.frozen:
            encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Classifier:
        """A frozen encoder stays in eval mode, batch norm always: few labels give no statistics worth having."""
        super().train(mode)
        for module in self.encoder.modules():
            if self.config.frozen or isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``B K``."""
        pooled = self.encoder(images).pooled.float()
        return self.head((pooled - self.mean) / self.deviation)  # type: ignore[no-any-return]

    def training_step(self, batch: Views, progress: Progress) -> StepOutput:
        """Return the class-weighted mean cross-entropy."""
        if batch.targets is None:
            raise TypeError("a classifier trains on targets; this batch has none")
        logits = self(batch.images[0])
        loss = F.cross_entropy(logits.float(), batch.targets, self.class_weights)
        return StepOutput(loss, {"train_accuracy": (logits.argmax(1) == batch.targets).float().mean()})

    def normaliser(self, batch: Views) -> Tensor:
        """Return the sum of the class weights, which is what the weighted mean divides by."""
        return self.class_weights[batch.targets].sum()

    def on_step_end(self, progress: Progress) -> None:
        """Nothing to advance."""

    def parameter_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Head at the full rate, encoder at its share of it (absent when frozen)."""
        parts = {"head": (self.head, 1.0), "encoder": (self.encoder, self.config.encoder_lr_scale)}
        return decay_groups(parts, weight_decay)

    def layers(self) -> list[nn.Module]:
        """The encoder's layers, shallow to deep."""
        return self.encoder.layers()

    @torch.no_grad()
    def probabilities(self, data: Prepared, device: torch.device, batch_size: int = 64) -> NDArray[np.float64]:
        """Return ``N K`` class probabilities in the order of ``data``; of larger volumes, the mean over their windows.

        ``batch_size``: volumes, or windows, a forward pass.
        """
        self.to(device).eval()
        sums, counts = np.zeros((len(data), len(self.classes))), np.zeros((len(data), 1))
        for seen in passes(data, np.arange(len(data)), batch_size):
            np.add.at(sums, seen.rows, self(seen.images.to(device)).double().softmax(1).cpu().numpy())
            np.add.at(counts, seen.rows, 1)
        return sums / counts


def class_weights(targets: NDArray[np.int64], num_classes: int, *, balance: bool) -> Tensor:
    """Return ``K`` weights of mean 1 over the examples: inverse to the class frequency, or all 1."""
    if not balance:
        return torch.ones(num_classes)
    counts = np.bincount(targets, minlength=num_classes)
    return torch.tensor(len(targets) / (num_classes * np.maximum(counts, 1)), dtype=torch.float32)


def save_classifier(model: Classifier, folder: Path, about: Mapping[str, Any]) -> None:
    """Write ``encoder.*``, ``head.safetensors``, ``model.json``; ``about`` describes encoder and preparation."""
    save_encoder(model.encoder, folder, about)
    head = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if not k.startswith("encoder.")}
    with atomic(folder / "head.safetensors") as partial:
        save_file(head, partial)
    settings = {name: value for name, value in model.config.data().items() if name in ClassifyConfig.model_fields}
    write_json(folder / "model.json", {**about, "classes": model.classes, "fine_tuning": settings})


def load_classifier(folder: Path) -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier that `save_classifier` wrote, and its description.

    Raises:
        EncoderError: no model in ``folder``.
    """
    if not (folder / "model.json").is_file():
        raise EncoderError(f"{folder}: no model.json there; name a run or a folder that `medssl finetune` wrote")
    encoder, _ = load_encoder(folder)
    try:
        about: dict[str, Any] = read_json(folder / "model.json")
        head = load_file(folder / "head.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise EncoderError(f"{folder}: damaged ({type(error).__name__}); fine-tune again") from None
    config = ClassifyConfig.parse(about["fine_tuning"], "model.json")
    blank = torch.zeros(1, encoder.width), torch.ones(len(about["classes"]))
    model = Classifier(encoder, about["classes"], config, *blank)
    model.load_state_dict({**model.state_dict(), **head})
    return model, about
