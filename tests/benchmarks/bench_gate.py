"""What the gate says to encoders of which the answer is known: hits and misses on three real sets.

    python tests/benchmarks/bench_gate.py --out gate        # hours on two cores; goes on where it stopped
    python tests/benchmarks/bench_gate.py --out gate --only breastmnist
    python tests/benchmarks/bench_gate.py --out gate --only breastmnist --by fine_tuned --budget 1000  # all labels

Sets: chest radiographs at 64 pixels, split by patient; pneumoniamnist and breastmnist at 28. Every verdict is that of
``medssl evaluate`` with the settings it comes with (few-shot figures and pictures, which it does not need, are left
out). Encoders of each set:

- trained with all its dev labels (two seeds), which a gate that can say go lets go;
- trained on its dev images by MAE (two seeds), MoCo v3, DINO and rotation, for minutes: whether one of them helps is
  what is asked;
- never to go: random (three seeds); collapsed (a trained one whose last norm sends every image to one point); shortcut
  solvers (trained to tell whether a marker is planted in a corner, or a bright border around the image, and judged on
  images where that goes with the label nine times of ten); trained on another organ's images by MAE.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from labelled_sets import NAMES, images_of, pool_of_images
from rich.console import Console
from rich.table import Table
from torch import nn

from medssl.core.files import read_json, write_json
from medssl.core.types import Role
from medssl.data.prepare import prepare
from medssl.evaluation.choosing import Tuning
from medssl.evaluation.gate import By, GateRule
from medssl.models.build import build_encoder, load_encoder, save_encoder
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.verbs.context import FoundEncoder
from medssl.verbs.evaluate import evaluate
from medssl.verbs.learners import SMALL, SMALL_RESNET, learners, stem
from medssl.verbs.pretrain import pretrain
from medssl.verbs.subject import Subject

TASK, FAITHFUL = "finding", 0.9  # how often a planted cue goes with the label
SIZES = {"chest": (64, 8), "pneumoniamnist": (28, 4), "breastmnist": (28, 4)}  # pixels a side, of a patch
ELSEWHERE = {"chest": "breastmnist", "pneumoniamnist": "breastmnist", "breastmnist": "pneumoniamnist"}
EPOCHS = {"chest": 15, "pneumoniamnist": 20, "breastmnist": 100}
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {  # settings, of the loop, share of the epochs
    "mae": ({"name": "mae", "decoder_depth": 2}, {"lr": 2e-3}, 1.0),
    "moco_v3": ({"name": "moco_v3"}, {}, 0.5),
    "dino": ({"name": "dino"}, {}, 0.35),
    "rotation": ({"name": "rotation"}, {}, 0.5),
}
FIGURES = {
    "linear": ("encoder", "linear"),
    "pixels": ("pixels", "pca"),
    "random": ("random", "linear"),
    "few labels": ("encoder", "few"),
    "scratch, few labels": ("small_resnet", "few"),
}


@dataclass(frozen=True)
class Cell:
    """One encoder on one set: what it is, what is right to say (empty: that is asked), on which images it is judged."""

    set: str
    encoder: str
    right: str
    folder: Path
    cue: str = ""


def planted(images: np.ndarray, shown: np.ndarray, cue: str) -> np.ndarray:
    """Return ``N Y X`` images with a bright marker in a corner, or a lit border, where ``shown``."""
    size, made = images.shape[1], images.copy()
    where = np.zeros((size, size), bool)
    if cue == "marker":
        where[1 : 1 + max(2, size // 10), 1 : 1 + max(2, size // 10)] = True
        made[shown[:, None, None] & where] = 255
        return made
    width = max(1, size // 24)
    where[:] = True
    where[width:-width, width:-width] = False
    lit = shown[:, None, None] & where
    made[lit] = np.minimum(made[lit].astype(np.int64) + 60, 255)
    return made


def pool_of(out: Path, name: str, cue: str = "") -> Path:
    """Return the pool of a set, made once; with ``cue`` planted where the label says so nine times of ten."""
    path = out / "pools" / "_".join(filter(None, (name, cue)))
    if not path.exists():
        found = images_of(name, SIZES[name][0])
        if cue:
            rng = np.random.default_rng(0)
            for role, (images, labels, patients) in found.items():
                shown = np.where(rng.random(len(labels)) < FAITHFUL, labels == 1, labels != 1)
                found[role] = planted(images, shown, cue), labels, patients
        pool_of_images(path, found, TASK, NAMES[name])
    return path


def study_of(
    out: Path,
    name: str,
    pool: Path,
    method: str = "mae",
    seed: int = 0,
    like: str = "",
    gate: dict[str, Any] | None = None,
) -> Study:
    """Return a study on ``pool`` with the image size of the set ``like``."""
    (side, patch), (settings, loop, share) = SIZES[like or name], METHODS[method]
    vit = {"name": "vit", "width": 128, "depth": 6, "heads": 4, "patch": patch}
    resnet = {"name": "resnet", "depth": 18, "width": 16, "stem": 2}
    return Study.parse({
        "name": f"{like or name}_{pool.name}_{method}_{seed}",
        "pool": pool, "workspace": out / "runs", "seed": seed,
        "prepare": {"shape": [side, side]},
        "encoder": resnet if method in ("moco_v3", "rotation") else vit,
        "method": settings,
        "loop": {"epochs": max(1, round(EPOCHS[name] * share)), "batch_size": 64, **loop},
        "watch": {"pictures_epochs": 0, "every_epochs": 10, "images": 128},
        "tasks": {TASK: {}},
        "evaluation": {"shot_draws": 1, "pictures": {"images": 0}, "gate": gate or {}},
    })  # fmt: skip


def trained(out: Path, study: Study) -> Path:
    """Return the folder of the encoder of a study, pretrained once."""
    mark = out / "encoders" / f"{study.name}.json"
    if not mark.exists():
        write_json(mark, {"run": pretrain(study).data["run"]})
    return out / "runs" / "runs" / str(read_json(mark)["run"])


def saved(out: Path, mark: str, encoder: nn.Module, study: Study, **more: Any) -> Path:
    """Write an encoder as a pretraining would have left it."""
    folder = out / "encoders" / mark
    folder.mkdir(parents=True, exist_ok=True)
    about = {"name": study.encoder.name, "config": study.encoder.config.data(), "prepare": study.prepare.data()}
    save_encoder(encoder, folder, {**about, "fingerprint": mark, **more})  # type: ignore[arg-type]
    return folder


def shortcut_solver(out: Path, study: Study, cue: str, steps: int = 300) -> Path:
    """Train an encoder to tell whether ``cue`` is planted, at random, in dev images; nothing else."""
    name = f"{study.name}_solves_{cue}"
    if (out / "encoders" / name / "encoder.json").exists():
        return out / "encoders" / name
    dev = prepare(Pool.open(study.pool), study.prepare).role(Role.DEV)
    encoder = build_encoder(study.encoder.name, study.encoder.config, dev.geometry, seed=1)
    head, rng = nn.Linear(encoder.width, 1), np.random.default_rng(0)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)
    for _ in range(steps):
        rows = np.sort(rng.choice(len(dev), 64, replace=False))
        images, shown = dev.images(rows)[:, 0], rng.random(64) < 0.5
        levels = (images * 255).round().clamp(0, 255).to(torch.uint8).numpy()
        x = torch.from_numpy(planted(levels, shown, cue)).float()[:, None] / 255
        loss = F.binary_cross_entropy_with_logits(head(encoder(x).pooled)[:, 0], torch.from_numpy(shown).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"{name}: loss {loss.item():.3f} after {steps} steps", flush=True)
    return saved(out, name, encoder, study)


def supervised(out: Path, study: Study, seed: int) -> Path:
    """Train a small ResNet with all dev labels, tuned on val, and keep its encoder."""
    name = f"{study.name}_supervised_{seed}"
    if (out / "encoders" / name / "encoder.json").exists():
        return out / "encoders" / name
    about = {"name": study.encoder.name, "config": study.encoder.config.data()}
    nobody = FoundEncoder(nn.Identity(), about, name, None)  # type: ignore[arg-type]
    subject = Subject.of(study, Pool.open(study.pool), nobody, TASK)
    taught = learners(study, nobody, subject.data, TASK, subject.problem, tuning=Tuning(least=400, most=600))
    learner = taught[SMALL_RESNET]
    dev, val = (subject.problem.rows(role) for role in (Role.DEV, Role.VAL))
    trail = learner.trained(dev, val, learner.ways[-1], seed)
    print(f"{name}: AUROC of val {trail.best[0]:.3f} at step {trail.kept_step} of {trail.steps}", flush=True)
    config = {**SMALL, "stem": stem(subject.data.geometry)}
    return saved(out, name, trail.model.encoder, study, name="resnet", config=config)  # type: ignore[union-attr]


def collapsed(out: Path, folder: Path, study: Study) -> Path:
    """Let the last norm of a trained encoder send all images to almost one point."""
    encoder, _ = load_encoder(folder)
    norm = [module for module in encoder.modules() if isinstance(module, nn.LayerNorm)][-1]
    with torch.no_grad():
        norm.weight.mul_(1e-4)
        norm.bias.fill_(1.0)
    return saved(out, f"{study.name}_collapsed", encoder, study)


def cells(out: Path, name: str) -> Iterator[Cell]:
    """Make the encoders of a set, one after the other."""
    pool = pool_of(out, name)
    mae = study_of(out, name, pool)
    for seed in (1, 2):
        yield Cell(name, f"supervised {seed}", "go", supervised(out, mae, seed))
    geometry = prepare(Pool.open(pool), mae.prepare).geometry
    for seed in (11, 12, 13):
        encoder = build_encoder(mae.encoder.name, mae.encoder.config, geometry, seed=seed)
        yield Cell(name, f"random {seed}", "no_go", saved(out, f"{mae.name}_random_{seed}", encoder, mae))
    yield Cell(name, "collapsed", "no_go", collapsed(out, trained(out, mae), mae))
    for cue in ("marker", "border"):
        yield Cell(name, f"solves {cue}", "no_go", shortcut_solver(out, mae, cue), cue)
    other = ELSEWHERE[name]
    there = trained(out, study_of(out, other, pool_of(out, other), like=name))
    yield Cell(name, f"mae of {other}", "no_go", there)
    for method, seed in [("mae", 0), ("mae", 1), ("moco_v3", 0), ("dino", 0), ("rotation", 0)]:
        yield Cell(name, f"{method} {seed}", "", trained(out, study_of(out, name, pool, method, seed)))


def judged(out: Path, cell: Cell, gate: dict[str, Any]) -> dict[str, Any]:
    """Return what ``medssl evaluate`` says by the rule ``gate``, asked once."""
    rule = "".join(f" {value}" for value in gate.values())
    mark = out / "verdicts" / f"{cell.set} {cell.encoder}{rule}.json"
    if not mark.exists():
        study = study_of(out, cell.set, pool_of(out, cell.set, cell.cue), "mae", gate=gate)
        write_json(mark, evaluate(study, encoder=str(cell.folder)).data)
    found: dict[str, Any] = read_json(mark)
    return found


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(SIZES))
    parser.add_argument("--by", choices=list(By), default=By.PROBE)
    parser.add_argument("--budget", type=int, default=GateRule().budget)
    parser.add_argument("--encoders", nargs="*", default=[], help="those whose names begin so; all without")
    args = parser.parse_args()
    for folder in ("encoders", "verdicts"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    rule = {} if args.by == By.PROBE else {"by": args.by, "budget": args.budget}
    table = Table("set", "encoder", "right", "verdict", *FIGURES, "why")
    said: dict[tuple[str, str], int] = {}
    for name in args.only:
        for cell in cells(args.out, name):
            if args.encoders and not cell.encoder.startswith(tuple(args.encoders)):
                continue
            data = judged(args.out, cell, rule)
            verdict = data["verdict"]
            said[cell.right, verdict["decision"]] = said.get((cell.right, verdict["decision"]), 0) + 1
            systems = data["systems"]
            figures = [systems.get(system, {}).get(probe, {}).get("value") for system, probe in FIGURES.values()]
            shown = ["" if value is None else f"{value:.3f}" for value in figures]
            table.add_row(
                cell.set,
                cell.encoder,
                cell.right,
                verdict["decision"],
                *shown,
                verdict["reasons"][0],
            )
            print(cell.set, cell.encoder, verdict["decision"], *shown, flush=True)
    Console(width=200).print(table)
    print(
        json.dumps(
            {f"{right or 'asked'}: {decision}": num for (right, decision), num in sorted(said.items())},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
