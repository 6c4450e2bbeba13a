"""The images that are audited, and all that is seen of them by each system, whole or with something covered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medssl.core.keys import generator
from medssl.core.types import Role
from medssl.data.covers import Cover, covered
from medssl.data.pixels import small_images
from medssl.data.prepared import Prepared
from medssl.engine.scoring import embed
from medssl.evaluation.fits import linear_fit, pca_fit, several
from medssl.evaluation.judge import Judge
from medssl.evaluation.problem import Floats, Problem, Rows
from medssl.models.encoders.base import Encoder


def looked_at(problem: Problem, most: int, seed: int) -> Rows:
    """Return at most ``most`` rows by whole patients, sorted: labelled test ones up to half, then dev and val alike.

    Unlabelled dev rows follow where there is room, for questions that need no label.
    """
    order = {p: i for i, p in enumerate(generator("audit", seed).permutation(np.unique(problem.patients)))}
    rank = np.array([order[p] for p in problem.patients])

    def first(rows: Rows, num: int) -> Rows:
        ranked = rows[np.argsort(rank[rows], kind="stable")]
        ends = np.flatnonzero(np.append(rank[ranked][1:] != rank[ranked][:-1], True)) + 1 if len(ranked) else ranked
        fitting = ends[ends <= num]
        return ranked[: int(fitting[-1])] if len(fitting) else ranked[:0]

    test, dev, val = (problem.rows(role) for role in (Role.TEST, Role.DEV, Role.VAL))
    room = most - min(len(dev) + len(val), most // 2)
    chosen = first(test, room)
    left = most - len(chosen)
    share = min(1.0, left / max(len(dev) + len(val), 1))
    chosen = np.concatenate([chosen, first(dev, int(share * len(dev))), first(val, int(share * len(val)))])
    rest = np.flatnonzero((problem.roles == str(Role.DEV)) & ~problem.known)
    return np.sort(np.concatenate([chosen, first(rest, most - len(chosen))]))


@dataclass(frozen=True)
class Looks:
    """What is seen of the images that are audited, by system and by what is covered; made once."""

    encoders: Mapping[str, Sequence[Encoder]]
    data: Prepared
    problem: Problem
    device: torch.device
    folder: Path
    made: dict[tuple[str, Cover | None, int], NDArray[Any]] = field(default_factory=dict)

    def features(self, system: str, cover: Cover | None = None, which: int = 0) -> NDArray[Any]:
        """Return ``N D`` features of an encoder (``which`` of several), or ``N C *S`` small images of ``pixels``."""
        key = (system, cover, which)
        if key not in self.made and system == "pixels":
            plain = small_images(self.data) if cover is None else self.features("pixels")
            keys = torch.from_numpy(self.data.keys)
            self.made[key] = plain if cover is None else covered(torch.from_numpy(plain), cover, keys).numpy()
        elif key not in self.made:
            kept = self.folder / system / str(which)
            self.made[key] = embed(self.encoders[system][which], self.data.covered(cover), self.device, kept)
        return self.made[key]

    def predictions(self, judge: Judge, system: str, cover: Cover | None = None) -> Floats:
        """Return what a probe predicts from that for the rows that are judged, ``M K``, ``S M K`` of ``S`` encoders."""
        if system == "pixels":
            return judge.predicted(pca_fit(self.problem, self.features(system, cover), system))
        found = (self.features(system, cover, which) for which in range(len(self.encoders[system])))
        return judge.predicted(several([linear_fit(self.problem, x, system) for x in found]))
