"""A small pool of discs, made without DICOM, and a small study over it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from medssl.core.keys import generator
from medssl.pool.catalog import INSTANCES, LABELS, VOLUMES
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.pool.shards import ShardWriter

KEY = Key(b"k" * 32)


def disc(patient: int, study: int, size: int = 40) -> tuple[np.ndarray, str]:
    """Return a noisy disc of random size and place, ``round`` or with a bite taken out of it, ``bitten``."""
    rng = generator("disc", patient, study)
    y, x = np.mgrid[:size, :size] / size - 0.5
    cy, cx, radius = rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1), rng.uniform(0.25, 0.4)
    image = ((y - cy) ** 2 + (x - cx) ** 2 < radius**2).astype(float)
    bitten = bool((patient + study) % 2)
    if bitten:
        image[(y - cy - radius / 2) ** 2 + (x - cx) ** 2 < (radius / 2) ** 2] = 0
    voxels = (image * 800 + rng.normal(200, 60, image.shape)).clip(0, 4095).astype(np.uint16)
    return voxels, "bitten" if bitten else "round"


def cylinder(patient: int, study: int, size: int = 40, depth: int = 24) -> tuple[np.ndarray, str]:
    """Return a disc through some of the slices, in noise."""
    voxels, value = disc(patient, study, size)
    rng = generator("cylinder", patient, study)
    first, last = rng.integers(2, depth // 3), rng.integers(2 * depth // 3, depth - 2)
    slices = np.repeat(voxels[None], depth, axis=0)
    slices[:first], slices[last:] = 200, 200
    return (slices + rng.normal(0, 20, slices.shape)).clip(0, 4095).astype(np.uint16), value


def make_pool(
    path: Path, num_patients: int = 40, studies_each: int = 2, *, labelled: bool = True, ndim: int = 2
) -> Pool:
    """Write a pool of discs or cylinders, one volume a study; labels of task ``shape`` are on the study."""
    pool = Pool.create(path, KEY)
    volumes, instances, labels = [], [], []
    with ShardWriter(pool.shards, 0, "zstd") as shard:
        for patient in range(num_patients):
            person = KEY.hmac("patient", str(patient))
            for study in range(studies_each):
                voxels, value = disc(patient, study) if ndim == 2 else cylinder(patient, study)
                ids = {level: KEY.hmac(level, str(patient), str(study)) for level in ("volume", "study", "series")}
                row = dict.fromkeys(VOLUMES) | ids | {
                    "patient": person, "role": str(pool.role_of(person, KEY)), "modality": "DX" if ndim == 2 else "MR",
                    "axes": "ZYX"[-ndim:],
                    "scanner": f"vendor {patient % 3}", "shape": list(voxels.shape), "dtype": str(voxels.dtype),
                    "spacing_mm": [1.0] * ndim, "units": "stored", "slope": 1.0, "intercept": 0.0, "flags": [],
                    "photometric": "MONOCHROME2",
                }  # fmt: skip
                volumes.append(row | asdict(shard.add(ids["volume"], voxels)))
                instances.append({
                    "source_key": KEY.hmac("file", ids["volume"]), "bytes": voxels.nbytes, "outcome": "stored",
                    "volume": ids["volume"], "slice": 0,
                })  # fmt: skip
                labels.append({
                    "id": ids["study"], "level": "study", "task": "shape", "value": value, "source": "test",
                    "annotator": "truth", "time": "2026-01-01T00:00:00+00:00",
                })  # fmt: skip
    pool.append(pl.DataFrame(volumes, schema=VOLUMES), pl.DataFrame(instances, schema=INSTANCES))
    if labelled:
        pool.add_labels(pl.DataFrame(labels, schema=LABELS))
    return pool


STUDY = """\
pool: {pool}
workspace: {workspace}
prepare: {{shape: [32, 32]}}
encoder: {{name: vit, width: 48, depth: 2, heads: 2, patch: 8}}
method: {{name: mae, decoder_width: 32, decoder_depth: 1, decoder_heads: 2}}
loop: {{epochs: 4, batch_size: 16, lr: 0.004, log_steps: 2}}
selection:
  strategy: {{name: pt4al}}
  budget: 6
  rounds: 3
  pilot_val: 3
  pilot_test: 6
  pretext:
    encoder: {{name: resnet, depth: 10, width: 8, stem: 2}}
    method: {{name: rotation}}
    loop: {{epochs: 2, batch_size: 16}}
evaluation:
  shot_draws: 2
  gate: {{draws: 1}}
  tuning: {{least: 10, most: 10, rates: [0.003]}}
  audit: {{images: 0}}
  pictures: {{images: 2}}
  curve: {{tuning: {{least: 10, most: 10, rates: [0.003]}}}}
watch: {{pictures_epochs: 0}}
tasks:
  shape: {{loop: {{epochs: 6, batch_size: 16, lr: 0.02}}}}
"""
