"""The label-efficiency curve of a study: encoders and baselines on the same draws of labelled patients."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.config import fingerprint
from medssl.core.files import write_json
from medssl.core.progress import bar
from medssl.data.pixels import BASELINES, small_images
from medssl.data.prepared import Prepared
from medssl.engine.distributed import device_for
from medssl.engine.scoring import embed
from medssl.evaluation import fits
from medssl.evaluation.curve import Curve, Use
from medssl.evaluation.label_efficiency import System, label_efficiency, num_cells
from medssl.evaluation.metrics import DEFAULT_METRIC
from medssl.evaluation.problem import Problem
from medssl.evaluation.units import Level
from medssl.models.adapt import load_weights
from medssl.models.build import build_encoder
from medssl.review.curves import picture
from medssl.study import Study, digest_of
from medssl.verbs.context import UNTRAINED, FoundEncoder, fits_folder, score_folder
from medssl.verbs.learners import ENCODER, SCRATCH, SMALL_RESNET, Learner, learners

RANDOM, PUBLIC = "random", "public"
SHOWN_PIXELS = ("pixels", "frame", "thumbnail")
RULE = 2  # by which probes choose; another number makes kept ones anew


def curve(
    study: Study,
    encoders: Mapping[str, FoundEncoder],
    data: Prepared,
    task: str,
    problem: Problem,
    folder: Path,
    *,
    metric: str | None = None,
    level: Level = "volume",
) -> Curve:
    """Run the grid of ``evaluation.curve``, write ``curve.json`` and ``pictures/curve.png`` into ``folder``.

    Finished cells are kept in the workspace, by what they were made from: another call goes on from them, whatever its
    folder.

    Args:
        study: names the task and the grid.
        encoders: by the names that they shall have in the curve; all are compared on the same draws.
        data: one prepared volume a row of ``problem``, in its order.
        task: a name of ``study.tasks``.
        problem: what is to be predicted.
        folder: of the run.
        metric: a name of ``METRICS``; the usual one of the kind of task without.
        level: who is judged.

    Raises:
        EvaluationError: see ``label_efficiency``.
    """
    metric, config = metric or DEFAULT_METRIC[problem.kind], study.evaluation.curve
    known = systems(study, encoders, data, task, problem, metric)
    with bar("label efficiency", num_cells(known, config, problem)) as shown:
        found = label_efficiency(
            problem,
            known,
            config,
            fits_folder(study),
            metric=metric,
            level=level,
            seed=study.seed,
            num_resamples=study.evaluation.bootstrap,
            advance=lambda text: shown.advance(text=text),
        )
    write_json(folder / "curve.json", found.to_json())
    picture(found, folder / "pictures" / "curve.png")
    return found


def systems(
    study: Study, encoders: Mapping[str, FoundEncoder], data: Prepared, task: str, problem: Problem, metric: str
) -> dict[str, System]:
    """Return what the grid compares: each encoder probed and trained, random features, scratch, a small ResNet, pixels.

    The weights that a study continued from (``init``) stand beside the others as ``public``. Encoders of one
    architecture have one ``random.probe`` and one ``scratch``. Networks learn classes; for other tasks there are probes
    alone.
    """
    taught = {**encoders, **({PUBLIC: _public(study, study.init, data)} if study.init else {})}
    made: dict[str, System] = {}
    seen: dict[str, str] = {}  # the untaught encoder of each architecture
    for name, found in taught.items():
        architecture = fingerprint(found.about["name"], found.about["config"])
        fresh = seen.setdefault(architecture, RANDOM if not seen else f"{RANDOM}.{name}")
        is_new, is_public = fresh not in {system.encoder for system in made.values()}, name == PUBLIC
        kept = score_folder(study, found.fingerprint, "evaluate")
        features = embed(found.encoder, data, device_for(), kept)
        made[f"{name}.probe"] = _probe(problem, [features], name, baseline=is_public)
        if is_new:
            untrained = [found.untrained(data.geometry, study.seed, which) for which in range(UNTRAINED)]
            several = [embed(one, data, device_for(), kept / "random" / str(i)) for i, one in enumerate(untrained)]
            made[f"{fresh}.probe"] = _probe(problem, several, fresh)
        if not problem.kind.exclusive:
            continue
        networks = learners(study, found, data, task, problem, metric=metric)
        made[f"{name}.tuned"] = _learnt(networks[ENCODER], name, baseline=is_public)
        if is_new:
            made[fresh.replace(RANDOM, SCRATCH)] = _learnt(networks[SCRATCH], fresh)
        made.setdefault(SMALL_RESNET, replace(_learnt(networks[SMALL_RESNET], ""), use=Use.OTHER))
    images = small_images(data)
    for name in SHOWN_PIXELS:
        values = BASELINES[name](images)
        made[name] = System(fits.pca_fit(problem, values, name), f"pca {RULE} {_digest(values)}", baseline=True)
    return made


def _probe(problem: Problem, several: Sequence[NDArray[Any]], name: str, *, baseline: bool = True) -> System:
    """Return the probe of an encoder's features; of several encoders by turns, so that the draws show their luck."""
    fit = fits.in_turn([fits.linear_fit(problem, features, name) for features in several])
    mark = f"linear {RULE} {' '.join(map(_digest, several))}"
    return System(fit, mark, len(several) > 1, name, Use.PROBE, baseline)


def _learnt(learner: Learner, name: str, *, baseline: bool = True) -> System:
    return System(learner, learner.mark, True, name, Use.TUNED, baseline)


def _public(study: Study, weights: Path, data: Prepared) -> FoundEncoder:
    """Return the encoder as the study's ``init`` has it, without any pretraining of ours."""
    about = {"name": study.encoder.name, "config": study.encoder.config.data()}
    encoder = build_encoder(study.encoder.name, study.encoder.config, data.geometry, seed=study.seed)
    load_weights(encoder, weights)
    return FoundEncoder(encoder, about, fingerprint(digest_of(weights), about), None)


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(f"{values.shape} ".encode() + np.ascontiguousarray(values).tobytes()).hexdigest()
