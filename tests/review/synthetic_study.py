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
from medssl.evaluation.audits import Audit, Audits
from medssl.evaluation.curve import Curve, LabelsTo, Line, Point, Use
from medssl.evaluation.few_shot import FewShot, Shot
from medssl.evaluation.gate import GateRule
from medssl.evaluation.reliability import reliability
from medssl.evaluation.results import Comparison
from medssl.evaluation.structure import Structure
from medssl.evaluation.subgroups import Gap, Subgroup, Subgroups
from medssl.review.contact_sheet import contact_sheet
from medssl.review.encoder_pictures import embedding_map, neighbours, reliability_curve
from medssl.tracking.journal import Journal

POOL = {"pool": "4be1c09a77d2"}
OUTCOMES = [
    {"outcome": "stored", "reason": None, "count": 512},
    {"outcome": "duplicate", "reason": "same voxels as an earlier file", "count": 18},
    {"outcome": "quarantined", "reason": "pixel data is truncated", "count": 9},
    {"outcome": "excluded", "reason": "enhanced multi-frame is not read yet", "count": 4},
    {"outcome": "non_image", "reason": "no DICOM preamble or data set", "count": 6},
]
PROBES = ("knn", "linear", "few")
SYSTEMS = {
    "encoder": (0.871, 0.903, 0.881),
    "random": (0.731, 0.752, None),
    "pixels": (None, 0.824, None),
    "frame": (None, 0.921, None),
    "thumbnail": (None, 0.874, None),
    "scratch": (None, None, 0.842),
}
DIFFERENCES = {
    "random": (0.151, 0.0625), "pixels": (0.079, 0.0585), "frame": (-0.018, 0.04), "thumbnail": (0.029, 0.041),
    "scratch": (0.039, 0.051),
}  # fmt: skip


def score(value: float, half: float, n: int = 118, metric: str = "auroc") -> Score:
    return Score(metric, value, round(value - half, 4), round(value + half, 4), n)


OVER_OLD = score(0.037, 0.03, metric="auroc difference")


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
    evaluate = write_evaluate(workspace, ingest, pretrain, images)
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


def write_evaluate(workspace: Path, ingest: Journal, pretrain: Journal, images: list[NDArray[Any]]) -> Journal:
    systems = {
        name: {probe: asdict(score(v, 0.036)) for probe, v in zip(PROBES, values, strict=True) if v}
        for name, values in SYSTEMS.items()
    }
    reasons = [
        "The encoder is better than the random encoder: auroc 0.903 against 0.752, difference +0.151 [+0.088, +0.213]",
        "The encoder is not worse (by 0.01) than raw pixels: auroc 0.903 against 0.824, difference +0.079",
        "Warning (frame alone): The data set has a shortcut: the frame of the image alone predicts 'pneumonia'.",
    ]
    differences = {name: score(d, half, metric="auroc difference") for name, (d, half) in DIFFERENCES.items()}
    audited = audits()
    evaluation = {
        "task": "pneumonia",
        "metric": "auroc",
        "kind": "classes",
        "classes": ["normal", "pneumonia"],
        "num_train": 240,
        "num_val": 60,
        "num_test": 140,
        "systems": systems,
        "differences": {name: asdict(found) for name, found in differences.items()},
        "metrics": {name: metrics(v) for name, v in (("pixels", 0.824), ("encoder", 0.903), ("encoder_few", 0.881))},
        "by_class": {
            name: {finding: asdict(score(v - 0.01 * i, 0.05)) for i, finding in enumerate(("effusion", "nodule"))}
            for name, v in (("pixels", 0.815), ("encoder", 0.895))
        },
        "covered": audited.to_json()["covered"],
        "warnings": audited.warnings,
        "others": {
            "pretrain-old": {
                "linear": asdict(score(0.866, 0.04)),
                "knn": asdict(score(0.858, 0.041)),
                "difference": asdict(OVER_OLD),
                "metrics": metrics(0.866),
            }
        },
        "external": {
            "elsewhere": {
                "systems": {"pixels": asdict(score(0.702, 0.05, 88)), "encoder": asdict(score(0.781, 0.044, 88))},
                "knn": {"encoder": asdict(score(0.742, 0.046, 88))},
                "differences": {"pixels": asdict(score(0.0791, 0.051, 88, "auroc difference"))},
                "metrics": {"encoder": metrics(0.781, 88)},
            },
            "small": {"patients": {"normal": 3, "pneumonia": 1}},
        },
        "few_shot": few_shot().to_json(),
        "structure": structure().to_json(),
        "subgroups": subgroups().to_json(),
        "feature_std": 0.88,
        "rankme": 58.3,
        "rule": GateRule().data(),
        "verdict": {"decision": "go", "reasons": reasons},
    }
    parents = {"encoder": pretrain.id, "pool": ingest.id}
    with Journal.start(workspace, "evaluate", "chest_xray", {}, fingerprints=POOL, parents=parents) as journal:
        write_json(journal.folder / "evaluation.json", evaluation)
        write_json(journal.folder / "audits.json", audited.to_json())
        write_json(journal.folder / "curve.json", curve().to_json())
        draw_evaluation(journal.folder / "pictures", images)
        journal.finish(summary={"linear": score(0.903, 0.036), "knn": score(0.871, 0.036), "verdict": "go"})
    return journal


def metrics(value: float, n: int = 118) -> dict[str, Any]:
    """Return what ``evaluation.json`` says of one system by several metrics."""
    brier = score(round(1 - value, 4), 0.02, n, "brier")
    return {"auroc": asdict(score(value, 0.036, n)), "brier": asdict(brier)}


def few_shot() -> FewShot:
    shots = [
        Shot(system, probe, number, score(base + 0.07 * i, 0.05), 0.04 - 0.01 * i, difference, spread)
        for system, base, difference, spread in (
            ("encoder", 0.71, None, None),
            ("random", 0.58, score(0.13, 0.06, metric="auroc difference"), 0.052),
        )
        for probe in ("nearest_mean", "logistic")
        for i, number in enumerate((1, 5))
    ]
    return FewShot("auroc", 20, tuple(shots), {10: "class 'normal' has 9 labelled dev patients of 10"})


def structure() -> Structure:
    figures = {
        "encoder": {"nmi": 0.31, "recall_at_1": 0.82, "map": 0.64},
        "random": {"nmi": 0.06, "recall_at_1": 0.61, "map": 0.52},
    }
    scored = {s: {name: score(v, 0.05, metric=name) for name, v in found.items()} for s, found in figures.items()}
    differences = {"random": {name: score(0.2, 0.07, metric=f"{name} difference") for name in figures["encoder"]}}
    return Structure(scored, differences, {"recall_at_1": 0.5, "map": 0.5})


def subgroups() -> Subgroups:
    table = (
        Subgroup("sex", "F", 61, score(0.912, 0.05, 61)),
        Subgroup("sex", "M", 57, score(0.871, 0.06, 57)),
        Subgroup("scanner", "vendor 1", 112, score(0.905, 0.04, 112)),
        Subgroup("scanner", "vendor 2", 6, None, "2 patients of class 'normal' of 5 needed"),
    )
    return Subgroups("auroc", table, (Gap("sex", "F", "M", score(0.041, 0.075, metric="auroc gap")),))


def curve() -> Curve:
    def line(system: str, encoder: str, use: Use, base: float, *, baseline: bool) -> Line:
        points = []
        for i, fraction in enumerate((0.05, 0.3, 1.0)):
            value = round(base + 0.05 * i, 4)
            seeds = (value - 0.03 + 0.01 * i, value + 0.03 - 0.01 * i)
            reference = None if system == "pixels" else score(value - 0.7 - 0.05 * i, 0.05, metric="auroc difference")
            counts = 240 * fraction, 290 * fraction, 60 * fraction, 66 * fraction
            points.append(Point(fraction, *counts, score(value, 0.037), seeds, reference, 1.5, ({}, {})))
        return Line(system, tuple(points), encoder, use, baseline)

    lines = (
        line("encoder.probe", "encoder", Use.PROBE, 0.81, baseline=False),
        line("encoder.tuned", "encoder", Use.TUNED, 0.82, baseline=False),
        line("scratch", "random", Use.TUNED, 0.72, baseline=True),
        line("pixels", "", Use.OTHER, 0.7, baseline=True),
    )
    reached = (LabelsTo("encoder.probe", "scratch", 31.0, 14.0, 77.0, 12.0, 0.98),)
    return Curve("pneumonia", "auroc", "volume", 2, "pixels", "scratch", lines, reached, ())


def audits() -> Audits:
    alone = {
        "frame alone": score(0.921, 0.03),
        "frame alone over chance": score(0.421, 0.03, metric="auroc difference"),
    }
    covered = {
        "random": Comparison(
            score(0.861, 0.04), score(0.744, 0.05), score(0.117, 0.06, metric="auroc difference"),
            score(0.034, 0.05, metric="auroc difference"),
        )
    }  # fmt: skip
    shortcut = "The data set has a shortcut: the frame of the image alone predicts 'pneumonia'."
    scanner = "The encoder tells 2 scanners apart; label and scanner are not shown to be associated."
    told = {"encoder": score(0.71, 0.06, metric="balanced_accuracy")}
    found = (
        Audit("duplicates", "0 of 140 test images are copies of dev or val images.", facts={"exact": 0, "hash": 0}),
        Audit("frame alone", shortcut, True, alone),
        Audit("scanner", scanner, scores=told, facts={"groups": 2}),
    )
    return Audits(found, covered)


def draw_evaluation(folder: Path, images: list[NDArray[Any]]) -> None:
    """Draw what an encoder would have been shown to see, with invented places and predictions."""
    rng = np.random.default_rng(4)
    tinted = [np.stack([image, image * 0.6, image * 0.5], axis=-1) for image in images[:3]]
    sheet = [part for pair in zip(images, tinted, strict=False) for part in pair]
    contact_sheet(sheet, ["image", "all heads"] * len(tinted), folder / "attention.png", 6)
    found, same = [images[1:3]] * 2, np.array([[True, False], [True, True]])
    neighbours(images[:2], found, rng.uniform(0.8, 1, (2, 2)), same, folder / "neighbours.png")
    if len(images) < 4:
        return  # a small study, quick to draw
    label = rng.integers(2, size=200)
    points = rng.normal(0, 1, (200, 2)) + 2 * label[:, None]
    embedding_map(points, np.array(["normal", "pneumonia"])[label].tolist(), "By pneumonia", folder / "map-label.png")
    predicted = rng.uniform(size=140)
    bins = reliability(predicted, rng.uniform(size=140) < predicted, np.arange(140).astype(str))
    reliability_curve(bins, score(0.061, 0.03, metric="ece"), "predicted probability", folder / "reliability.png")


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
    scores = {"val": score(0.931, 0.029), "test": score(0.917, 0.031)}
    differences = {
        name: score(v, 0.04, metric="auroc difference") for name, v in (("encoder", 0.014), ("pixels", 0.093))
    }
    found = {
        "task": "pneumonia",
        "metric": "auroc",
        "scores": {name: asdict(s) for name, s in scores.items()},
        "baselines": {
            "encoder": {"linear": asdict(score(0.903, 0.036))},
            "pixels": {"pca": asdict(score(0.824, 0.05))},
        },
        "differences": {name: asdict(s) for name, s in differences.items()},
        "metrics": {name: metrics(v) for name, v in (("pixels", 0.824), ("model", 0.917), ("encoder", 0.903))},
    }
    with Journal.start(workspace, "finetune", "chest_xray", {}, parents={"encoder": pretrain.id}) as journal:
        write_json(journal.folder / "finetune.json", found)
        journal.finish(summary=scores)
    return journal
