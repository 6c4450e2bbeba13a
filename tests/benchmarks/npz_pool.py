"""A pool made from images in an ``.npz`` file of MedMNIST, each image a patient of its own, with the roles given."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from medssl.core.types import Role
from medssl.pool.catalog import INSTANCES, LABELS, VOLUMES
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.pool.shards import ShardWriter

KEY = Key(b"m" * 32)
SOURCES = {"pneumoniamnist": "pneumoniamnist_trainval.npz", "breastmnist": "breastmnist.npz"}
NAMES = {"pneumoniamnist": ("normal", "pneumonia"), "breastmnist": ("malignant", "benign")}
VAL_SHARE = 10  # one in so many of train is val, where the set's own val has to be the test side


def parts(folder: Path, name: str) -> dict[Role, tuple[np.ndarray, np.ndarray]]:
    """Return images ``N Y X`` and labels ``N`` by role; without a test part, val is it and train is split by index."""
    with np.load(folder / SOURCES[name]) as file:
        held = {part: (file[f"{part}_images"], file[f"{part}_labels"].ravel()) for part in ("train", "val", "test")
                if f"{part}_images" in file}  # fmt: skip
    if "test" in held:
        return {Role.DEV: held["train"], Role.VAL: held["val"], Role.TEST: held["test"]}
    images, labels = held["train"]
    is_val = np.arange(len(labels)) % VAL_SHARE == 0
    val, dev = ((images[rows], labels[rows]) for rows in (is_val, ~is_val))
    return {Role.DEV: dev, Role.VAL: val, Role.TEST: held["val"]}


def make_pool(
    path: Path,
    found: dict[Role, tuple[np.ndarray, np.ndarray]],
    task: str,
    names: tuple[str, ...],
    patients: dict[Role, list[str]] | None = None,
) -> Pool:
    """Write the pool, without the val and test images that are dev ones too; without ``patients`` each has one."""
    pool = Pool.create(path, KEY)
    volumes, instances, labels, seen = [], [], [], set[bytes]()
    with ShardWriter(pool.shards, 0, "zstd") as shard:
        for role, (images, values) in found.items():
            for i, (image, value) in enumerate(zip(images, values, strict=True)):
                if role is not Role.DEV and image.tobytes() in seen:
                    continue
                seen.add(image.tobytes())
                ids = {level: KEY.hmac(level, str(role), str(i)) for level in ("volume", "study", "series", "patient")}
                if patients is not None:
                    ids["patient"] = KEY.hmac("patient", patients[role][i])
                row = dict.fromkeys(VOLUMES) | ids | {
                    "role": str(role), "modality": "DX", "axes": "YX", "shape": list(image.shape),
                    "dtype": str(image.dtype), "spacing_mm": [1.0, 1.0], "units": "stored", "slope": 1.0,
                    "intercept": 0.0, "flags": [], "photometric": "MONOCHROME2",
                }  # fmt: skip
                volumes.append(row | asdict(shard.add(ids["volume"], image)))
                instances.append({
                    "source_key": KEY.hmac("file", ids["volume"]), "bytes": image.nbytes, "outcome": "stored",
                    "volume": ids["volume"], "slice": 0,
                })  # fmt: skip
                labels.append({
                    "id": ids["study"], "level": "study", "task": task, "value": names[int(value)],
                    "source": "medmnist", "annotator": "truth", "time": "2026-01-01T00:00:00+00:00",
                })  # fmt: skip
    pool.append(pl.DataFrame(volumes, schema=VOLUMES), pl.DataFrame(instances, schema=INSTANCES))
    pool.add_labels(pl.DataFrame(labels, schema=LABELS))
    return pool
