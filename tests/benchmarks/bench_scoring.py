"""Scoring a pool by its rotation loss: medssl against loops over single images, same weights, same turned images.

PT4AL's published loop scores one image at a time with one forward pass a turn (`official`); the better form of it puts
the four turns of an image into one pass (`batch 1`). All read one prepared pool, in fp32, in turns, in one process.

    python tests/benchmarks/bench_scoring.py --images 128 --rounds 3
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_pool import make_pool

from medssl.core.batch import Progress
from medssl.core.keys import view_keys
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.prepared import Prepared
from medssl.data.views import make_views
from medssl.engine.scoring import SCORING_EPOCH, pretext_losses
from medssl.methods.rotation import TURNS, Rotation, RotationConfig
from medssl.models.build import build_encoder
from medssl.models.encoders.base import ENCODERS

Losses = NDArray[np.float64]


def main() -> None:
    """Print images a second, the ratio to medssl, and how alike the rankings are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as scratch:
        pool = make_pool(Path(scratch) / "pool", args.images // 2)
        data = prepare(pool, PrepareConfig(shape=(args.size, args.size)))
        method = trained(data, args.width, device)
        systems: dict[str, Callable[[], Losses]] = {
            "medssl": lambda: pretext_losses(method, data, device, 0),
            "batch 1": lambda: one_by_one(method, data, device, together=True),
            "official": lambda: one_by_one(method, data, device, together=False),
        }
        for run in systems.values():  # warm-up
            run()
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        losses: dict[str, Losses] = {}
        for _ in range(args.rounds):
            for name, run in systems.items():
                start = time.perf_counter()
                losses[name] = run()
                seconds[name].append(time.perf_counter() - start)
    place = f"{torch.get_num_threads()} threads, {device}"
    print(f"ResNet-18, width {args.width}, {args.size} px, {len(data)} images, {place}")
    print(f"{'':10} images/s  medssl ×  same order  Spearman  largest difference")
    for name in systems:
        rate, ratio = len(data) / median(seconds[name]), median(seconds[name]) / median(seconds["medssl"])
        same = bool((losses[name].argsort(kind="stable") == losses["medssl"].argsort(kind="stable")).all())
        rho = spearmanr(losses[name], losses["medssl"]).statistic
        apart = np.abs(losses[name] - losses["medssl"]).max()
        print(f"{name:10} {rate:8.1f}  {ratio:8.2f}  {same!s:10}  {rho:8.6f}  {apart:.1e}")


def trained(data: Prepared, width: int, device: torch.device) -> Rotation:
    """Return rotation on a ResNet-18 after a few steps, so that losses differ as they do in use."""
    config = ENCODERS.load("resnet").config_class.parse({"depth": 18, "width": width, "stem": 1})
    encoder = build_encoder("resnet", config, data.geometry, seed=0)
    torch.manual_seed(0)
    method = Rotation(RotationConfig(), encoder).to(device).train()
    optimiser = torch.optim.SGD(method.parameters(), lr=0.02, momentum=0.9)
    for step, rows in enumerate(np.resize(np.arange(len(data)), (6, 16))):
        keys = torch.from_numpy(view_keys(0, 0, data.keys[rows], 1))
        batch = make_views(
            data.images(rows), keys, torch.from_numpy(rows), Rotation.views(method.config, data.geometry)
        )
        optimiser.zero_grad()
        method.training_step(batch.to(device), Progress(step, 6)).loss.backward()
        optimiser.step()
    return method


@torch.inference_mode()
def one_by_one(method: Rotation, data: Prepared, device: torch.device, *, together: bool) -> Losses:
    """Score image after image; the four turns ``together`` in a pass, or one after another."""
    method.to(device).eval()
    losses = []
    for row in range(len(data)):
        rows = np.array([row])
        keys = torch.from_numpy(view_keys(0, SCORING_EPOCH, data.keys[rows], 1)).to(device)
        turned = method.turned(data.images(rows).to(device), keys[:, 0])  # 4 C Y X
        passes = [turned] if together else turned.split(1)
        logits = torch.cat([method.head(method.encoder(images).pooled) for images in passes])
        loss = F.cross_entropy(logits, torch.arange(TURNS, device=device))
        losses.append(loss.item())
    return np.array(losses)


if __name__ == "__main__":
    main()
