"""Masked autoencoder: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022 (arXiv 2111.06377).

Tokens are dropped before the encoder (§3 "MAE encoder"); the decoder sees kept and mask tokens; the loss is the mean
squared error on hidden patches only, against per-patch standardised voxels. Departures: fixed sin-cos positions for
any number of axes, a floor under the patch variance (air), grey-scale views without horizontal flip by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from medssl.core.batch import Views
from medssl.core.config import Config, Fraction, Span
from medssl.core.errors import StudyError
from medssl.core.keys import uniform
from medssl.core.types import Family, Geometry, Need
from medssl.data.views import Stream, View, ViewRecipe
from medssl.methods.base import Method
from medssl.models.encoders.base import TokenEncoder, TokenPlan
from medssl.models.heads import TokenDecoder
from medssl.objectives.masked import masked_mse, normalised_patches, patchify


class MaeConfig(Config):
    """Masking, decoder and views."""

    mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.75
    decoder_width: Annotated[int, Gt(0)] = 128
    decoder_depth: Annotated[int, Gt(0)] = 2
    decoder_heads: Annotated[int, Gt(0)] = 4
    normalise_patches: bool = True
    variance_floor: Annotated[float, Gt(0)] = 1e-4
    crop_scale: Span = (0.4, 1.0)
    flip: Fraction = 0.0


class Mae(Method[MaeConfig]):
    """Hide most patches, reconstruct them from the rest."""

    paper: ClassVar[str] = "He et al., CVPR 2022"
    family: ClassVar[Family] = Family.MASKED
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TOKENS, Need.DROP})
    batch_coupled: ClassVar[bool] = False
    config_class: ClassVar[type[Config]] = MaeConfig
    loop_defaults: ClassVar[Mapping[str, Any]] = {
        "optimiser": "adamw",
        "lr": 1.5e-4,
        "weight_decay": 0.05,
        "betas": (0.9, 0.95),
    }
    encoder: TokenEncoder

    def __init__(self, config: MaeConfig, encoder: TokenEncoder) -> None:
        super().__init__(config, encoder)
        voxels = prod(encoder.patch) * encoder.geometry.channels
        size = (config.decoder_width, config.decoder_depth, config.decoder_heads)
        self.decoder = TokenDecoder(encoder.grid, encoder.width, *size, voxels)

    @classmethod
    def check(cls, config: MaeConfig, geometry: Geometry) -> None:
        """The decoder's heads share its width evenly."""
        if config.decoder_width % config.decoder_heads:
            raise StudyError(
                f"method.decoder_heads: {config.decoder_heads} does not divide decoder_width {config.decoder_width}"
            )

    @classmethod
    def views(cls, config: MaeConfig, geometry: Geometry) -> ViewRecipe:
        """One random resized crop, as in the paper."""
        return ViewRecipe((View(crop_scale=config.crop_scale, crop_ratio=4 / 3, flip=config.flip),))

    def losses(self, batch: Views) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return each image's error on its hidden patches, ``B``."""
        target = patchify(batch.images[0].float(), self.encoder.patch)  # B L P
        if self.config.normalise_patches:
            target = normalised_patches(target, self.config.variance_floor)
        predicted, hidden = self.reconstruct(batch)
        return masked_mse(predicted, target, hidden), {}

    def reconstruct(self, batch: Views) -> tuple[Tensor, Tensor]:
        """Return the predicted patches ``B L P`` and which were hidden, ``B L`` (1 hidden, 0 kept)."""
        num_tokens = prod(self.encoder.grid)
        keep = self.keep(batch.keys[:, 0], num_tokens)  # B K
        tokens = self.encoder(batch.images[0], TokenPlan(keep=keep)).tokens
        hidden = torch.ones(len(keep), num_tokens, device=keep.device).scatter(1, keep, 0.0)
        return self.decoder(tokens, keep), hidden

    def keep(self, keys: Tensor, num_tokens: int) -> Tensor:
        """Return the places of the kept tokens, ``B K``, drawn from the keys."""
        num_keep = min(max(1, round(num_tokens * (1 - self.config.mask_ratio))), num_tokens - 1)
        order = uniform(keys, num_tokens, Stream.MASK).argsort(dim=1, stable=True)
        return order[:, :num_keep]
