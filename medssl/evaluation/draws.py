"""Which labelled patients a small budget buys: nested draws, each class among the first."""

from __future__ import annotations

import numpy as np

from medssl.core.keys import generator
from medssl.evaluation.problem import Problem, Rows


def patient_order(problem: Problem, rows: Rows, seed: int) -> list[str]:
    """Return the patients of ``rows`` in a random order whose every prefix is a draw; larger draws hold smaller ones.

    One patient of each class comes first, as anybody would label until both are there; the others follow at random.
    A finding is present once and absent once; of numbers two come first that differ.
    """
    names = np.unique(problem.patients[rows])
    order = [str(name) for name in generator("label draw", seed).permutation(names)]
    truth = problem.truth.reshape(len(problem), -1)[rows]
    of_patient = problem.patients[rows]
    first: list[str] = []
    if problem.names:
        for column in range(truth.shape[1]):
            for value in np.unique(truth[:, column]):
                having = {*of_patient[truth[:, column] == value].tolist()}
                if not having & {*first}:
                    first.append(next(name for name in order if name in having))
    else:
        seen = {*truth[of_patient == order[0], 0].tolist()} if order else set()
        other = {*of_patient[~np.isin(truth[:, 0], [*seen])].tolist()}
        first = order[:1] + [name for name in order[1:] if name in other][: len(seen) < 2]
    return first + [name for name in order if name not in {*first}]


def draw(problem: Problem, rows: Rows, num_patients: int, seed: int) -> Rows:
    """Return the rows of the first ``num_patients`` of ``patient_order``, all of them where there are no more."""
    chosen = patient_order(problem, rows, seed)[:num_patients]
    return rows[np.isin(problem.patients[rows], chosen)]
