"""``medssl pool remove``: patients erased from a pool for good, and what else was made of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from medssl.core.errors import MedsslError
from medssl.core.types import Role
from medssl.dicom.deidentify import Pseudonyms, is_placeholder
from medssl.ingest.work import Work
from medssl.pool.catalog import whole
from medssl.pool.key import Key, default_path
from medssl.pool.pool import Pool
from medssl.pool.removal import Removed
from medssl.tracking.records import RunRecord, read_runs
from medssl.verbs.result import Result

TRAINING = ("pretrain", "pretext", "finetune")
USING = (*TRAINING, "evaluate", "select", "embed", "predict")
BEYOND = (
    "not reached from here: copies of this pool, backups and snapshots, linkage files, exports, and the archive that "
    "the scans came from"
)


def remove(
    path: Path,
    names: Sequence[str],
    *,
    listed: Path | None = None,
    issuer: str = "",
    key_file: Path | None = None,
    workspace: Path = Path("workspace"),
) -> Result:
    """Erase patients: volumes, rows, labels, prepared stores, and kept scores in ``workspace``.

    Args:
        path: the pool.
        names: original patient ids (of ``issuer``), or pseudonyms, which need no key.
        listed: a file with more of them, one a line.
        issuer: the IssuerOfPatientID of the ids.
        key_file: the pool's key; default as for ingest, but never made here.
        workspace: whose runs and worklists are looked through.

    Raises:
        MedsslError: no name, one that stands for nobody, or one that is not in the pool, or an ingest of it has not
            finished; nothing was removed.
    """
    pool = Pool.open(path)
    _expect_no_ingest(pool)
    patients = _patients(pool, [*names, *_read(listed)], issuer, key_file)
    before, volumes = pool.fingerprints.images, pool.catalog.volumes.filter(pl.col("patient").is_in(patients))
    removed = pool.remove(patients)
    num_scores = _forget_scores(workspace, volumes["volume"])
    runs, rounds = _runs(workspace, path, before), _rounds(workspace, removed.studies)
    trained = [r.id for r in runs if r.kind in TRAINING and Role.DEV in removed.roles]
    used = [r.id for r in runs if r.id not in trained]
    facts = {**asdict(removed), "scores": num_scores, "trained": trained, "used": used, "rounds": rounds}
    said = _said(removed, num_scores)
    if trained:
        said.append(
            f"models of these runs were, or may have been, trained on them, here and in MLflow: {', '.join(trained)}; "
            "a model cannot forget: train anew, then delete these"
        )
    if used:
        said.append(f"these runs hold, or may hold, figures, scores or pictures of them: {', '.join(used)}")
    if rounds:
        said.append(f"these worklists name their studies and show them; delete the folders: {', '.join(rounds)}")
    return Result(facts, (*said, BEYOND))


def _expect_no_ingest(pool: Pool) -> None:
    """Refuse while a work folder may hold headers and voxels of anybody."""
    work = Work.beside(pool.path)
    if work.folder.exists():
        raise MedsslError(
            f"{work.folder}: the work of an ingest that has not finished, which may hold these patients, too; let it "
            "finish, or delete that folder, then remove; nothing was removed"
        )


def _patients(pool: Pool, names: Sequence[str], issuer: str, key_file: Path | None) -> list[str]:
    """Return pseudonyms; which name was wrong is told by its number, never by what it says."""
    if not names:
        raise MedsslError("no patient named; give --patient ID, or --file with one a line")
    known = {*pool.catalog.volumes["patient"], *pool.instances["patient"]}
    found: dict[str, None] = {}
    key: Key | None = None
    for number, name in enumerate(names, 1):
        pseudonym = name
        if name not in known:
            if is_placeholder(name):
                raise MedsslError(f"patient number {number}: this id stands for nobody; give the pseudonym instead")
            key = key or _key(pool, key_file)
            pseudonym = Pseudonyms(key).patient(name, issuer, "")
        if pseudonym not in known:
            raise MedsslError(
                f"{pool.path}: patient number {number} of {len(names)} is not in it under this id and issuer "
                f"({'given' if issuer else 'none'}); nothing was removed"
            )
        found[pseudonym] = None
    return list(found)


def _key(pool: Pool, key_file: Path | None) -> Key:
    key = Key.load(key_file or default_path())
    Pool.open(pool.path, key)  # refuses another one
    return key


def _read(listed: Path | None) -> list[str]:
    try:
        text = listed.read_text(encoding="utf-8-sig") if listed is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise MedsslError(f"{listed}: cannot be read ({type(error).__name__}); expected one patient a line") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _forget_scores(workspace: Path, volumes: pl.Series) -> int:
    """Delete the parts of kept scores that are of ``volumes``; they are computed again where they are needed."""
    num = 0
    for path in (workspace / "scores").rglob("*.parquet"):
        if pl.read_parquet(path, columns=["volume"]).select(whole())["volume"].is_in(volumes.implode()).any():
            path.unlink(missing_ok=True)
            num += 1
    return num


def _runs(workspace: Path, pool: Path, before: str) -> list[RunRecord]:
    """Return the runs that used the pool as it was, or as an ingest of this workspace left it at any time."""
    records = read_runs(workspace)
    ingested = {r.fingerprints.get("pool.images") for r in records if r.kind == "ingest" and r.study == pool.name}
    return [r for r in records if r.kind in USING and r.fingerprints.get("pool.images") in {*ingested, before}]


def _rounds(workspace: Path, studies: Collection[str]) -> list[str]:
    found = []
    for path in sorted((workspace / "rounds").rglob("worklist.jsonl")):
        text = path.read_text(encoding="utf-8")
        if any(study in text for study in studies):
            found.append(str(path.parent.relative_to(workspace)))
    return found


def _said(removed: Removed, num_scores: int) -> list[str]:
    return [
        f"erased {removed.patients} patients: {removed.volumes} volumes, {removed.files} input files, "
        f"{removed.labels} labels",
        f"{removed.shards} shards written without them; deleted, to be made anew: {removed.stores} prepared stores, "
        f"{num_scores} files of scores",
    ]
