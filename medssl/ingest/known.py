"""What the pool knows of the files at hand, so that a second run reads only what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from medssl.core.errors import MedsslError
from medssl.dicom.deidentify import Pseudonyms
from medssl.ingest.headers import read_header
from medssl.ingest.sources import SourceFile
from medssl.pool.pool import Pool

NamedFile = tuple[str, SourceFile]  # under its source key


@dataclass(frozen=True)
class Known:
    """The pool's rows by source key, and its volumes by (patient, series)."""

    sizes: Mapping[str, int]
    sops: Mapping[str, str | None]
    volumes: Mapping[str, str | None]
    series: Mapping[tuple[str, str], frozenset[str]]

    @classmethod
    def of(cls, pool: Pool) -> Known:
        """Read the tables of ``pool``."""
        rows = pool.instances.select("source_key", "bytes", "sop", "volume").rows()
        series: dict[tuple[str, str], set[str]] = {}
        for patient, name, volume in pool.catalog.volumes.select("patient", "series", "volume").iter_rows():
            series.setdefault((patient, name), set()).add(volume)
        return cls(
            sizes={row[0]: row[1] for row in rows},
            sops={row[0]: row[2] for row in rows},
            volumes={row[0]: row[3] for row in rows},
            series={name: frozenset(volumes) for name, volumes in series.items()},
        )

    def sort(self, files: Sequence[SourceFile], pseudonyms: Pseudonyms) -> tuple[list[NamedFile], list[NamedFile]]:
        """Return the new files and the known ones under their source keys.

        A file whose size changed since, such as one that was repaired, is new, under a key of path and size.

        Raises:
            MedsslError: the pool knows other files under these names.
        """
        new: list[NamedFile] = []
        old: list[NamedFile] = []
        for file in files:
            key = pseudonyms.source(file.relative)
            if self.sizes.get(key, file.num_bytes) != file.num_bytes:
                key = pseudonyms.key.hmac("source", file.relative, str(file.num_bytes))
            (old if key in self.sizes else new).append((key, file))
        self._expect_same(old, pseudonyms)
        return new, old

    def _expect_same(self, files: Sequence[NamedFile], pseudonyms: Pseudonyms) -> None:
        """Look into one known file a folder: two exports often use the same names for other images."""
        folders: dict[PurePosixPath, NamedFile] = {}
        for key, file in files:
            if self.sops[key] is not None:
                folders.setdefault(PurePosixPath(file.relative).parent, (key, file))
        found = ((key, read_header(file)[2]) for key, file in folders.values())
        num = sum(ids is None or pseudonyms.uid("sop", ids.sop_uid) != self.sops[key] for key, ids in found)
        if num:
            raise MedsslError(
                f"{num} of {len(folders)} folders hold other files under names that this pool knows; give the folder "
                "above as the source, or rename the source folder, so that their names differ"
            )
