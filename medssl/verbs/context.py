"""What most verbs begin with: the pool of a study, its runs, and the encoder that fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.core.collectives import rank
from medssl.core.config import Config, fingerprint
from medssl.core.errors import EncoderError, TrainingError
from medssl.core.keys import hash_words
from medssl.core.types import Geometry
from medssl.data.prepared import Prepared
from medssl.engine import checkpoint
from medssl.engine.distributed import told
from medssl.methods.base import METHODS, Method
from medssl.models.build import build_encoder, load_encoder, seeded
from medssl.models.encoders.base import ENCODERS, Encoder
from medssl.pool.lock import locked
from medssl.pool.pool import Pool
from medssl.pool.remote import bounded
from medssl.study import Recipe, Study
from medssl.tracking.journal import Journal
from medssl.tracking.mlflow_sink import MlflowSink
from medssl.tracking.records import RunRecord, latest, read_runs

UNTRAINED = 3  # encoders with random weights, over whose luck figures are averaged
BEST = ":best"  # after a run or folder: its weights of the best kNN, in place of the last ones
PRIVATE = ("pool", "workspace", "tracking", "init")  # paths may hold a user's name, an address a password


@dataclass(frozen=True)
class FoundEncoder:
    """A pretrained encoder and where it came from.

    ``run`` is None for a folder outside the workspace; ``images``, the fingerprint of those that the run was given, is
    then empty. The weights of the best kNN have a ``fingerprint``, and so verdicts and scores, of their own.
    """

    encoder: Encoder
    about: Mapping[str, Any]
    fingerprint: str
    run: str | None
    images: str = ""
    is_best: bool = False

    @property
    def name(self) -> str:
        """What a result calls it."""
        return (self.run or self.fingerprint) + (BEST if self.is_best else "")

    @property
    def parents(self) -> dict[str, str]:
        """The link from a run that uses this encoder to the run that made it."""
        return {"pretrain": self.run} if self.run else {}

    def untrained(self, geometry: Geometry, seed: int, which: int = 0) -> Encoder:
        """Return the same architecture with random weights: what pretraining is to be better than.

        Some random weights are luckier than others, so there are as many as one likes, numbered by ``which``.
        """
        name, seed = self.about["name"], hash_words("untrained", seed, which) if which else seed
        return build_encoder(name, ENCODERS.load(name).config_class.parse(self.about["config"]), geometry, seed=seed)


@contextmanager
def running(
    study: Study,
    kind: str,
    fingerprints: Mapping[str, str],
    parents: Mapping[str, str] | None = None,
    *,
    recipe: Recipe | None = None,
    resumed: Path | None = None,
) -> Iterator[Journal]:
    """Open a journalled run that MLflow follows; it always says how it ended. Of several processes, rank 0 writes.

    Its parameters are the resolved study, with ``recipe`` (a pretext's) in the place of the study's own.
    """
    if rank() != 0:
        yield Journal.listening(told(Path()))
        return
    started = _started(study, kind, fingerprints, parents, recipe or study) if resumed is None else None
    folder = started.folder if started is not None else resumed or Path()
    with locked(folder / ".lock", "writing this run"):
        journal = started or Journal.resume(folder)
        told(journal.folder)
        with sink(study).following(journal), journal:
            yield journal


def _started(
    study: Study, kind: str, fingerprints: Mapping[str, str], parents: Mapping[str, str] | None, own: Study | Recipe
) -> Journal:
    """Begin the journal of a new run."""
    params = study.data() | {name: getattr(own, name).data() for name in ("encoder", "method", "loop")}
    params = {k: v for k, v in params.items() if k not in PRIVATE}
    params["evaluation"]["external"] = sorted(study.evaluation.external)  # their names, not where they are
    params["evaluation"]["audit"]["source"] = study.evaluation.audit.source is not None
    came_from = latest(study.workspace, "ingest", ("pool.images", fingerprints["pool.images"]))
    linked = {**({"ingest": came_from.id} if came_from else {}), **(parents or {})}
    return Journal.start(study.workspace, kind, study.name, params, fingerprints=fingerprints, parents=linked)


def unfinished(study: Study, kind: str, mark: tuple[str, str]) -> RunRecord:
    """Return the latest stopped run of ``kind`` with a checkpoint, one that carries ``mark`` if there is one.

    Raises:
        TrainingError: there is none.
    """
    runs = _unfinished(study, kind)
    own = [r for r in runs if r.fingerprints.get(mark[0]) == mark[1]]
    if not runs:
        raise TrainingError(
            f"--resume: no unfinished {kind} run of {study.name} with a checkpoint in {study.workspace}; leave it out"
        )
    return (own or runs)[-1]


def is_unfinished(study: Study, kind: str) -> bool:
    """Return whether a run of ``kind`` was stopped and left a checkpoint."""
    return bool(_unfinished(study, kind))


def was_stopped(study: Study, kind: str, mark: tuple[str, str]) -> bool:
    """Return whether the run that `unfinished` finds carries ``mark`` and said itself that it was stopped.

    One that said nothing was killed or is still training, and nobody asked to go on with it.
    """
    own = [r for r in _unfinished(study, kind) if r.fingerprints.get(mark[0]) == mark[1]]
    return bool(own) and own[-1].status == "preempted"


def _unfinished(study: Study, kind: str) -> list[RunRecord]:
    runs = [r for r in read_runs(study.workspace) if (r.kind, r.study) == (kind, study.name) and r.status != "finished"]
    return [r for r in runs if checkpoint.kept(r.folder)]


def sink(study: Study) -> MlflowSink:
    """Return the MLflow experiment of a study."""
    return MlflowSink(study.workspace, study.tracking.uri, study.tracking.experiment or study.name)


def marks(pool: Pool, **more: str) -> dict[str, str]:
    """Return the fingerprints of what a run on ``pool`` depends on."""
    return {"pool.images": pool.fingerprints.images, "pool.labels": pool.fingerprints.labels, **more}


def cache_of(data: Prepared) -> dict[str, float]:
    """Return what a resumed run must find unchanged where shards come and go: the order of an epoch follows it."""
    copy = bounded(data.shards.parent)
    return {} if copy is None or copy.most_bytes is None else {"pool pull --most-gb": copy.most_bytes / 1e9}


def find_encoder(study: Study, pool: Pool, asked: str | None = None) -> FoundEncoder:
    """Return the encoder asked for, else the latest finished pretraining of this very study.

    Args:
        study: whose preparation the encoder must share.
        pool: whose images the default was pretrained on.
        asked: a run or a folder; with ``:best`` after it, its weights of the best kNN in place of the last ones.

    Raises:
        EncoderError: none fits (names the candidates), or it was prepared for other images.
        TrainingError: ``:best`` of a run that kept none.
    """
    wanted = study.pretraining(pool.fingerprints.images)
    finished = [r for r in read_runs(study.workspace) if r.kind == "pretrain" and r.status == "finished"]
    place, is_best = (asked or "").removesuffix(BEST), (asked or "").endswith(BEST)
    if asked is None:
        fitting = [r for r in finished if r.fingerprints.get("pretraining") == wanted]
        if not fitting:
            raise EncoderError(_nothing_fits(study, wanted, finished))
        run: RunRecord | None = fitting[-1]
    else:
        run = next((r for r in finished if place == r.id or Path(place).resolve() == r.folder.resolve()), None)
    if run is None and not (Path(place) / "encoder.json").is_file():
        raise EncoderError(
            f"--encoder {asked}: neither a finished run nor a folder with encoder.json; {_known(finished)}"
        )
    folder = run.folder if run is not None else Path(place)
    encoder, about = load_encoder(folder)
    if about.get("prepare") != study.prepare.data():
        raise EncoderError(f"encoder {folder.name} was made for another `prepare` section; use the study it came from")
    if is_best:
        encoder, about = _best(encoder, about, folder)
    if run is None:
        return FoundEncoder(encoder, about, about["fingerprint"], None, is_best=is_best)
    images = run.fingerprints.get("pool.images", "")
    return FoundEncoder(encoder, about, about["fingerprint"], run.id, images, is_best)


def _best(encoder: Encoder, about: Mapping[str, Any], folder: Path) -> tuple[Encoder, dict[str, Any]]:
    """Return what the method of the run in ``folder`` would have exported at its best, and its description."""
    state = checkpoint.best(folder)
    plugin, config = method_of(about)
    method: Method[Any] = seeded(lambda: plugin(config, encoder), "method", 0)
    method.load_state_dict(state["model"])
    return method.export(), {**about, "fingerprint": fingerprint(about["fingerprint"], "best", state["step"])}


def method_of(about: Mapping[str, Any]) -> tuple[type[Method[Any]], Config]:
    """Return the method of a description of an encoder, and how it was configured when it ran."""
    plugin: type[Method[Any]] = METHODS.load(about["method"]["name"])
    settings = {k: v for k, v in about["method"].items() if k != "name"}
    return plugin, plugin.config_class.parse(settings, "encoder.json")


def _nothing_fits(study: Study, wanted: str, finished: list[RunRecord]) -> str:
    place = f"with fingerprint {wanted} in {study.workspace}"
    return f"no finished pretraining of study {study.name} {place}; {_known(finished)}"


def _known(finished: list[RunRecord]) -> str:
    known = "; ".join(f"{r.id} ({r.study}, {r.fingerprints.get('pretraining')})" for r in finished[-5:])
    return f"candidates for --encoder: {known}" if known else "run `medssl pretrain` first"


def score_folder(study: Study, fingerprint: str, *purpose: str) -> Path:
    """Return where finished scores of a model are kept for a purpose; that folder may be removed at any time."""
    return study.workspace.joinpath("scores", fingerprint, *purpose)


def fits_folder(study: Study) -> Path:
    """Return where predictions of what learns from labels are kept (``Kept``); it may be removed at any time."""
    return study.workspace / "scores" / "fits"


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level of dotted keys."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for name, inner in value.items() for k, v in flat(inner, f"{prefix}.{name}".strip(".")).items()}
