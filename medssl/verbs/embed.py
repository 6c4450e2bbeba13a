"""``medssl embed``: the encoder's features of every volume of the pool, as one table; pretext losses beside them."""

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
from medssl.pool.catalog import time_point, whole
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.verbs.context import find_encoder, marks, running, score_folder
from medssl.verbs.pretrain import load_method
from medssl.verbs.result import Result
from medssl.verbs.signals import Pretext, doubt_about, trained_pretext

NAME = "embeddings.parquet"


def embed(study: Study, *, encoder: str | None = None, out: Path | None = None, losses: bool = False) -> Result:
    """Write ``volume, study, patient, role, embedding`` a volume to ``out``, by default in the run's folder.

    ``losses`` adds ``pretext_loss`` by the trained ``selection.pretext``, else by the study's own pretraining. They
    are of the whole pool; selection scores none but its candidates, whose chunks are others, so it computes its own.
    Stopped at any point, it goes on where it stood; under `torchrun`, with all its processes.

    Raises:
        TrainingError: ``losses`` without a trained pretext.
    """
    with processes():
        pool = Pool.open(study.pool)
        found = find_encoder(study, pool, encoder)
        pretext = trained_pretext(study, pool) if losses else None
        data = first(lambda: prepare(pool, study.prepare))
        prints, parents = marks(pool, pretraining=found.fingerprint), found.parents
        if pretext:
            prints, parents = prints | {"pretext": pretext.fingerprint}, parents | {"pretext": pretext.run.id}
        with running(study, "embed", prints, parents) as journal:
            kept = score_folder(study, found.fingerprint, "embed")
            features = scoring.embed(found.encoder, data, device_for(), kept)
            scores, doubt = _losses(study, data, pretext) if pretext else (None, None)
            if doubt:
                journal.note(doubt)
            place = out or journal.folder / NAME
            if rank() == 0:
                write(place, data, features, scores)
            journal.finish(summary={"volumes": len(data), "width": features.shape[1]})
    facts = {"run": journal.id, "volumes": len(data), "width": features.shape[1], "out": str(place)}
    facts |= {"pretext": pretext.run.id} if pretext else {}
    said = f"{len(data)} volumes embedded by {found.name}, {features.shape[1]} numbers each: {place}"
    left_out = len(pool.catalog) - data.catalog.volumes.select(whole().n_unique()).item()
    more = [f"{left_out} volumes are not of the encoder's axes"] if left_out else []
    more += [f"pretext losses by {pretext.run.id}"] if pretext else []
    more += [f"warning: {doubt}"] if doubt else []
    return Result(facts, (said, *more))


def _losses(study: Study, data: Prepared, pretext: Pretext) -> tuple[NDArray[np.float64], str | None]:
    """Return the losses of ``data``, ``N``, and why they may mean little."""
    method = load_method(pretext.recipe, data, study.seed, pretext.run.folder)
    kept = score_folder(study, pretext.fingerprint, "embed")
    losses = scoring.pretext_losses(method, data, device_for(), study.seed, kept)
    return losses, doubt_about(losses, method.chance_loss) if len(losses) else None


def write(out: Path, data: Prepared, features: NDArray[np.float32], losses: NDArray[np.float64] | None = None) -> None:
    """Write the table, atomically; ids are pseudonyms."""
    table = data.catalog.volumes.select(whole(), time_point(), "study", "patient", "role")
    column = pl.Series("embedding", features, pl.Array(pl.Float32, features.shape[1])).cast(pl.List(pl.Float32))
    beside = [] if losses is None else [pl.Series("pretext_loss", losses, pl.Float64)]
    with atomic(out) as partial:
        table.with_columns(column, *beside).write_parquet(partial)
