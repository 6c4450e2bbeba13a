"""Label-efficiency curves at 28 px: a pretrained encoder, probed and fine-tuned, beside its baselines.

    python tests/benchmarks/bench_label_efficiency.py --out curves --sets pneumoniamnist

Chest radiographs are split by patient. PneumoniaMNIST has no test part here: its val is the test side, every tenth of
its train images val. BreastMNIST has its own parts; in both each image counts as a patient. An image that is also in
train is left out of val and test. The encoder is pretrained on the dev images (unlabelled) until ``--seconds`` of
processor time are spent. Killed and started again, it goes on; a table, ``curve.json`` and ``curve.png`` are in the
folder of each set. ``--seeds`` and ``--fractions`` shorten it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from labelled_sets import NAMES, images_of, pool_of_images
from rich.console import Console

from medssl.core.types import Role
from medssl.data.prepare import prepare
from medssl.engine.trial import trial
from medssl.evaluation.choosing import Tuning
from medssl.evaluation.curve import Curve
from medssl.evaluation.problem import Problem
from medssl.pool.pool import Pool
from medssl.review.curves import label, tables
from medssl.review.terminal import grid_table
from medssl.study import Study
from medssl.tracking.records import read_runs
from medssl.verbs.context import find_encoder
from medssl.verbs.curve import curve
from medssl.verbs.pretrain import feed_of, make_method, pretrain

TASK = "label"
ENCODERS = {
    "vit": {"name": "vit", "width": 64, "depth": 4, "heads": 2, "patch": 4},
    "resnet": {"name": "resnet", "depth": 18, "width": 16, "stem": 2},
}
METHODS = {
    "mae": ("vit", {"name": "mae", "decoder_width": 64, "decoder_depth": 2, "decoder_heads": 2}, 1e-3),
    "dino": ("vit", {"name": "dino", "prototypes": 1024, "hidden": 256, "local_crops": 4}, 1e-3),
    "moco_v3": ("resnet", {"name": "moco_v3", "hidden": 512, "output": 64}, 1e-3),
    "rotation": ("resnet", {"name": "rotation"}, None),
}
REFERENCES = {"pneumoniamnist": "pixels .896/.914/.926, small ResNet .894/.952/.973 at 1/10/100 % (official test part)"}


def main() -> None:
    """Run each set and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--method", nargs="+", choices=METHODS, default=["mae"], help="one encoder each")
    parser.add_argument("--seconds", type=float, default=300, help="of processor time a pretraining may take")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.3, 1.0])
    parser.add_argument("--systems", nargs="*", default=[])
    parser.add_argument("--least", type=int, default=Tuning().least, help="optimiser steps that a network takes")
    parser.add_argument("--most", type=int, default=Tuning().most, help="steps that it may take with many labels")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="of every network that learns")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.sets:
        run(name, args)


def run(name: str, args: argparse.Namespace) -> None:
    """Pretrain where that was not done, run the grid, and print what it found."""
    place = args.out / name
    if not (place / "pool" / "pool.json").is_file():
        pool_of_images(place / "pool", images_of(name), TASK, NAMES[name])
    studies = {method: study_of(place, method, args) for method in args.method}
    pool = Pool.open(place / "pool")
    encoders = {}
    for method, study in studies.items():
        if not any(r.study == study.name and r.status == "finished" for r in read_runs(study.workspace)):
            pretrain(study)
        encoders[method if len(studies) > 1 else "encoder"] = find_encoder(study, pool)
    study = studies[args.method[0]]
    data = prepare(pool, study.prepare)
    data = data.of(data.catalog.labelled(TASK))
    values, volumes = dict(data.catalog.targets(TASK).iter_rows()), data.catalog.volumes
    labels, roles, patients = (
        [values[volume] for volume in volumes["volume"]],
        volumes["role"].to_list(),
        volumes["patient"].to_list(),
    )
    problem = Problem.of(TASK, labels, roles, patients, order=NAMES[name])
    started = time.process_time()
    found = curve(study, encoders, data, TASK, problem, place)
    show(found, name, {str(role): int(np.sum(problem.roles == str(role))) for role in Role}, args)
    print(f"{time.process_time() - started:.0f} s of processor time for what was not there yet", flush=True)


def study_of(place: Path, method: str, args: argparse.Namespace) -> Study:
    """Return a study whose pretraining takes about ``--seconds`` of processor time."""
    encoder, settings, lr = METHODS[method]
    data = {
        "name": method, "pool": place / "pool", "workspace": place / "workspace", "prepare": {"shape": [28, 28]},
        "encoder": ENCODERS[encoder], "method": settings, "watch": {"pictures_epochs": 0, "every_epochs": 1000},
        "loop": {"batch_size": 128, "epochs": 1, **({"lr": lr, "lr_batch": 128} if lr else {})},
        "evaluation": {"curve": {
            "seeds": args.seeds, "fractions": args.fractions, "systems": args.systems,
            "tuning": {"least": args.least, "most": args.most},
        }},
        "tasks": {TASK: {"loop": {"precision": args.precision}}},
    }  # fmt: skip
    kept = place / f"{method}.epochs"
    if not kept.is_file():
        kept.write_text(str(affordable(Study.parse(data), args.seconds)))
    return Study.parse({**data, "loop": {**data["loop"], "epochs": int(kept.read_text())}})


def affordable(study: Study, seconds: float) -> int:
    """Return how many epochs fit into so many seconds of processor time, from a few steps tried."""
    dev = prepare(Pool.open(study.pool), study.prepare).role(Role.DEV)
    method = make_method(study, dev, study.seed)
    feed, start = feed_of(study, study, dev, method), time.process_time()
    tried = trial(method, feed, study.loop, torch.device("cpu"), seconds=10)
    a_step = (time.process_time() - start) / (tried.steps + 1)
    return max(1, round(seconds / a_step / feed.steps_per_epoch))


def show(found: Curve, name: str, counts: dict[str, int], args: argparse.Namespace) -> None:
    """Print the tables of the page, and what a cell took."""
    out = Console(width=150)
    out.print(f"\n[bold]{name}[/] {counts}, seeds {found.seeds}; {REFERENCES.get(name, '')}")
    for grid in tables(found):
        out.print(grid.caption, grid_table(grid, "", str(args.out / name)), sep="\n")
    for line in found.lines:
        seconds = " ".join(f"{point.seconds:8.1f}" for point in line.points)
        out.print(f"seconds a cell {seconds}  {label(line)}")
    out.print(f"median {median(p.seconds for line in found.lines for p in line.points):.1f} s")


if __name__ == "__main__":
    main()
