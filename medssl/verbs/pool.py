"""``medssl pool info | verify``: what a pool holds, and whether it is whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from medssl.core.errors import CorruptShard
from medssl.core.progress import bar
from medssl.pool.pool import Pool, PoolInfo
from medssl.verbs.result import Result


def info(path: Path) -> Result:
    """Count patients, studies, volumes, outcomes and labels."""
    counted = Pool.open(path).info()
    return Result(asdict(counted), tables(counted))


def verify(path: Path) -> Result:
    """Check checksums and catalog.

    Raises:
        CorruptShard: something is wrong; the first problem is named, the others are counted.
    """
    pool = Pool.open(path)
    with bar("verify", len(pool.catalog)) as shown:
        problems = pool.verify(lambda num: shown.advance(int(num)))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CorruptShard(f"{path}: {problems[0]}{more}")
    facts = {"volumes": len(pool.catalog), "files": pool.instances.height, "problems": []}
    return Result(facts, (f"{path}: {len(pool.catalog)} volumes of {pool.instances.height} files, all whole",))


def tables(counted: PoolInfo) -> tuple[Table | str, ...]:
    """Return what a pool holds as rich tables."""
    amounts = Table("role", "modality", "patients", "studies", "volumes", title="pool", title_justify="left")
    for a in counted.amounts:
        amounts.add_row(a.role, a.modality or "unknown", str(a.patients), str(a.studies), str(a.volumes))
    outcomes = Table("outcome", "reason", "files", title="input files", title_justify="left")
    for o in counted.outcomes:
        outcomes.add_row(o.outcome, o.reason or "", str(o.files))
    labels = Table("task", "value", "role", "patients", "volumes", title="labels", title_justify="left")
    for one in counted.labels:
        labels.add_row(one.task, one.value, one.role, str(one.patients), str(one.volumes))
    size = f"{counted.input_bytes / 1e6:.1f} MB in, {counted.stored_bytes / 1e6:.1f} MB stored"
    whole = f"{counted.patients} patients, {counted.studies} studies, {counted.volumes} volumes; {size}"
    return (amounts, outcomes, *((labels,) if counted.labels else ()), whole)
