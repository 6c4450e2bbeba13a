"""DINO's whole training step against LightlySSL's: ViT-Ti, 2 global and 6 local crops, same crops, same head.

A step is forward, backward, clipping, fused AdamW, centre and teacher; both read the same crops from memory, take turns
in one process, and are given by their median. LightlySSL runs as its example does, one forward a crop, on timm's ViT of
dynamic size. The last column is the teacher's moving average alone, as a share of medssl's step. On a machine with
other work, ``--cpu-time`` counts one thread's processor time, which that work does not lengthen.

    pip install --no-deps --target /somewhere lightly lightly-utils
    python tests/benchmarks/bench_dino.py --peer /somewhere
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.batch import Progress, Views
from medssl.core.types import Geometry
from medssl.engine.loop import reproducible
from medssl.engine.optim import LoopConfig
from medssl.engine.step import Stepper
from medssl.methods.dino import Dino, DinoConfig, local_shape
from medssl.models.build import build_encoder
from medssl.models.encoders.base import ENCODERS

SETTINGS = {"64 px, patch 8": (64, 8, 32), "224 px, patch 16": (224, 16, 8)}  # size, patch, images
LOCALS, HIDDEN, BOTTLENECK, WIDTH = 6, 2048, 256, 192
NOW = Progress(500, 1000, 1)  # past the epoch in which prototypes stand still


def main() -> None:
    """Print images a second, the ratio, and the teacher's share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="folder that holds LightlySSL; without it medssl runs alone")
    parser.add_argument("--prototypes", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time instead of the clock's")
    args = parser.parse_args()
    if args.peer:
        sys.path.append(str(args.peer))
    device, clock = torch.device(args.device), time.process_time if args.cpu_time else time.perf_counter
    if args.cpu_time:
        torch.set_num_threads(1)
    print(
        f"ViT-Ti, 2 + {LOCALS} crops, K {args.prototypes}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{'':18} {'':5} {'medssl':>10} {'LightlySSL':>10} {'ratio':>6} {'EMA share':>10}")
    for name, (size, patch, images) in SETTINGS.items():
        crops = crops_of(size, images, device)
        for precision in ("fp32", "bf16"):
            step, follow = ours(size, patch, crops, precision, args.prototypes, device)
            systems = {"medssl": step, "EMA": follow}
            if args.peer:
                systems["peer"] = theirs(size, patch, crops, precision, args.prototypes, device)
            seconds = timed(systems, args.rounds, device, clock)
            peer = seconds.get("peer", float("nan"))
            rates = f"{images / seconds['medssl']:10.2f} {images / peer:10.2f} {peer / seconds['medssl']:6.2f}"
            print(f"{name:18} {precision:5} {rates} {seconds['EMA'] / seconds['medssl']:10.2%}", flush=True)


def crops_of(size: int, images: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return two global crops and the local ones, ``B 1 Y X`` each."""
    torch.manual_seed(0)
    shapes = [(size, size)] * 2 + [local_shape(Geometry((size, size)))] * LOCALS
    return tuple(torch.rand(images, 1, *shape, device=device) for shape in shapes)


def ours(
    size: int, patch: int, crops: tuple[Tensor, ...], precision: Any, prototypes: int, device: torch.device
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return medssl's step, through its engine, and its teacher's update alone."""
    config = ENCODERS.load("vit").config_class.parse({"width": WIDTH, "depth": 12, "heads": 3, "patch": patch})
    encoder = build_encoder("vit", config, Geometry((size, size)), seed=0)
    model = Dino(DinoConfig(prototypes=prototypes, hidden=HIDDEN, bottleneck=BOTTLENECK), encoder).to(device).train()
    stepper = Stepper(model, LoopConfig.parse({**Dino.loop_defaults, "precision": precision}), device)
    num = len(crops[0])
    batch = Views(crops, torch.zeros(num, len(crops), dtype=torch.int64, device=device), torch.arange(num))
    students = {"encoder": model.encoder, "head": model.head}

    def step() -> None:
        with reproducible(device):
            stepper.take([batch], NOW)
        model.on_step_end(NOW)

    return step, lambda: model.teacher.follow(students, 0.999)


def theirs(
    size: int, patch: int, crops: tuple[Tensor, ...], precision: str, prototypes: int, device: torch.device
) -> Callable[[], Any]:
    """Return LightlySSL's step, as in its DINO example."""
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from timm.models.vision_transformer import VisionTransformer

    shape = {"embed_dim": WIDTH, "depth": 12, "num_heads": 3, "num_classes": 0, "in_chans": 1}
    backbone = VisionTransformer(img_size=size, patch_size=patch, dynamic_img_size=True, **shape)
    head = DINOProjectionHead(WIDTH, HIDDEN, BOTTLENECK, prototypes, freeze_last_layer=1)
    student = nn.Sequential(backbone, head).to(device).train()
    teacher = nn.Sequential(copy.deepcopy(backbone), DINOProjectionHead(WIDTH, HIDDEN, BOTTLENECK, prototypes))
    teacher.to(device).load_state_dict(student.state_dict())
    deactivate_requires_grad(teacher)
    criterion = DINOLoss(output_dim=prototypes, warmup_teacher_temp_epochs=5).to(device)
    optimiser = torch.optim.AdamW(student.parameters(), lr=5e-4, weight_decay=0.04, fused=True)

    def step() -> None:
        update_momentum(student, teacher, m=0.999)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                told = [teacher(crop) for crop in crops[:2]]
            loss = criterion(told, [student(crop) for crop in crops], epoch=NOW.epoch)
        loss.backward()
        head.cancel_last_layer_gradients(current_epoch=NOW.epoch)
        torch.nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def timed(
    systems: dict[str, Callable[[], Any]], rounds: int, device: torch.device, clock: Callable[[], float]
) -> dict[str, float]:
    """Return each system's median seconds, measured in turns after a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for i in range(rounds + 1):
        for name, run in systems.items():
            start = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i:
                taken[name].append(clock() - start)
    return {name: median(seconds) for name, seconds in taken.items()}


if __name__ == "__main__":
    main()
