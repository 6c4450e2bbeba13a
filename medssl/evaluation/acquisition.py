"""Acquisition: how well features tell the scanner or the site, and whether the label goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.score import Score
from medssl.core.types import Role
from medssl.evaluation.audits import Audit
from medssl.evaluation.fits import linear_fit, pca_fit
from medssl.evaluation.judge import Judge
from medssl.evaluation.problem import Floats, Kind, Problem
from medssl.evaluation.results import ENCODER

LEAST = 5  # patients of a group, in dev and in test, to learn it and to measure it by
PRIOR = 2.0  # images that the share of a label in a group is smoothed by


def group_audit(
    judge: Judge | None,
    problem: Problem,
    group: str,
    features: Mapping[str, NDArray[Any]],
    delta: float,
    *,
    seed: int,
    num_resamples: int = 1000,
) -> Audit | None:
    """Ask whether the encoder tells the ``group`` of an image, and whether that tells the label; None with one group.

    Patients are on one side of the probe. A warning where both are so by ``delta``: then a score may be the group.

    Args:
        judge: of the task; None without enough labels: then only the first is asked.
        problem: all rows, labelled or not; ``problem.groups`` names their groups.
        group: such a name.
        features: ``N D`` by system; of ``pixels`` components are taken.
        delta: see above.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
    """
    values = usable(problem, group)
    if len({v for v in values if v}) < 2:
        return None
    asked = Problem.of(group, [v or None for v in values], problem.roles.tolist(), problem.patients.tolist())
    told = Judge(asked, "balanced_accuracy", "volume", seed, num_resamples)
    chance, scores = told.chance(), dict[str, Score]()
    for name, x in features.items():
        fit = pca_fit(asked, x, name) if name == "pixels" else linear_fit(asked, x, name)
        predicted = told.predicted(fit)
        scores[name] = told.score(predicted)
        scores[f"{name} over chance"] = told.difference(predicted, chance)
    ours = scores[f"{ENCODER} over chance"]
    does = "tells" if ours.low > 0 else "is not shown to tell"
    finding = f"The encoder {does} {len(asked.names)} {group}s apart: {scores[ENCODER]}"
    finding += f", raw pixels with {scores['pixels'].value:.3f}" if "pixels" in scores else ""
    if judge is None:
        return Audit(group, f"{finding}.", scores=scores, facts={"groups": len(asked.names)})
    alone = by_group(judge, values)
    over = judge.difference(alone, judge.chance())
    scores |= {"label by group": judge.score(alone), "label by group over chance": over}
    warning = over.low > delta and ours.low > delta
    if over.low > delta:
        finding += f"; label and {group} are associated: it alone predicts {judge.problem.task!r} with "
        finding += str(scores["label by group"])
    else:
        finding += f"; label and {group} are not shown to be associated"
    finding += f", so a score may be the {group}." if warning else "."
    return Audit(group, finding, warning, scores, {"groups": len(asked.names)})


def usable(problem: Problem, group: str) -> NDArray[np.str_]:
    """Return the group of each row, empty where it has too few patients in dev or in test."""
    values = problem.groups[group]

    def patients(value: str, role: Role) -> int:
        return len(np.unique(problem.patients[(values == value) & (problem.roles == str(role))]))

    kept = [v for v in np.unique(values) if v and min(patients(v, Role.DEV), patients(v, Role.TEST)) >= LEAST]
    return np.where(np.isin(values, kept), values, "")


def by_group(judge: Judge, values: NDArray[np.str_]) -> Floats:
    """Return what is predicted for each judged row, ``M K``, when nothing is known of it but its group."""
    problem, dev = judge.problem, judge.problem.rows(Role.DEV)
    overall = judge.chance()[0]
    truth = problem.truth[dev]
    if problem.kind in (Kind.CLASSES, Kind.ORDINAL):
        truth = np.eye(problem.num_outputs)[truth.astype(np.int64)]
    truth = truth.reshape(len(dev), -1)
    known = {}
    for value in np.unique(values):
        inside = values[dev] == value
        known[value] = (truth[inside].sum(0) + PRIOR * overall) / (inside.sum() + PRIOR)
    return np.stack([known[value] for value in values[judge.test]])
