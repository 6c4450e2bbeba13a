"""``medssl pool export-nifti``: volumes of a pool as NIfTI files, for viewers and other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from medssl.core.errors import PoolError
from medssl.core.progress import bar
from medssl.core.types import Role
from medssl.ingest.export import export_nifti as write
from medssl.pool.pool import Pool
from medssl.verbs.result import Result


def export_nifti(
    path: Path, out: Path, *, volumes: Sequence[str] = (), studies: Sequence[str] = (), roles: Sequence[str] = ()
) -> Result:
    """Write the volumes that are all of what is asked for; all of them if nothing is.

    Raises:
        PoolError: the pool has no such volume or study, there is no such role, or ``out`` holds something else.
    """
    pool = Pool.open(path)
    chosen = pool.catalog.volumes
    for column, asked in (("volume", volumes), ("study", studies), ("role", roles)):
        known = set(Role) if column == "role" else set(pool.catalog.volumes[column])
        if unknown := sorted(set(asked) - known):
            what = f"expected one of {', '.join(Role)}" if column == "role" else "expected a pseudonym of this pool"
            raise PoolError(f"{column} {unknown[0]!r}: {what}")
        chosen = chosen.filter(pl.col(column).is_in(list(asked))) if asked else chosen
    if not chosen.height:
        raise PoolError(f"{path}: no volume is all that, expected --volume, --study and --role to leave some")
    num_new = 0
    with bar("export", chosen.height) as shown:
        for _, is_new in write(pool, chosen.sort("shard", "offset"), out):
            num_new += is_new
            shown.advance()
    before = f", {chosen.height - num_new} there before" if num_new < chosen.height else ""
    facts = {"folder": str(out), "volumes": chosen.height, "written": num_new}
    return Result(facts, (f"{out}: {num_new} NIfTI files written{before}",))
