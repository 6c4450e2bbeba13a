"""What is to be predicted, for whom: labels of one task with roles, patients, studies and groups; no features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError, LabelError
from medssl.core.types import Role

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

SEPARATOR = "|"  # between the findings of one image of a multi-label task


class Kind(StrEnum):
    """What the labels of a task are."""

    CLASSES = "classes"  # one of several
    MULTILABEL = "multilabel"  # any of several findings
    ORDINAL = "ordinal"  # one of several, in an order
    REGRESSION = "regression"  # a number

    @property
    def exclusive(self) -> bool:
        """Whether an image is of exactly one of several classes."""
        return self in (Kind.CLASSES, Kind.ORDINAL)


class Fit(Protocol):
    """What learns from labelled rows: a probe on cached features, a fine-tuned encoder, a CNN from scratch."""

    def __call__(self, train: Rows, val: Rows, test: Rows, seed: int) -> Floats:
        """Return predictions for ``test``, having learnt from ``train`` and been tuned on ``val``.

        Returns:
            ``M K``: probabilities of the classes (also of ordinal ones), of each finding, or one number (``K`` = 1).
        """


@dataclass(frozen=True)
class Problem:
    """``N`` images or volumes, labelled or not.

    Attributes:
        task: name of what the labels say.
        kind: what they are.
        names: the classes or findings, in their order; none of a regression.
        truth: ``N`` class indices or numbers, NaN without a label; ``N K`` zeros and ones of findings.
        roles: ``dev``, ``val`` or ``test`` of each row.
        patients: pseudonym of each row's patient.
        studies: pseudonym of each row's study; the patients' where not given.
        groups: what else each row is known for (site, scanner, sex, age, view): text, empty where not known.

    Raises:
        EvaluationError: lengths differ, a role is unknown, or a patient has rows of two roles.
    """

    task: str
    kind: Kind
    names: tuple[str, ...]
    truth: Floats
    roles: NDArray[np.str_]
    patients: NDArray[np.str_]
    studies: NDArray[np.str_]
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num = len(self.truth)
        columns = {"roles": self.roles, "patients": self.patients, "studies": self.studies, **self.groups}
        for name, column in columns.items():
            if len(column) != num:
                raise EvaluationError(f"{name} has {len(column)} rows, truth has {num}: they must be equal")
        unknown = sorted({*self.roles.tolist()} - {str(r) for r in Role})
        if unknown:
            raise EvaluationError(f"unknown role {unknown[0]!r}: expected dev, val or test")
        sides = Counter(patient for patient, _ in {*zip(self.patients.tolist(), self.roles.tolist(), strict=True)})
        mixed = sum(num_roles > 1 for num_roles in sides.values())
        if mixed:
            raise EvaluationError(f"{mixed} patients have images of two roles; each may be dev, val or test only")

    @classmethod
    def of(
        cls,
        task: str,
        values: Sequence[str | None],
        roles: Sequence[Any],
        patients: Sequence[str],
        *,
        kind: Kind = Kind.CLASSES,
        order: Sequence[str] = (),
        studies: Sequence[str] | None = None,
        groups: Mapping[str, Sequence[str | None]] | None = None,
    ) -> Problem:
        """Read the labels of a pool.

        Args:
            task: see above.
            values: the label of each row, None where there is none; findings are separated by ``|``, none is "".
            roles: see above.
            patients: see above.
            kind: what the labels are.
            order: of the classes; alphabetical where not given, which an ordinal task may not rely on.
            studies: see above.
            groups: see above; None is not known.

        Raises:
            LabelError: a label that is not in ``order``, or no number.
            EvaluationError: see above.
        """
        names, truth = _read(task, values, kind, order)
        return cls(
            task,
            kind,
            names,
            truth,
            np.array([str(role) for role in roles], np.str_),
            np.array(patients, np.str_),
            np.array(patients if studies is None else studies, np.str_),
            {name: np.array([v or "" for v in column], np.str_) for name, column in (groups or {}).items()},
        )

    def __len__(self) -> int:
        return len(self.truth)

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Whether each row is labelled, ``N``."""
        return np.asarray(~np.isnan(self.truth.reshape(len(self), -1)).any(axis=1))

    def rows(self, role: Role) -> Rows:
        """Return the labelled rows of ``role``."""
        return np.flatnonzero((self.roles == str(role)) & self.known)

    def only(self, rows: Rows) -> Problem:
        """Keep these rows."""
        columns = {name: getattr(self, name)[rows] for name in ("truth", "roles", "patients", "studies")}
        return replace(self, **columns, groups={name: column[rows] for name, column in self.groups.items()})

    @property
    def num_outputs(self) -> int:
        """The columns of a prediction."""
        return len(self.names) if self.names else 1


def _read(task: str, values: Sequence[str | None], kind: Kind, order: Sequence[str]) -> tuple[tuple[str, ...], Floats]:
    given = [(row, value) for row, value in enumerate(values) if value is not None]
    if kind is Kind.REGRESSION:
        truth = np.full(len(values), np.nan)
        for row, value in given:
            truth[row] = _number(task, row, value)
        return (), truth
    words = [
        (row, [w.strip() for w in value.split(SEPARATOR)] if kind is Kind.MULTILABEL else [value])
        for row, value in given
    ]
    found = {word for _, several in words for word in several if word}
    if order and not found <= set(order):
        raise LabelError(f"task {task}: {len(found - set(order))} labels are not among {', '.join(order)}")
    if kind is Kind.ORDINAL and not order:
        raise LabelError(f"task {task}: an ordinal task needs the order of its classes, lowest first")
    names = tuple(order) or tuple(sorted(found))
    index = {name: i for i, name in enumerate(names)}
    if kind is Kind.MULTILABEL:
        truth = np.full((len(values), len(names)), np.nan)
        for row, several in words:
            truth[row] = np.isin(names, several)
        return names, truth
    truth = np.full(len(values), np.nan)
    for row, (word,) in words:
        truth[row] = index[word]
    return names, truth


def _number(task: str, row: int, value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = np.nan
    if not np.isfinite(found):
        raise LabelError(f"task {task}: the label of row {row} is no finite number, as a regression needs")
    return found
