"""A workspace as a whole study would leave it, with invented figures and pictures."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medssl.core.files import write_json
from medssl.core.score import Score
from medssl.review.contact_sheet import contact_sheet
from medssl.tracking.journal import Journal

POOL = {"pool": "4be1c09a77d2"}
OUTCOMES = [
    {"outcome": "stored", "reason": None, "count": 512},
    {"outcome": "duplicate", "reason": "same voxels as an earlier file", "count": 18},
    {"outcome": "quarantined", "reason": "pixel data is truncated", "count": 9},
    {"outcome": "excluded", "reason": "enhanced multi-frame is not read yet", "count": 4},
    {"outcome": "non_image", "reason": "no DICOM preamble or data set", "count": 6},
]
SYSTEMS = {"encoder": (0.871, 0.903), "random": (0.731, 0.752), "pixels": (None, 0.824)}


def score(value: float, half: float, n: int = 118, metric: str = "auroc") -> Score:
    return Score(metric, value, round(value - half, 4), round(value + half, 4), n)


def pictures(num: int) -> list[NDArray[Any]]:
    """Return blobs that could be chests, of two sizes."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(num):
        y, x = np.mgrid[-1 : 1 : (96 if i % 3 else 120) * 1j, -1:1:96j]
        lungs = sum(np.exp(-(((x - c) / 0.3) ** 2) - ((y / rng.uniform(0.5, 0.7)) ** 2)) for c in (-0.42, 0.42))
        found.append(np.clip(0.9 - 0.75 * lungs + rng.normal(0, 0.03, y.shape), 0, 1))
    return found


def write_study(workspace: Path, images: list[NDArray[Any]]) -> dict[str, str]:
    """Write one run of each kind; return kind → run id."""
    ingest = write_ingest(workspace)
    pretrain = write_pretrain(workspace, ingest, images)
    evaluate = write_evaluate(workspace, ingest, pretrain)
    select = write_select(workspace, pretrain, images)
    finetune = write_finetune(workspace, pretrain)
    runs = {"ingest": ingest, "pretrain": pretrain, "evaluate": evaluate, "select": select, "finetune": finetune}
    return {kind: journal.id for kind, journal in runs.items()}


def write_ingest(workspace: Path) -> Journal:
    with Journal.start(workspace, "ingest", "chest_xray", {}, fingerprints=POOL) as journal:
        by_role = {name: {"dev": dev, "val": 71, "test": 74} for name, dev in (("patients", 300), ("studies", 355))}
        info = {**by_role, "volumes": {"dev": 367, "val": 71, "test": 74}, "modalities": {"DX": 431, "CR": 81}}
        write_json(journal.folder / "pool_info.json", info | {"outcomes": OUTCOMES, "fingerprint": POOL["pool"]})
        journal.note("9 files were quarantined; see the outcomes of the pool")
        journal.finish(summary={"files": 549.0, "volumes": 512.0})
    return journal


def write_pretrain(workspace: Path, ingest: Journal, images: list[NDArray[Any]]) -> Journal:
    rng = np.random.default_rng(1)
    params = {"method": {"name": "mae", "mask_ratio": 0.75}, "seed": 0}
    parents = {"pool": ingest.id}
    with Journal.start(workspace, "pretrain", "chest_xray", params, fingerprints=POOL, parents=parents) as journal:
        for step in range(10, 1501, 10):
            lr = 1e-3 * min(step / 150, 0.5 * (1 + np.cos(np.pi * max(step - 150, 0) / 1350)))
            loss = 0.35 + 0.6 * np.exp(-step / 250) + rng.normal(0, 0.02)
            journal.metrics(step, {"loss": loss, "lr": lr})
            if step % 100 == 0:
                grown = 1 - np.exp(-step / 400)
                journal.metrics(step, {"feature_std": 0.2 + 0.7 * grown, "rankme": 6 + 58 * grown})
        (journal.folder / "pictures").mkdir()
        for name, image in zip(("input", "masked", "reconstruction"), images, strict=False):
            Image.fromarray((image * 255).astype(np.uint8)).save(journal.folder / "pictures" / f"{name}.png")
        journal.finish(summary={"loss": loss})
    return journal


def write_evaluate(workspace: Path, ingest: Journal, pretrain: Journal) -> Journal:
    systems = {
        name: {probe: asdict(score(v, 0.036)) for probe, v in zip(("knn", "linear"), values, strict=True) if v}
        for name, values in SYSTEMS.items()
    }
    reasons = [
        "the encoder beats raw pixels by 0.079 AUROC, interval 0.021 to 0.138",
        "the encoder beats an untrained encoder by 0.151 AUROC, interval 0.088 to 0.213",
        "features are spread (standard deviation 0.88) over 58 effective dimensions",
    ]
    evaluation = {
        "task": "pneumonia",
        "metric": "auroc",
        "classes": ["normal", "pneumonia"],
        "num_train": 240,
        "systems": systems,
        "differences": {"pixels": asdict(score(0.079, 0.0585)), "random": asdict(score(0.151, 0.0625))},
        "feature_std": 0.88,
        "rankme": 58.3,
        "verdict": {"decision": "go", "reasons": reasons},
    }
    parents = {"encoder": pretrain.id, "pool": ingest.id}
    with Journal.start(workspace, "evaluate", "chest_xray", {}, fingerprints=POOL, parents=parents) as journal:
        write_json(journal.folder / "evaluation.json", evaluation)
        journal.finish(summary={"linear": score(0.903, 0.036), "knn": score(0.871, 0.036), "verdict": "go"})
    return journal


def write_select(workspace: Path, pretrain: Journal, images: list[NDArray[Any]]) -> Journal:
    rng = np.random.default_rng(2)
    with Journal.start(workspace, "select", "chest_xray", {}, parents={"encoder": pretrain.id}) as journal:
        with (journal.folder / "worklist.csv").open("w", newline="", encoding="utf-8") as handle:
            rows = csv.writer(handle)
            rows.writerow(("rank", "study", "score", "reason", "role", "preview"))
            for rank in range(1, len(images) + 1):
                study, loss = rng.bytes(16).hex(), 2.2 - 0.03 * rank
                rows.writerow((rank, study, f"{loss:.4f}", f"batch {rank % 10}: rotation loss", "dev", f"{rank}.png"))
        captions = [f"{i + 1}  {rng.bytes(4).hex()}" for i in range(len(images))]
        contact_sheet(images, captions, journal.folder / "contact_sheet.png")
        journal.artifact(journal.folder / "contact_sheet.png")
        journal.finish(summary={"budget": float(len(images))})
    return journal


def write_finetune(workspace: Path, pretrain: Journal) -> Journal:
    scores = {"auroc": score(0.931, 0.029), "balanced_accuracy": score(0.862, 0.041, metric="balanced_accuracy")}
    baseline = {"auroc": score(0.842, 0.047), "balanced_accuracy": score(0.771, 0.052, metric="balanced_accuracy")}
    found = {
        "task": "pneumonia",
        "scores": {name: asdict(s) for name, s in scores.items()},
        "baseline": {name: asdict(s) for name, s in baseline.items()},
    }
    with Journal.start(workspace, "finetune", "chest_xray", {}, parents={"encoder": pretrain.id}) as journal:
        write_json(journal.folder / "finetune.json", found)
        journal.finish(summary=scores)
    return journal
