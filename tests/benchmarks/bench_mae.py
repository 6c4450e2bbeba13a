"""Training steps of masked autoencoders: medssl beside LightlySSL, facebookresearch/mae and MONAI, in turns.

A step is forward, backward and optimiser on views that are there already; the loader is no part of it. Everyone has
the same encoder, decoder, mask ratio, batch, precision (autocast) and fused AdamW. Each system runs in a process of its
own, one at a time, so that memory is its own and nobody profits from another's settings; steps are taken in turns and
medians reported. Peers that are not installed are skipped with the reason:

    pip install --no-deps --target PEERS lightly lightly-utils einops
    git clone https://github.com/facebookresearch/mae MAE          (CC-BY-NC: to be timed, not to be copied)
    PYTHONPATH=PEERS MAE_PATH=MAE python tests/benchmarks/bench_mae.py --model S16 Ti8 --precision fp32 bf16
    python tests/benchmarks/bench_mae.py --device cuda --precision bf16 --model B16 L16 3d-B96 --compile

On a machine that does other work beside, ``--threads 1 --clock cpu`` counts processor time instead.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
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


def main() -> None:
    """Print one table of systems a model and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["S16", "Ti8"])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="instead of the model's own")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--compile", action="store_true", help="medssl with loop.compile")
    parser.add_argument("--mae-path", default=os.environ.get("MAE_PATH", ""), help="a clone of facebookresearch/mae")
    args = parser.parse_args()
    print(f"{_machine(args)}\n\n    {' '.join(['python', *sys.argv])}\n")
    for name in args.model:
        for precision in args.precision:
            print("\n".join(_table(name, precision, args)), flush=True)


def _machine(args: argparse.Namespace) -> str:
    import timm
    import torch

    if args.device.startswith("cuda"):
        what = torch.cuda.get_device_name(args.device)
    else:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        what = f"{len(names)} × {names[0].partition(': ')[2]}, {args.threads} threads, load {os.getloadavg()[0]:.1f}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    return f"{what}; {versions}; clock: {args.clock}, median of {args.repeats}"


def _table(name: str, precision: str, args: argparse.Namespace) -> list[str]:
    """Measure every system on one model, step by step in turns; return a markdown table."""
    batch = args.batch or MODELS[name].batch
    runs = {system: _Run(system, name, batch, precision, args) for system in args.systems}
    peak = _Run("peak", name, batch, precision, args)
    alive = {system: run for system, run in runs.items() if not run.reason}
    for _ in range(args.repeats):
        for run in (peak, *alive.values()):
            run.step()
    gflops = 1e-9 / min(peak.seconds)  # of one operation: the best that the machine did in this run
    rows = [f"**{name}**, batch {batch}, {precision}, matmul peak {gflops:,.0f} GFLOP/s", ""]
    rows += ["| system | images/s | of medssl | share of peak | peak memory MB |", "|---|---|---|---|---|"]
    ours = median(runs["medssl"].seconds) if "medssl" in alive else float("nan")
    for system, run in runs.items():
        if run.reason:
            rows.append(f"| {system} | skipped: {run.reason} | | | |")
            continue
        rate = batch / median(run.seconds)
        share, ratio = rate * MODELS[name].flops() * 1e-9 / gflops, ours / median(run.seconds)
        rows.append(f"| {system} | {rate:,.1f} | {ratio:.2f} | {share:.0%} | {run.memory():,.0f} |")
    for run in (peak, *runs.values()):
        run.close()
    return [*rows, ""]


class _Run:
    """One system in a process of its own, taking a step when told to."""

    def __init__(self, system: str, name: str, batch: int, precision: str, args: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, system, name, batch, precision, args), daemon=True)
        self._process.start()
        there.close()
        self.seconds: list[float] = []
        self.reason = str(self._answer())  # of not running; empty where it runs

    def step(self) -> None:
        """Take one timed step."""
        self._here.send("step")
        self.seconds.append(float(self._answer()))

    def memory(self) -> float:
        """Return the most megabytes in use so far, over those before the model was made."""
        self._here.send("memory")
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._here.send("close")
        self._process.join()

    def _answer(self) -> str | float:
        try:
            answer: str | float = self._here.recv()
        except EOFError:
            return "its process died (out of memory?)"
        return answer


def _serve(there: Connection, system: str, name: str, batch: int, precision: str, args: argparse.Namespace) -> None:
    """Make a system, warm it up, and answer until told to close."""
    import torch

    warnings.simplefilter("ignore")  # of peers
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    try:
        make = _peak if system == "peak" else SYSTEMS[system]
        step, before = _prepared(make, MODELS[name], batch, precision, device, args)
        for _ in range(args.warmup):
            step()
    except Exception as error:  # a peer that lacks, or cannot, is a row of the table
        if os.environ.get("VERBOSE"):
            traceback.print_exc()
        there.send(f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else 'no message'}")
        return
    there.send("")
    while (asked := there.recv()) != "close":
        if asked == "memory":
            there.send(_used(device) - before)
            continue
        synchronise()
        start = clock()
        count = step()
        synchronise()
        there.send((clock() - start) / (count if system == "peak" else 1))


def _prepared(make: Any, model: Model, batch: int, precision: str, device: Any, args: argparse.Namespace) -> Any:
    """Return a system's step and the megabytes in use when its code was loaded but its model was not made."""
    import torch

    torch.manual_seed(0)
    maker = make(args)  # imports
    before = _used(device)
    images = torch.rand(batch, model.channels, *model.shape, device=device)
    return maker(model, images, precision, device), before


def _used(device: Any) -> float:
    """Return the highest use of memory so far, in MB."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _medssl(args: argparse.Namespace) -> Any:
    import timm.models.vision_transformer  # noqa: F401  (the encoder imports it late; it is no part of the model)
    import torch

    from medssl.core.batch import Progress, Views
    from medssl.core.keys import view_keys
    from medssl.core.types import Geometry
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
        return lambda: stepper.take([batch], Progress(1, STEPS))

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


def _peak(args: argparse.Namespace) -> Any:
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


SYSTEMS = {"medssl": _medssl, "LightlySSL": _lightly, "facebookresearch/mae": _facebook, "MONAI": _monai}

if __name__ == "__main__":
    main()
