"""``medssl embed``: the encoder's features of every volume of the pool, as one table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medssl.core.collectives import rank
from medssl.core.files import atomic
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.engine import scoring
from medssl.engine.distributed import device_for, first, processes
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.verbs.context import find_encoder, marks, running, score_folder
from medssl.verbs.result import Result

NAME = "embeddings.parquet"


def embed(study: Study, *, encoder: str | None = None, out: Path | None = None) -> Result:
    """Write ``volume, study, patient, role, embedding`` a volume to ``out``, by default in the run's folder.

    Stopped at any point, it goes on where it stood; under `torchrun`, with all its processes.
    """
    with processes():
        pool = Pool.open(study.pool)
        found = find_encoder(study, pool, encoder)
        data = first(lambda: prepare(pool, study.prepare))
        prints = marks(pool, pretraining=found.fingerprint)
        with running(study, "embed", prints, found.parents) as journal:
            kept = score_folder(study, found.fingerprint, "embed")
            features = scoring.embed(found.encoder, data, device_for(), kept)
            place = out or journal.folder / NAME
            if rank() == 0:
                write(place, data, features)
            journal.finish(summary={"volumes": len(data), "width": features.shape[1]})
    facts = {"run": journal.id, "volumes": len(data), "width": features.shape[1], "out": str(place)}
    said = (
        f"{len(data)} volumes embedded by {found.run or found.fingerprint}, {features.shape[1]} numbers each: {place}"
    )
    left_out = len(pool.catalog) - len(data)
    return Result(facts, (said, *([f"{left_out} volumes are not of the encoder's axes"] if left_out else [])))


def write(out: Path, data: Prepared, features: NDArray[np.float32]) -> None:
    """Write the table, atomically; ids are pseudonyms."""
    table = data.catalog.volumes.select("volume", "study", "patient", "role")
    column = pl.Series("embedding", features, pl.Array(pl.Float32, features.shape[1])).cast(pl.List(pl.Float32))
    with atomic(out) as partial:
        table.with_columns(column).write_parquet(partial)
