"""The finished chunks of a scoring job: Parquet files that appear whole and say exactly what they were made from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from medssl.core.config import fingerprint
from medssl.core.files import atomic
from medssl.core.progress import stderr


@dataclass(frozen=True)
class Parts:
    """Chunks of ``name`` in ``folder``; ``mark`` is what the values depend on beside the volumes' own bytes."""

    folder: Path
    name: str
    mark: str

    def read(self, chunk: int, volumes: pl.DataFrame) -> NDArray[Any] | None:
        """Return the values of ``volumes``, in their order; None where they were never finished, or are of others.

        A damaged part is named on stderr and counts as unfinished.
        """
        path = self.path(chunk)
        if not path.is_file():
            return None
        try:
            table = pq.read_table(path)
            about = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
            is_ours = about["mark"] == self._mark(volumes)
            values = _array(table.column(self.name).combine_chunks())
            is_whole = about["sha256"] == _digest(values)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            _say_damaged(path, type(error).__name__)
            return None
        if is_ours and not is_whole:
            _say_damaged(path, "checksum")
        return values if is_ours and is_whole else None

    def write(self, chunk: int, volumes: pl.DataFrame, values: NDArray[Any]) -> None:
        """Keep the values of ``volumes``, ``N`` or ``N D``."""
        column = pa.array(values.reshape(-1))
        if values.ndim > 1:
            column = pa.FixedSizeListArray.from_arrays(column, values.shape[1])
        about = {"mark": self._mark(volumes), "chunk": str(chunk), "sha256": _digest(values)}
        table = pa.table({"volume": volumes["volume"].to_arrow(), self.name: column}).replace_schema_metadata(about)
        with atomic(self.path(chunk)) as partial:
            pq.write_table(table, partial, compression="none", use_dictionary=False)  # features do not shrink

    def path(self, chunk: int) -> Path:
        """Return the file of a chunk."""
        return self.folder / f"{self.name}-{chunk:06d}.parquet"

    def _mark(self, volumes: pl.DataFrame) -> str:
        return fingerprint(self.mark, volumes.select("volume", "sha256").rows())


def weights_mark(model: nn.Module) -> str:
    """Return a hash of every weight and buffer, and of the modules that hold them."""
    found = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _array(column: Any) -> NDArray[Any]:
    """Return ``N``, or ``N D`` from lists of one length."""
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column)
    return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)


def _say_damaged(path: Path, why: str) -> None:
    stderr.print(f"{path.name} is damaged ({why}) and is computed again", style="yellow", soft_wrap=True)


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
