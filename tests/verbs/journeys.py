"""What journeys over the small pool share: a study that takes seconds, another like it, answers, spoilt volumes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from small_pool import KEY, disc

from medssl.core.types import Role
from medssl.data.prepare import prepare
from medssl.pool.pool import Pool
from medssl.study import Study, load_study

FAST = ["loop.epochs=2", "tasks.shape.loop.epochs=2", "selection.pretext.loop.epochs=1", "evaluation.bootstrap=100"]
UNMEASURED = [  # a verdict on the encoder's features alone
    "evaluation.audit.images=0",
    "evaluation.pictures.images=0",
    "evaluation.gate.min_test_patients_per_class=1000",
]


def changed(study: Study, *overrides: str) -> Study:
    """Return the study of the same file with ``overrides``."""
    return load_study(study.pool.parent / "small.yaml", [*FAST, *overrides])


def answer(worklist: Path, out: Path) -> Path:
    """Fill in a worklist as somebody who knows the discs would."""
    truth = {KEY.hmac("study", str(p), str(s)): disc(p, s)[1] for p in range(60) for s in range(2)}
    with worklist.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    with out.open("w", newline="") as handle:
        table = csv.DictWriter(handle, list(rows[0]))
        table.writeheader()
        table.writerows(row | {"shape": truth[row["study"]]} for row in rows)
    return out


def roles_of(study: Study) -> dict[str, str]:
    """Return the role of every study."""
    return dict(Pool.open(study.pool).catalog.volumes.select("study", "role").iter_rows())


def flip(shard: Path, row: Mapping[str, Any]) -> None:
    """Flip a byte in the middle of a volume of ``shard``."""
    content = bytearray(shard.read_bytes())
    content[row["offset"] + row["length"] // 2] ^= 1
    shard.write_bytes(bytes(content))


def spoil(study: Study, *roles: Role) -> None:
    """Flip a byte in every prepared volume of these roles: whoever reads one of them fails."""
    data = prepare(Pool.open(study.pool), study.prepare)
    for row in data.catalog.role(*roles).volumes.iter_rows(named=True):
        flip(data.shards / "00000.tar", row)
