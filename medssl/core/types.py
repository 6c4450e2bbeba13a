"""Words shared by every room; nothing here imports torch, so that ingest workers stay small."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """What a patient may be used for; fixed at ingest by a keyed hash of the patient."""

    DEV = "dev"
    VAL = "val"
    TEST = "test"


class Outcome(StrEnum):
    """What became of one input file."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    EXCLUDED = "excluded"
    LABEL = "label"
    NON_IMAGE = "non_image"


class Need(StrEnum):
    """What a method may ask of an encoder beside a pooled feature."""

    TOKENS = "tokens"
    DROP = "token dropping"
    REPLACE = "mask tokens"
    CAUSAL = "causal attention"
    MAPS = "feature maps"


class Family(StrEnum):
    """The families of self-supervision."""

    PRETEXT = "pretext"
    MASKED = "masked"
    CONTRASTIVE = "contrastive"
    DISTILLATION = "self-distillation"
    REDUNDANCY = "redundancy reduction"
    AUTOREGRESSIVE = "autoregressive"


class Signal(StrEnum):
    """What a selection strategy may ask for."""

    EMBEDDINGS = "embeddings"
    PROBABILITIES = "probabilities"
    PRETEXT_LOSSES = "pretext_losses"


@dataclass(frozen=True)
class Geometry:
    """The spatial shape ``*S`` (``Y X`` or ``Z Y X``) and the channel count of what a model sees.

    ``spacing_mm`` is known, up to a factor common to all axes, where preparation fixes it. ``proportional``: whether
    it keeps the proportions that things have in the patient.
    """

    shape: tuple[int, ...]
    channels: int = 1
    spacing_mm: tuple[float, ...] | None = field(default=None, compare=False)
    proportional: bool = field(default=True, compare=False)

    @property
    def ndim(self) -> int:
        """The number of spatial axes: 2 or 3."""
        return len(self.shape)
