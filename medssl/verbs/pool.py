"""``medssl pool info | verify | pull``: what a pool holds, whether it is whole, a copy of a remote one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from medssl.core.errors import CorruptShard
from medssl.core.progress import bar, stages
from medssl.pool import remote
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


def pull(url: str, folder: Path, *, most_gb: float | None = None) -> Result:
    """Copy a remote pool, or bring the copy in ``folder`` up to date; with ``most_gb`` shards come when they are read.

    Raises:
        PoolError: no pool there, or ``folder`` holds something else.
    """
    with stages() as shown:
        made = remote.pull(
            url,
            folder,
            None if most_gb is None else round(most_gb * 1e9),
            lambda done, total: shown("MB", done // 10**6, total // 10**6),
        )
    pool, total = Pool.open(folder), sum(made.shards.values())
    how = "" if most_gb is None else f", fetched as they are read, at most {most_gb:g} GB at a time"
    facts = {"pool": str(folder), "volumes": len(pool.catalog), "bytes": total, "most_bytes": made.most_bytes}
    return Result(facts, (f"{folder}: a copy of {len(pool.catalog)} volumes in {total / 1e9:.3g} GB of shards{how}",))


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
