"""Who is judged: each image, or each study or patient by the mean of what was predicted for its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError
from medssl.evaluation.problem import Floats, Problem, Rows

Level = Literal["volume", "study", "patient"]


@dataclass(frozen=True)
class Units:
    """``U`` units made of ``M`` rows: their truth (``U`` or ``U K``), patients, and the unit of each row."""

    truth: NDArray[Any]
    patients: NDArray[np.str_]
    member: Rows
    first: Rows  # of each unit, a row of the problem

    @classmethod
    def of(cls, problem: Problem, rows: Rows, level: Level) -> Units:
        """Gather labelled ``rows`` by ``level``.

        Raises:
            EvaluationError: the rows of one unit have different labels.
        """
        names = {"study": problem.studies, "patient": problem.patients}.get(level, np.arange(len(problem)))[rows]
        _, first, member = np.unique(names, return_index=True, return_inverse=True)
        truth = problem.truth[rows]
        apart = (truth != truth[first][member]).reshape(len(rows), -1).any(axis=1)
        if apart.any():
            num = len(np.unique(member[apart]))
            raise EvaluationError(f"{num} of {len(first)} {level} units hold images of different labels; judge volumes")
        whole = truth[first].astype(np.int64) if problem.names else truth[first]
        return cls(whole, problem.patients[rows][first], member, rows[first])

    def mean(self, predictions: Floats) -> Floats:
        """Return the mean prediction of each unit, ``[S] U K``, of those of its rows, ``[S] M K``."""
        members = np.zeros((len(self.first), len(self.member)))
        members[self.member, np.arange(len(self.member))] = 1 / np.bincount(self.member)[self.member]
        return np.asarray(members @ predictions)
