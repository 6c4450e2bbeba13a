"""Images, labels and patients in arrays as a pool."""

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

Parts = dict[Role, tuple[np.ndarray, np.ndarray, list[str]]]  # images N Y X uint8, labels N, patients N
KEY = Key(b"m" * 32)


def pool_of_images(path: Path, found: Parts, task: str, names: tuple[str, ...]) -> Pool:
    """Write the pool, without the val and test images that are dev ones too."""
    pool = Pool.create(path, KEY)
    volumes, instances, labels, seen = [], [], [], set[bytes]()
    with ShardWriter(pool.shards, 0, "zstd") as shard:
        for role, (images, values, patients) in found.items():
            for i, (image, value, patient) in enumerate(zip(images, values, patients, strict=True)):
                if role is not Role.DEV and image.tobytes() in seen:
                    continue
                seen.add(image.tobytes())
                ids = {level: KEY.hmac(level, str(role), str(i)) for level in ("volume", "study", "series")}
                row = dict.fromkeys(VOLUMES) | ids | {
                    "patient": KEY.hmac("patient", patient), "role": str(role), "modality": "DX", "axes": "YX",
                    "shape": list(image.shape),
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
                    "source": "set", "annotator": "truth", "time": "2026-01-01T00:00:00+00:00",
                })  # fmt: skip
    pool.append(pl.DataFrame(volumes, schema=VOLUMES), pl.DataFrame(instances, schema=INSTANCES))
    pool.add_labels(pl.DataFrame(labels, schema=LABELS))
    return pool
