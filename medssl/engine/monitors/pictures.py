"""Pictures of what a run has learned: its task, what its encoder sees; on fixed images and keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from medssl.core.batch import Progress, Views
from medssl.core.collectives import rank
from medssl.engine.monitors.base import Observation, due, evaluating
from medssl.engine.pictures import Columns, Picture, encoder_pictures, tiles
from medssl.methods.base import Method

Draw = Callable[[Sequence[Picture], Sequence[str], Path, int], Path]


@dataclass
class PicturesMonitor:
    """Write a sheet of each kind below ``folder`` every ``every`` steps and after the last one.

    ``batch`` holds fixed images in the views that scoring sees; ``examples`` are the columns of a sheet of training
    views, written at once. ``draw`` writes pictures (``Y X`` or ``Y X 3`` in [0, 1]) with a caption each, so many a
    row, to a file. Every process computes, for sharded parameters are gathered by all; the first one writes.
    """

    method: Method[Any]
    batch: Views
    examples: Columns
    draw: Draw
    folder: Path
    every: int
    _begun: bool = field(default=False, init=False)

    def after_step(self, model: nn.Module, progress: Progress, figures: Mapping[str, float]) -> Observation | None:
        """Return the files that were written."""
        sheets: dict[str, Columns] = {} if self._begun else {"views.png": self.examples}
        self._begun = True
        if due(progress, self.every):
            with evaluating(self.method):
                seen = encoder_pictures(self.method.export(), self.batch.images[0].float())
                made = {"task": self.method.pictured(self.batch), **seen}
            sheets |= {f"{kind}-{progress.step:08d}.png": columns for kind, columns in made.items() if columns}
        if not sheets or rank() > 0:
            return None
        return Observation(pictures=tuple(self._write(name, columns) for name, columns in sheets.items()))

    def _write(self, name: str, columns: Columns) -> Path:
        pictures, captions, width = tiles(columns)
        return self.draw(pictures, captions, self.folder / name, width)
