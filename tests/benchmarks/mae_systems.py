"""The masked autoencoders that `bench_mae` times: their sizes, and a training step of each framework's.

A system is a function of the command line that imports what it needs and returns a maker: of a model's sizes, images, a
precision and a device it makes the step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

MASK_RATIO, STEPS = 0.75, 10_000
Step = Callable[[], Any]


@dataclass(frozen=True)
class Model:
    """Sizes of a masked autoencoder and its batch; ``decoder`` is width, depth, heads."""

    shape: tuple[int, ...]
    patch: int
    width: int
    depth: int
    heads: int
    decoder: tuple[int, int, int]
    batch: int

    @property
    def channels(self) -> int:
        """Three in 2D, because facebookresearch/mae knows no other number."""
        return 3 if len(self.shape) == 2 else 1

    @property
    def tokens(self) -> int:
        """Patches an image."""
        return prod(n // self.patch for n in self.shape)

    def flops(self) -> float:
        """Return the operations of one training step an image: forward, and twice that backward.

        A block of width d over N tokens takes 24 d² N + 4 N² d. Only kept tokens are embedded and encoded, only hidden
        ones predicted; the embedding needs no gradient of its input.
        """
        voxels, kept = self.patch ** len(self.shape) * self.channels, round(self.tokens * (1 - MASK_RATIO))
        width, depth, _ = self.decoder
        encoder = self.depth * _block(self.width, kept + 1)
        decoder = depth * _block(width, self.tokens) + 2 * (kept * self.width + (self.tokens - kept) * voxels) * width
        return 2 * 2 * kept * voxels * self.width + 3 * (encoder + decoder)


def _block(width: int, tokens: int) -> float:
    return 24 * width**2 * tokens + 4 * tokens**2 * width


MODELS = {
    "S16": Model((224, 224), 16, 384, 12, 6, (256, 4, 8), 32),
    "Ti8": Model((64, 64), 8, 192, 12, 3, (128, 4, 4), 128),
    "S16-dec512": Model((224, 224), 16, 384, 12, 6, (512, 8, 16), 32),  # the paper's decoder
    "B16": Model((224, 224), 16, 768, 12, 12, (512, 8, 16), 256),
    "L16": Model((224, 224), 16, 1024, 24, 16, (512, 8, 16), 256),
    "3d-B96": Model((96, 96, 96), 16, 768, 12, 12, (384, 4, 12), 256),  # MONAI's own decoder: 38 GFLOP an image
    "3d-small": Model((32, 32, 32), 8, 96, 2, 3, (48, 2, 2), 8),  # to try the script
}


def _medssl(args: argparse.Namespace) -> Any:
    import timm.models.vision_transformer  # noqa: F401  (the encoder imports it late; it is no part of the model)
    import torch

    from medssl.core.batch import Progress, Views
    from medssl.core.keys import view_keys
    from medssl.core.types import Geometry
    from medssl.engine.loop import reproducible
    from medssl.engine.optim import LoopConfig
    from medssl.engine.step import Stepper
    from medssl.methods.mae import Mae, MaeConfig
    from medssl.models.encoders.vit import Vit, VitConfig

    def make(model: Model, images: Any, precision: str, device: Any) -> Step:
        sizes = VitConfig(width=model.width, depth=model.depth, heads=model.heads, patch=model.patch)
        width, depth, heads = model.decoder
        config = MaeConfig(mask_ratio=MASK_RATIO, decoder_width=width, decoder_depth=depth, decoder_heads=heads)
        method = Mae(config, Vit(sizes, Geometry(model.shape, model.channels))).to(device).train()
        loop = LoopConfig(precision=precision, compile=args.compile, batch_size=len(images))
        stepper, rows = Stepper(method, loop, device), torch.arange(len(images))
        keys = torch.from_numpy(view_keys(0, 0, rows.numpy(), 1))
        batch = Views((images,), keys, rows).to(device)

        def step() -> None:
            with reproducible(device):
                stepper.take([batch], Progress(1, STEPS))

        return step

    return make


def _trained(module: Any, loss: Callable[[], Any], precision: str, device: Any) -> Step:
    """Return the plain step of a peer."""
    import torch

    module.to(device).train()
    params = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.05, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimiser.step()

    return step


def _flat(model: Model) -> None:
    if len(model.shape) != 2:
        raise NotImplementedError("is 2D")


def _lightly(args: argparse.Namespace) -> Any:
    """As LightlySSL's example `mae.py` puts its modules together."""
    import torch
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    def make(model: Model, images: Any, precision: str, device: Any) -> Step:
        _flat(model)
        sizes = {"embed_dim": model.width, "depth": model.depth, "num_heads": model.heads, "num_classes": 0}
        vit = VisionTransformer(model.shape, model.patch, model.channels, global_pool="", **sizes)
        width, depth, heads = model.decoder
        backbone = MaskedVisionTransformerTIMM(vit)
        decoder = MAEDecoderTIMM(
            model.tokens, model.patch, model.channels, model.width, width, depth, decoder_num_heads=heads
        )
        length = backbone.sequence_length

        def loss() -> Any:
            keep, hide = utils.random_token_mask((len(images), length), MASK_RATIO, device=device)
            embedded = decoder.embed(backbone.encode(images, idx_keep=keep))
            full = utils.repeat_token(decoder.mask_token, (len(images), length))
            full = utils.set_at_index(full, keep, embedded.type_as(full))
            predicted = decoder.predict(utils.get_at_index(decoder.decode(full), hide))
            target = utils.get_at_index(utils.patchify(images, model.patch), hide - 1)
            return torch.nn.functional.mse_loss(predicted, target)

        return _trained(torch.nn.ModuleList([backbone, decoder]), loss, precision, device)

    return make


def _facebook(args: argparse.Namespace) -> Any:
    """The model of facebookresearch/mae, from a clone; newer timm and numpy lack two names that it uses."""
    import numpy as np
    import timm.models.vision_transformer as vision

    if not args.mae_path:
        raise ImportError("no clone named; give --mae-path or MAE_PATH")
    sys.path.insert(0, args.mae_path)
    block = vision.Block
    vision.Block = lambda *rest, qk_scale=None, **named: block(*rest, **named)
    np.float = float
    import models_mae

    def make(model: Model, images: Any, precision: str, device: Any) -> Step:
        _flat(model)
        width, depth, heads = model.decoder
        net = models_mae.MaskedAutoencoderViT(
            model.shape[0], model.patch, model.channels, model.width, model.depth, model.heads, width, depth, heads,
            norm_pix_loss=True,
        )  # fmt: skip
        return _trained(net, lambda: net(images, MASK_RATIO)[0], precision, device)

    return make


def _monai(args: argparse.Namespace) -> Any:
    """MONAI's model has no loss of its own: it is given the one of its hidden patches."""
    from monai.networks.nets import MaskedAutoEncoderViT

    from medssl.models.patches import patchify

    def make(model: Model, images: Any, precision: str, device: Any) -> Step:
        width, depth, heads = model.decoder
        net = MaskedAutoEncoderViT(
            model.channels, model.shape, model.patch, model.width, 4 * model.width, model.depth, model.heads,
            MASK_RATIO, width, 4 * width, depth, heads, spatial_dims=len(model.shape), qkv_bias=True,
        )  # fmt: skip

        def loss() -> Any:
            predicted, mask = net(images)
            target = patchify(images, (model.patch,) * len(model.shape))
            return ((predicted - target).square().mean(-1) * mask).sum() / mask.sum()

        return _trained(net, loss, precision, device)

    return make


def matmul_peak(args: argparse.Namespace) -> Any:
    """The best matrix product that the machine does: its step returns how many operations it did."""
    import torch

    def make(model: Model, images: Any, precision: str, device: Any) -> Step:
        size = 8192 if device.type == "cuda" else 2048
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        out = torch.empty_like(a)
        times = 20 if device.type == "cuda" else 1

        def step() -> float:
            for _ in range(times):
                torch.mm(a, b.t(), out=out)
            return times * 2.0 * size**3

        return step

    return make


RANKS = "medssl, a process a thread"  # as torchrun starts them on a CPU
SYSTEMS = {"medssl": _medssl, "LightlySSL": _lightly, "facebookresearch/mae": _facebook, "MONAI": _monai}
SYSTEMS[RANKS] = _medssl
