"""Labelled image sets as pools: chest radiographs with their patients, MedMNIST with a patient an image."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from medssl.core.types import Role

sys.path.insert(0, str(Path(__file__).parents[1]))

from image_pool import KEY, Parts, pool_of_images

__all__ = ["NAMES", "Parts", "images_of", "pool_of_images"]
SHARED = Path(os.environ.get("MEDSSL_SHARED", Path(__file__).parents[3] / "shared")) / "data"
FILES = {"pneumoniamnist": "pneumoniamnist_trainval.npz", "breastmnist": "breastmnist.npz"}
NAMES = {
    "chest": ("normal", "pneumonia"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "breastmnist": ("malignant", "benign"),
}
VAL_SHARE = 10  # one in so many of train is val, where the set's own val has to be the test side


def images_of(name: str, side: int = 28) -> Parts:
    """Return the set by role; chest radiographs are ``side`` pixels a side, MedMNIST has 28."""
    return _chest(side) if name == "chest" else _medmnist(name)


def _medmnist(name: str) -> Parts:
    """Without a test part, val is it and train is split by index."""
    with np.load(SHARED / "medmnist28" / FILES[name]) as file:
        held = {part: (file[f"{part}_images"], file[f"{part}_labels"].ravel()) for part in ("train", "val", "test")
                if f"{part}_images" in file}  # fmt: skip
    if "test" not in held:
        images, labels = held.pop("train")
        is_val = np.arange(len(labels)) % VAL_SHARE == 0
        val, dev = ((images[rows], labels[rows]) for rows in (is_val, ~is_val))
        held = {"train": dev, "val": val, "test": held["val"]}
    found = zip((Role.DEV, Role.VAL, Role.TEST), (held["train"], held["val"], held["test"]), strict=True)
    return {role: (x, y, [f"{role} {i}" for i in range(len(y))]) for role, (x, y) in found}


def _chest(side: int) -> Parts:
    """Split 65 : 15 : 20 by patient."""
    folder = SHARED / "chest_xray_224"
    table = pl.read_csv(folder / "labels.csv", infer_schema=False)
    about = {name: (label == "PNEUMONIA", patient) for name, patient, label, _ in table.iter_rows()}
    held: dict[Role, list[tuple[np.ndarray, bool, str]]] = {role: [] for role in Role}
    with tarfile.open(folder / "images.tar") as tar:
        for member in tar:
            if member.name in about:
                label, patient = about[member.name]
                image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("L")  # type: ignore[union-attr]
                small = np.asarray(image.resize((side, side), Image.Resampling.BOX))
                share = int(KEY.hmac("role", patient)[:8], 16) / 2**32
                role = Role.DEV if share < 0.65 else Role.VAL if share < 0.8 else Role.TEST
                held[role].append((small, label, patient))
    return {
        role: (np.stack([x for x, _, _ in found]), np.array([y for _, y, _ in found]), [p for _, _, p in found])
        for role, found in held.items()
    }
