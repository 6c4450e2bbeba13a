"""How far pools are from each other, to an untrained encoder: where transfer can be hoped for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.keys import generator
from medssl.core.types import Role
from medssl.data.covers import Cover
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.engine.distributed import device_for
from medssl.engine.scoring import embed
from medssl.evaluation.domains import LEAST, Domain, cross_domain_table
from medssl.models.encoders.base import Encoder
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.verbs.context import FoundEncoder, score_folder

HERE = "this pool"


def domain_table(study: Study, found: FoundEncoder, everything: Prepared) -> list[dict[str, Any]]:
    """Return the distance from this pool and its source to every other pool of the evaluation, and back.

    Each pool is at most ``audit.images`` of its images (of this one, dev ones), whatever their brightness and contrast;
    one with too few is left out.
    """
    config = study.evaluation
    named = config.external | ({"source": config.audit.source} if config.audit.source else {})
    if not named:
        return []
    encoder = found.untrained(everything.geometry, study.seed)
    pools = {HERE: everything.role(Role.DEV)} | {
        name: prepare(Pool.open(folder), study.prepare) for name, folder in named.items()
    }
    kept = score_folder(study, found.fingerprint, "audit", "domains")
    seen = {name: domain(encoder, data, study, kept / name) for name, data in pools.items()}
    enough = {name: one for name, one in seen.items() if is_enough(one, study.seed)}
    table = cross_domain_table(enough, seed=study.seed, num_resamples=config.bootstrap)
    return [
        {"source": source, "target": target, "is_far": one.is_far, **asdict(one)}
        for (source, target), one in table.items()
    ]


def domain(encoder: Encoder, data: Prepared, study: Study, kept: Path) -> Domain:
    """Return what an encoder sees of some images of ``data``, drawn by the study's seed, whatever their contrast."""
    num = min(len(data), study.evaluation.audit.images)
    drawn = np.sort(generator("domain", study.seed).permutation(len(data))[:num])
    part = data.of(data.catalog.only(data.catalog.volumes["volume"].gather(drawn).to_list()))
    features = embed(encoder, part.covered(Cover.CONTRAST), device_for(), kept)
    return Domain(features, part.catalog.volumes["patient"].to_numpy())


def is_enough(found: Domain, seed: int) -> bool:
    """Return whether a distance from here can be measured: it takes images of either half of its patients."""
    return len(found.features) >= 2 * LEAST and min(len(half.features) for half in found.halves(seed)) >= LEAST
