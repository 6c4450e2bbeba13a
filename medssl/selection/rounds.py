"""Rounds on disk: ``rounds/<study name>/<n>/`` holds the worklist, its pictures and, for n = 0, the frozen ranking.

Answers go into the pool as labels; a round keeps what was asked, never what was answered.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from medssl.core.errors import SelectionError
from medssl.core.files import atomic
from medssl.selection.strategies.base import FrozenOrder
from medssl.selection.worklist import Worklist

FROZEN = "frozen.parquet"
SCHEMA = {"study": pl.String, "score": pl.Float64, "batch": pl.Int64}


@dataclass(frozen=True)
class Rounds:
    """The rounds of one study file; a round's folder appears whole or not at all."""

    folder: Path

    @property
    def next_round(self) -> int:
        """The number of the round that comes next; 0 at the start."""
        taken = [int(p.name) for p in self.folder.iterdir() if p.name.isdigit()] if self.folder.is_dir() else []
        return max(taken, default=-1) + 1

    def open(
        self,
        worklist: Worklist,
        frozen: FrozenOrder | None = None,
        illustrate: Callable[[Path], None] = lambda folder: None,
    ) -> Path:
        """Write the next round and return its folder.

        Args:
            worklist: pseudonyms only.
            frozen: the ranking; kept by round 0 only.
            illustrate: adds pictures to the folder before it appears.

        Raises:
            SelectionError: a study was offered in an earlier round, or another process opened this round.
        """
        number = self.next_round
        again = self.offered() & set(worklist.studies)
        if again:
            raise SelectionError(f"{len(again)} of {len(worklist.rows)} studies were offered in an earlier round")
        folder, partial = self.folder / str(number), self.folder / f".{number}.{os.getpid()}.partial"
        try:
            worklist.write(partial)
            illustrate(partial)
            if frozen is not None and number == 0:
                columns = {"study": frozen.studies, "score": frozen.scores, "batch": frozen.batches}
                with atomic(partial / FROZEN) as file:
                    pl.DataFrame(columns, schema=SCHEMA).write_parquet(file)
            try:
                partial.rename(folder)
            except OSError:
                raise SelectionError(f"round {number} was opened by another process meanwhile; run again") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def frozen(self) -> FrozenOrder | None:
        """Return the ranking that round 0 kept; None where its strategy needs none."""
        path = self.folder / "0" / FROZEN
        if not path.exists():
            return None
        table = pl.read_parquet(path)
        return FrozenOrder(tuple(table["study"]), tuple(table["score"]), tuple(table["batch"]))

    def worklist(self, number: int) -> Worklist:
        """Return the worklist of a round.

        Raises:
            SelectionError: there is no such round.
        """
        folder = self.folder / str(number)
        if not folder.is_dir():
            raise SelectionError(f"there is no round {number}; the next one is {self.next_round}")
        return Worklist.read(folder)

    def offered(self) -> frozenset[str]:
        """Return every study on a worklist so far, pilot included; none is offered again."""
        return frozenset(s for number in range(self.next_round) for s in self.worklist(number).studies)
