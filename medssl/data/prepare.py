"""Deterministic preparation, once: intensities to [0, 1] by modality, one shape, stored beside the pool.

The same function serves pretraining, fine-tuning and prediction, so that preprocessing cannot differ between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import torch
from annotated_types import Gt, Len
from numpy.typing import NDArray

from medssl.core.config import Config, Span, fingerprint
from medssl.core.errors import PoolError
from medssl.core.files import read_json, write_json
from medssl.core.progress import bar
from medssl.core.types import Geometry
from medssl.data.prepared import Prepared
from medssl.pool.catalog import VOLUMES, Catalog
from medssl.pool.pool import Pool
from medssl.pool.shards import ShardWriter, VolumeReader, shard_path
from medssl.pool.store import Store

SHARD_BYTES = 512 * 2**20


class PrepareConfig(Config):
    """What every image becomes.

    CT is windowed in HU; everything else by percentiles of its tissue, or by the VOI window that came with it.
    ``shape`` is what an encoder sees. ``fit``: ``pad`` scales the longest side to it, ``stretch`` every side, ``crop``
    keeps the extent (padded where it is smaller), to be read by boxes of ``shape``. ``spacing_mm`` (in the order of
    ``shape``) resamples first, after bringing volumes to RAS. ``foreground`` cuts away the air around the patient.
    ``codec``: ``none`` is read fastest and takes most room.
    """

    shape: Annotated[tuple[Annotated[int, Gt(0)], ...], Len(2, 3)] = (224, 224)
    channels: Literal[1, 3] = 1
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    window: Literal["percentiles", "voi"] = "percentiles"
    percentiles: Span = (0.005, 0.995)
    fit: Literal["pad", "stretch", "crop"] = "pad"
    spacing_mm: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(2, 3)] | None = None
    foreground: bool = False
    codec: Literal["lz4", "none"] = "lz4"

    @property
    def geometry(self) -> Geometry:
        """What an encoder will see."""
        return Geometry(self.shape, self.channels)


def prepare(pool: Pool, config: PrepareConfig) -> Prepared:
    """Return the prepared form of ``pool``, made now or found from before.

    Volumes whose number of spatial axes differs from ``config.shape`` are left out.

    Raises:
        PoolError: no volume fits ``config.shape``.
        CorruptShard: a stored volume differs from its checksum; nothing is prepared.
    """
    folder = pool.path / "prepared" / fingerprint(config.data(), pool.fingerprints.images)
    expect_sources(pool)
    store = Store.build(folder, lambda shards: _write(pool, config, shards))
    return Prepared(folder / "shards", Catalog(store.volumes, pool.catalog.labels), config.geometry)


def expect_sources(pool: Pool) -> None:
    """Check the members of every shard that is new or was touched since the last look, so that damage stops training.

    Raises:
        CorruptShard: stored bytes differ from their checksum, or a shard is missing.
    """
    record = pool.path / "prepared" / "sources.json"
    now = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(pool.shards.glob("*.tar"))}
    before = read_json(record) if record.is_file() else {}
    if now == before:
        return
    reader = pool.reader()
    with bar("checksums", len(reader)) as shown:
        for row, shard in enumerate(pool.catalog.volumes["shard"]):
            name = shard_path(pool.shards, shard).name
            if name not in now or before.get(name) != now[name]:
                reader.check(row)
            shown.advance()
    write_json(record, now)


def _write(pool: Pool, config: PrepareConfig, shards: Path) -> pl.DataFrame:
    num_axes = pl.col("axes").str.strip_chars_end("C").str.len_chars()
    fitting = pool.catalog.where(num_axes == len(config.shape)).volumes
    if not fitting.height:
        raise PoolError(
            f"{pool.path}: none of its {len(pool.catalog)} volumes is {len(config.shape)}D, as prepare.shape asks"
        )
    reader, transform = VolumeReader(pool.shards, fitting), resizer(config)
    per_shard = max(1, SHARD_BYTES // (2 * config.channels * prod(config.shape)))
    members = []
    with bar("prepare", fitting.height) as shown:
        for shard, start in enumerate(range(0, fitting.height, per_shard)):
            part = fitting.slice(start, per_shard)
            with ShardWriter(shards, shard, "lz4") as writer:
                for offset, row in enumerate(part.iter_rows(named=True)):
                    image = transform(normalise(reader.read(start + offset), row, config))
                    members.append(asdict(writer.add(row["volume"], image)))
                    shown.advance()
    place = {name: VOLUMES[name] for name in ("shard", "offset", "length", "sha256")}
    made = fitting.drop(place).hstack(pl.DataFrame(members, schema=place))
    axes = "C" + "ZYX"[-len(config.shape) :]
    shape = pl.lit([config.channels, *config.shape], dtype=pl.List(pl.Int64))
    return made.with_columns(shape=shape, axes=pl.lit(axes), dtype=pl.lit("float16")).select(fitting.columns)


def normalise(voxels: NDArray[Any], row: Mapping[str, Any], config: PrepareConfig) -> NDArray[np.float32]:
    """Return ``C *S`` float32 in [0, 1] from one stored volume and its catalog row; padding becomes 0."""
    colour = row["axes"].endswith("C")
    values: NDArray[np.float32] = voxels.astype(np.float32)
    outside = np.zeros(values.shape, bool) if row["padding"] is None else voxels == row["padding"]
    values = (values * row["slope"] + row["intercept"]).astype(np.float32)
    if colour:
        scaled = np.moveaxis(values / 255, -1, 0)
    else:
        low, high = intensity_range(values[~outside], row, config)
        scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)[None]
        scaled[:, outside] = 0
    if len(scaled) < config.channels:
        scaled = np.repeat(scaled, config.channels, axis=0)
    elif len(scaled) > config.channels:
        scaled = np.tensordot([0.299, 0.587, 0.114], scaled, 1)[None]  # luma of ITU-R BT.601
    return scaled.astype(np.float32)


def picture(voxels: NDArray[Any], row: Mapping[str, Any], config: PrepareConfig) -> NDArray[np.float32]:
    """Return what a person looks at: ``Y X`` or ``Y X C`` in [0, 1], full resolution, middle slice of a stack."""
    channels = 3 if row["axes"].endswith("C") else 1
    image = normalise(voxels, row, config.model_copy(update={"channels": channels}))  # C *S
    while image.ndim > 3:
        image = image[:, image.shape[1] // 2]
    return np.moveaxis(image, 0, -1) if channels == 3 else image[0]


def intensity_range(tissue: NDArray[np.float32], row: Mapping[str, Any], config: PrepareConfig) -> tuple[float, float]:
    """Return what maps to 0 and 1: HU window, VOI window (PS3.3 C.11.2.1.2, linear), or percentiles."""
    if row["units"] == "HU":
        return config.window_hu
    width = row["window_width"]
    if config.window == "voi" and width is not None and width > 1:
        centre = row["window_center"] - 0.5
        return centre - (width - 1) / 2, centre + (width - 1) / 2
    if tissue.size == 0:
        return 0.0, 1.0
    low, high = np.quantile(tissue, config.percentiles)
    return float(low), float(high)


def resizer(config: PrepareConfig) -> Any:
    """Return a function from ``C *S`` float32 to the prepared ``C *shape`` float16 (MONAI; anti-aliased area means)."""
    from monai.transforms import Compose, Resize, ResizeWithPadOrCrop

    if config.fit == "stretch":
        chain = Compose([Resize(config.shape, mode="area")])
    else:
        longest = Resize(max(config.shape), size_mode="longest", mode="area")
        chain = Compose([longest, ResizeWithPadOrCrop(config.shape)])

    def resize(image: NDArray[np.float32]) -> NDArray[np.float16]:
        resized = torch.as_tensor(chain(np.ascontiguousarray(image)))
        return resized.numpy().astype(np.float16)

    return resize
