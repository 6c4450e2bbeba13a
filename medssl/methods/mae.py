"""Masked autoencoder: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022 (arXiv 2111.06377).

Tokens are dropped before the encoder (§3 "MAE encoder"); the decoder sees kept and mask tokens; the loss is the mean
squared error on hidden patches only, against per-patch standardised voxels. Departures: fixed sin-cos positions for
any number of axes, a floor under the patch variance (air), grey-scale views without horizontal flip by default, crops
of at least .4 of the image instead of .2, and a decoder of 2 layers of 128 instead of 8 of 512, for small images.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from medssl.core.batch import Progress, Views
from medssl.core.config import Config, Fraction, Span
from medssl.core.errors import StudyError
from medssl.core.keys import uniform
from medssl.core.types import Family, Geometry, Need
from medssl.data.views import Stream, View, ViewRecipe
from medssl.methods.base import JUDGED_AFTER, Method
from medssl.models.encoders.base import TokenEncoder, TokenPlan
from medssl.models.heads import TokenDecoder
from medssl.models.patches import patchify, picked, unpatchify
from medssl.objectives.masked import normalised_patches, patch_mse, restored_patches


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
        if prod(encoder.grid) < 2:
            raise StudyError(f"method mae hides patches, but encoder.patch {list(encoder.patch)} leaves one an image")
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
        keep, hide = self.split(batch.keys[:, 0])
        target = picked(patchify(batch.images[0].float(), self.encoder.patch), hide)  # B M P
        if self.config.normalise_patches:
            target = normalised_patches(target, self.config.variance_floor)
        tokens = self.encoder(batch.images[0], TokenPlan(keep=keep)).tokens
        return patch_mse(self.decoder(tokens, keep, hide), target), {"mean_loss": target.detach().square().mean()}

    def reconstruct(self, batch: Views) -> tuple[Tensor, Tensor]:
        """Return the predicted patches ``B L P`` and which were hidden, ``B L`` (1 hidden, 0 kept)."""
        keep, hide = self.split(batch.keys[:, 0])
        tokens = self.encoder(batch.images[0], TokenPlan(keep=keep)).tokens
        hidden = torch.zeros(len(keep), prod(self.encoder.grid), device=keep.device).scatter(1, hide, 1.0)
        return self.decoder(tokens, keep), hidden

    def pictured(self, batch: Views) -> Mapping[str, Tensor]:
        """Return each image, the part that the encoder sees, and that part with the rest reconstructed.

        Predictions of normalised patches borrow mean and spread from the true ones, as in the paper's figures.
        """
        image = batch.images[0].float()
        patches = patchify(image, self.encoder.patch)  # B L P
        predicted, hidden = self.reconstruct(batch)
        if self.config.normalise_patches:
            predicted = restored_patches(predicted, patches, self.config.variance_floor)
        hidden = hidden.bool().unsqueeze(-1)  # B L 1
        shown = {"seen": patches.masked_fill(hidden, 0.5), "reconstructed": torch.where(hidden, predicted, patches)}
        whole = {name: unpatchify(p, self.encoder.patch, tuple(image.shape[2:])) for name, p in shown.items()}
        return {"original": image, **whole}

    def alarms(self, figures: Mapping[str, float], progress: Progress) -> tuple[str, ...]:
        """Say when halfway nothing but each patch's mean is predicted, or when nearly all is in the first fifth.

        Predicting the mean of standardised patches costs their variance (``mean_loss``): 1, or less where patches of
        air have almost none. Above 98 % of that a network has learned nothing; below 2 % of it so early, what is hidden
        follows from what is seen without any anatomy.
        """
        if progress.step < JUDGED_AFTER or not self.config.normalise_patches or "loss" not in figures:
            return ()
        loss, chance, done = figures["loss"], figures.get("mean_loss", 1.0), progress.fraction
        said = f"loss {loss:.3f}, by each patch's mean {chance:.3f}"
        if done >= 0.5 and loss > 0.98 * chance:
            return (f"reconstruction is at chance after {done:.0%} of training: {said}; change loop.lr",)
        if done <= 0.2 and loss < 0.02 * chance:
            return (f"reconstruction is too easy after {done:.0%}: {said}; raise method.mask_ratio",)
        return ()

    def split(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places of kept and hidden tokens, ``B K`` and ``B M``, drawn from the keys ``B``."""
        num_tokens = prod(self.encoder.grid)
        num_keep = min(max(1, round(num_tokens * (1 - self.config.mask_ratio))), num_tokens - 1)
        order = uniform(keys, num_tokens, Stream.MASK).argsort(dim=1, stable=True)
        return order[:, :num_keep], order[:, num_keep:]
