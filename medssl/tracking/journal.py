"""The journal of a run: a local file of JSON lines, written whatever becomes of the tracking server."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from medssl.core.errors import EXIT_PREEMPTED, MedsslError, Preempted, RunError
from medssl.core.files import atomic
from medssl.core.score import Score
from medssl.tracking.records import JOURNAL, encode, read_run

# Absolute paths and addresses may hold a user's name.
PLACE = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\",;()]+|(?<![\w.])/[^\s'\",;()]+")
CAN_WAIT = frozenset({"metrics", "note", "artifact"})  # lines that can wait until there is room
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
MOST_WAITING = 64 << 20  # bytes
Status = Literal["finished", "failed", "preempted"]


class Journal:
    """A run that is being written; use it as a context manager, so that it always says how it ended.

    Example:
        >>> with Journal.start(Path("work"), "pretrain", "chest_xray", {"seed": 0}) as journal:
        ...     journal.metrics(10, {"loss": 0.7})
        ...     journal.finish(summary={"loss": 0.7})
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished = False
        self.quotes = True  # what our own errors say
        self._writes = True
        self._waiting = b""  # for room on the disk

    @property
    def id(self) -> str:
        """The name of the run: ``<kind>-<UTC day>-<UTC time>-<4 hex>``."""
        return self.folder.name

    @classmethod
    def start(
        cls,
        workspace: Path,
        kind: str,
        study: str,
        params: Mapping[str, Any],
        *,
        fingerprints: Mapping[str, str] = {},
        parents: Mapping[str, str] = {},
    ) -> Self:
        """Open a new run under ``workspace/runs``.

        Args:
            workspace: where runs are kept.
            kind: ingest, pretrain, evaluate, select, import, finetune, predict, pretext or demo.
            study: the study's name.
            params: the resolved study, nested as it is.
            fingerprints: name → fingerprint of what went in (pool, encoder …); `latest` finds runs by them.
            parents: name → id of the runs that this one builds on.
        """
        (workspace / "runs").mkdir(parents=True, exist_ok=True)
        journal = cls(_new_folder(workspace / "runs", kind))
        links = {"fingerprints": fingerprints, "parents": parents}
        journal._write("start", id=journal.id, kind=kind, study=study, params=params, **links)
        return journal

    @classmethod
    def listening(cls, folder: Path) -> Self:
        """Return a journal that writes nothing: of the processes that train beside the one that writes."""
        journal = cls(folder)
        journal._writes = False
        return journal

    @classmethod
    def resume(cls, folder: Path) -> Self:
        """Open a run again; its next metrics supersede the earlier ones from their step on.

        Raises:
            RunError: ``folder`` holds no run.
        """
        read_run(folder)
        journal = cls(folder)
        path = folder / JOURNAL
        if not path.read_bytes().endswith(b"\n"):
            with path.open("ab") as handle:
                handle.write(b"\n")  # closes a line that a crash tore
        journal._write("resume")
        return journal

    def metrics(self, step: int, values: Mapping[str, float | Score]) -> None:
        """Record figures at an optimiser step."""
        self._write(
            "metrics", step=step, values={k: v if isinstance(v, Score) else float(v) for k, v in values.items()}
        )

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a file that belongs to the run; one outside the run folder is copied into ``folder`` there.

        Raises:
            RunError: no such file.
        """
        if not self._writes:
            return
        if not path.is_file():
            raise RunError(f"run {self.id}: artifact {path.name!r} is not a file")
        inside = path.resolve()
        if not inside.is_relative_to(self.folder.resolve()):
            inside = self.folder.resolve() / folder / path.name
            with atomic(inside) as partial:
                shutil.copyfile(path, partial)
        self._write("artifact", path=inside.relative_to(self.folder.resolve()).as_posix(), folder=folder)

    def note(self, text: str) -> None:
        """Record a warning or an alarm that somebody should see when the run is reviewed."""
        self._write("note", text=text)

    def finish(self, status: Status = "finished", summary: Mapping[str, float | str | Score] = {}) -> None:
        """Record how the run ended, and the few figures that matter."""
        self._write("finish", status=status, summary=summary)
        self.finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.finished:
            return
        if error is not None:
            # The text of any other exception may quote a header; our own never names a patient, but may name a place.
            known = isinstance(error, MedsslError) and self.quotes
            self.note(f"{type(error).__name__}: {PLACE.sub('…', str(error))}" if known else type(error).__name__)
        is_preempted = isinstance(error, Preempted) or (isinstance(error, SystemExit) and error.code == EXIT_PREEMPTED)
        with nullcontext() if error is None else suppress(RunError):  # which would hide what ended the run
            self.finish("finished" if error is None else "preempted" if is_preempted else "failed")

    def _write(self, line: str, /, **fields: Any) -> None:
        if not self._writes:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = json.dumps({"type": line, "time": now} | encode(fields), allow_nan=False) + "\n"
        self._waiting += text.encode()
        try:
            with (self.folder / JOURNAL).open("ab", buffering=0) as handle:
                _append(handle, self._waiting)
                if line != "metrics":
                    os.fsync(handle.fileno())
        except OSError as error:
            if line in CAN_WAIT and error.errno in NO_ROOM and len(self._waiting) < MOST_WAITING:
                return  # a full disk stops no training; what waits is written as soon as there is room
            raise RunError(f"run {self.id}: its journal cannot be written ({error.strerror}); make room") from None
        self._waiting = b""


def _append(handle: FileIO, lines: bytes) -> None:
    """Write all of ``lines`` or nothing: on a full disk a part of them would be taken."""
    end = os.fstat(handle.fileno()).st_size
    try:
        if handle.write(lines) < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.ftruncate(handle.fileno(), end)
        raise


def _new_folder(runs: Path, kind: str) -> Path:
    while True:
        folder = runs / f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
