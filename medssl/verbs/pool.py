"""``medssl pool info | verify | pull``: what a pool holds, whether it is whole, a copy of a remote one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table

from medssl.core.errors import CorruptShard, MedsslError
from medssl.core.progress import bar, stages
from medssl.core.types import Role
from medssl.pool import remote
from medssl.pool.info import Histogram, Words
from medssl.pool.pool import Pool, PoolInfo
from medssl.review.pool_page import COLUMNS, Example, pool_page
from medssl.review.reasons import of_reason, of_word
from medssl.verbs.result import Result

EXAMPLES = 12  # a modality
MOST_MODALITIES = 12  # with examples
MOST_LINES = 12  # of a table in the terminal
LARGEST_EXAMPLE = 1 << 30  # bytes of voxels, which a picture is not worth decoding beyond
BLOCKS = " ▁▂▃▄▅▆▇█"


def info(path: Path, *, html: Path | None = None) -> Result:
    """Count patients, studies, volumes, outcomes, labels and what the volumes are; write a page where asked.

    Raises:
        MedsslError: ``html`` is a folder.
    """
    if html is not None and html.is_dir():
        raise MedsslError(f"--html {html}: a folder, expected a file such as pool.html")
    pool = Pool.open(path)
    counted = pool.info()
    shown: list[RenderableType] = [*tables(counted), *_details(counted)]
    if html is not None:
        shown.append(f"page: {pool_page(counted, _examples(pool), html, path.resolve().name)}")
    return Result(asdict(counted) | {"page": None if html is None else str(html)}, tuple(shown))


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
    outcomes = Table("outcome", "reason", "files", "what it means", title="input files", title_justify="left")
    for o in counted.outcomes:
        outcomes.add_row(o.outcome, o.reason or "", str(o.files), of_reason(o.outcome, o.reason))
    labels = Table("task", "value", "role", "patients", "volumes", title="labels", title_justify="left")
    for one in counted.labels:
        labels.add_row(one.task, one.value, one.role, str(one.patients), str(one.volumes))
    size = f"{counted.input_bytes / 1e6:.1f} MB in, {counted.stored_bytes / 1e6:.1f} MB stored"
    whole = f"{counted.patients} patients, {counted.studies} studies, {counted.volumes} volumes; {size}"
    return (amounts, outcomes, *((labels,) if counted.labels else ()), whole)


def _details(counted: PoolInfo) -> Iterator[RenderableType]:
    """Yield what the volumes are: their quality first, then words, then histograms."""
    for column, title in {"quality": "Quality", "flags": "Flags", **COLUMNS}.items():
        found = counted.words[column]
        if any(one.word for one in found.shares):
            yield _words(title, found, explained=column in ("quality", "flags"))
    histograms = [line for one in counted.histograms if one.counts for line in _histogram(one)]
    if histograms:
        yield Group(*histograms)


def _words(title: str, found: Words, *, explained: bool) -> Table:
    table = Table("value", "patients", "volumes", title=title.lower(), title_justify="left")
    if explained:
        table.add_column("what it means")
    for one in found.shares[:MOST_LINES]:
        said = (of_word(one.word),) if explained else ()
        table.add_row(one.word or ("none" if explained else "not known"), str(one.patients), str(one.volumes), *said)
    if more := found.others + len(found.shares[MOST_LINES:]):
        table.add_row(f"and {more} more", "", "")
    return table


def _histogram(one: Histogram) -> Iterator[str]:
    bars = "".join(BLOCKS[ceil(8 * num / max(one.counts))] for num in one.counts)
    unknown = f", {one.unknown} without" if one.unknown else ""
    yield f"{one.name:>14} {one.edges[0]:8.4g} {bars} {one.edges[-1]:.4g} {one.unit}{unknown}"


def _examples(pool: Pool) -> dict[str, list[Example]]:
    """Return pictures of a few dev volumes of each modality: of different patients and series, the same ones each time.

    Held-out patients are not looked at.
    """
    volumes, reader = pool.catalog.volumes.with_row_index("row"), pool.reader()
    is_prepared = pool.manifest.settings.prepare is not None
    dev = volumes.filter(pl.col("role") == Role.DEV).filter(pl.lit(not is_prepared) & pl.col("axes").is_not_null())
    dev = dev.filter(pl.col("shape").list.eval(pl.element().product()).list.first() * 4 < LARGEST_EXAMPLE)
    found: dict[str, list[Example]] = {}
    for (modality,), part in dev.group_by(pl.col("modality").fill_null("not known")):
        some = part.sort("volume").unique("patient", keep="first", maintain_order=True)[:EXAMPLES]
        if some.height < EXAMPLES:
            others = part.unique("series", keep="first", maintain_order=True).sort("volume")
            some = pl.concat([some, others.join(some, on="volume", how="anti", maintain_order="left")])[:EXAMPLES]
        found[str(modality)] = [_example(row, reader.read(row["row"])) for row in some.iter_rows(named=True)]
    return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:MOST_MODALITIES])


def _example(row: Mapping[str, Any], voxels: Any) -> Example:
    from medssl.data.prepare import PrepareConfig, picture  # torch, which counting does without

    shape = " x ".join(map(str, row["shape"]))
    facts = ", ".join(filter(None, [row["body_part"], row["view"], shape]))
    return Example(row["volume"], row["role"], facts, picture(voxels, row, PrepareConfig()))
