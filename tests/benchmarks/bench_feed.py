"""Training that is fed from shards, beside its step alone and its loader alone: what of the device does a run reach?

    python tests/benchmarks/bench_feed.py --device cuda --precision bf16 --model B16 L16 3d-B96 --workers 14 --compile
    python tests/benchmarks/bench_feed.py --model 3d-small --precision fp32 --batch 8 --seconds 2  # to try it

MAE by `medssl`'s own loop: views from a `TrainingFeed` over prepared shards (uncompressed float16, grey: 224 pixels
each, or crops of larger volumes), a step by `Stepper`. In turns: steps on one batch that is on the device already;
batches read, moved and drawn there, no step; both, as `train` has them. The last one is to reach four fifths of the
slower of the others. Synthetic images; what is read stays in the page cache.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from bench_loader import write_pool
from mae_systems import MASK_RATIO, MODELS, STEPS, Model, matmul_peak

from medssl.core.batch import Loaded, Progress
from medssl.core.types import Geometry
from medssl.data.loader import TrainingFeed
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.engine.loop import reproducible
from medssl.engine.optim import LoopConfig
from medssl.engine.step import Stepper
from medssl.methods.mae import Mae, MaeConfig
from medssl.models.encoders.vit import Vit, VitConfig

ROOM = 1.5  # of a volume to a crop, an axis


@dataclass(frozen=True)
class Grey(Model):
    """A model of one channel."""

    @property
    def channels(self) -> int:
        """One."""
        return 1


def pool_of(folder: Path, model: Model, num: int) -> Prepared:
    """Prepare ``num`` images of noise over a slope; volumes are larger than what is cropped from them."""
    is_3d = len(model.shape) == 3
    shape = tuple(round(ROOM * size) for size in model.shape) if is_3d else model.shape

    def images() -> Iterator[np.ndarray]:
        slope = np.linspace(0, 2000, shape[-1], dtype=np.float32)
        for seed in range(num):
            noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
            yield (1000 + slope + 100 * noise).astype(np.uint16)

    common: dict[str, Any] = {"units": "stored", "slope": 1.0, "intercept": 0.0, "spacing_mm": [1.0] * len(shape)}
    common |= {"modality": "MR", "axes": "ZYX", "affine": np.eye(4).ravel().tolist()} if is_3d else {"modality": "DX"}
    pool = write_pool(folder / "pool", images(), **({"axes": "YX"} | common))
    fit = {"fit": "crop", "foreground": False} if is_3d else {}
    return prepare(pool, PrepareConfig.model_validate({"shape": model.shape, "codec": "none", **fit}))


def rate(work: Callable[[], int], seconds: float, synchronise: Callable[[], None]) -> float:
    """Return images a second."""
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not images:
        images += work()
    synchronise()
    return images / (time.perf_counter() - start)


def measure(name: str, args: argparse.Namespace) -> str:
    """Return a row of the table."""
    device, known = torch.device(args.device), MODELS[name]
    model = Grey(**{**vars(known), "batch": args.batch or known.batch})
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        crops = args.crops if len(model.shape) == 3 else 1
        data = pool_of(Path(folder), model, max(args.images, model.batch // crops))
        vit = VitConfig(width=model.width, depth=model.depth, heads=model.heads, patch=model.patch)
        width, depth, heads = model.decoder
        config = MaeConfig(mask_ratio=MASK_RATIO, decoder_width=width, decoder_depth=depth, decoder_heads=heads)
        method = Mae(config, Vit(vit, Geometry(model.shape))).to(device).train()
        loop = LoopConfig(
            precision=args.precision, compile=args.compile, batch_size=model.batch, crops=crops, workers=args.workers
        )
        stepper = Stepper(method, loop, device)
        sampler = Sampler.of(data, model.batch, 1, 0, crops)
        feed = TrainingFeed(data, Mae.views(config, data.geometry), sampler, args.workers)
        batches = (micro for (micro,) in feed.steps(0, STEPS))
        waiting = next(batches).views(device)

        def step(batch: Any) -> int:
            with reproducible(device):
                stepper.take([batch], Progress(1, STEPS))
            return len(batch)

        def fetched(batches: Iterator[Loaded]) -> Any:
            return next(batches).views(device)

        ways = {
            "step": lambda: step(waiting),
            "loader": lambda: len(fetched(batches)),
            "both": lambda: step(fetched(batches)),
        }
        for way in ways.values():
            for _ in range(args.warmup):
                way()
        synchronise()
        seen: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, work in ways.items():
                seen[way].append(rate(work, args.seconds, synchronise))
    peak = matmul_peak(args)(model, None, args.precision, device)
    took = []
    for _ in range(5):
        synchronise()
        start = time.perf_counter()
        flops = peak()
        synchronise()
        took.append((time.perf_counter() - start) / flops)
    share = {way: median(found) * model.flops() * min(took) for way, found in seen.items() if way != "loader"}
    reached = median(b / min(s, f) for s, f, b in zip(*seen.values(), strict=True))
    rates = " | ".join(f"{median(found):,.1f}" for found in seen.values())
    return f"| {name} | {model.batch} | {rates} | {share['step']:.0%} | {share['both']:.0%} | {reached:.0%} |"


def main() -> None:
    """Print a table with a row a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["B16", "L16", "3d-B96"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--batch", type=int, help="instead of the model's own")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--crops", type=int, default=4, help="of a block that is read, in 3D")
    parser.add_argument("--images", type=int, default=64, help="of the pool, at least")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the pool may lie for a while")
    args = parser.parse_args()
    on = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "CPU"
    print(f"{on}, torch {torch.__version__}, {args.precision}, {args.workers} workers\n\n    {' '.join(sys.argv)}\n")
    print(
        "| model | batch | step alone, images/s | loader alone | both | peak, step alone | peak, both | of the slower |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in args.model:
        print(measure(name, args), flush=True)


if __name__ == "__main__":
    main()
