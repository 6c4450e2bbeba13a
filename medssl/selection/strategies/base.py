"""What a strategy receives and returns, and the checks that stand around each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medssl.core.config import Config
from medssl.core.errors import SelectionError
from medssl.core.plugins import Plugins
from medssl.core.types import Signal

STRATEGIES = Plugins("medssl.selection.strategies", "Strategy")

C = TypeVar("C", bound="StrategyConfig")


class StrategyConfig(Config):
    """What every strategy can be told; None lifts the cap."""

    max_per_patient: Annotated[int, Field(ge=1)] | None = 1  # a round: more of one patient teaches little


@dataclass(frozen=True)
class FrozenOrder:
    """A ranking made once, in round 0, and cut into equal batches: batch ``n`` serves round ``n``.

    ``studies`` and ``scores`` (float64) run from first to last, ``batches`` holds the batch of each.
    """

    studies: tuple[str, ...]
    scores: tuple[float, ...]
    batches: tuple[int, ...]

    def batch(self, num: int) -> tuple[str, ...]:
        """Return the studies of one batch, in order."""
        return tuple(s for s, b in zip(self.studies, self.batches, strict=True) if b == num)

    @property
    def num_batches(self) -> int:
        """The number of batches, and so of rounds."""
        return max(self.batches, default=-1) + 1


DTYPES: dict[str, Any] = {
    "studies": np.str_,
    "patients": np.str_,
    "strata": np.str_,
    str(Signal.EMBEDDINGS): None,  # as they come: the one large array
    str(Signal.PROBABILITIES): np.float64,
    str(Signal.PRETEXT_LOSSES): np.float64,
}


@dataclass(frozen=True)
class SelectionPool:
    """The candidates of a round: unlabelled dev studies that the guards let pass.

    Rows may come in any order and are put in order of study id, so that no pick depends on it.

    Attributes:
        studies: ``N`` distinct ids.
        patients: ``N``.
        strata: ``N``, e.g. modality and scanner; scores are made comparable within a stratum.
        embeddings: ``N D``.
        probabilities: ``N K``, of the current task model, a study.
        pretext_losses: ``N`` float64, a study.
        round: counts from 0.
        num_rounds: how many rounds share one ranking.
        frozen: the ranking of round 0, in later rounds.

    Raises:
        SelectionError: a study occurs twice, or a column has another length.
    """

    studies: NDArray[Any]
    patients: NDArray[Any]
    strata: NDArray[Any]
    embeddings: NDArray[Any] | None = None
    probabilities: NDArray[Any] | None = None
    pretext_losses: NDArray[np.float64] | None = None
    round: int = 0
    num_rounds: int = 1
    frozen: FrozenOrder | None = None

    def __post_init__(self) -> None:
        studies = np.asarray(self.studies, dtype=np.str_)
        order = np.argsort(studies, kind="stable")
        if len(np.unique(studies)) < len(studies):
            raise SelectionError(f"{len(studies) - len(np.unique(studies))} of {len(studies)} candidates occur twice")
        if self.round < 0 or self.num_rounds < 1:
            raise SelectionError(
                f"round {self.round} of {self.num_rounds} is not right, expected 0 or more of at least 1"
            )
        for name, dtype in DTYPES.items():
            if getattr(self, name) is None:
                continue
            column = np.asarray(getattr(self, name), dtype=dtype)
            if len(column) != len(studies):
                raise SelectionError(f"{name} has {len(column)} rows, expected one a study: {len(studies)}")
            object.__setattr__(self, name, column[order])

    def __len__(self) -> int:
        return len(self.studies)

    def signal(self, signal: Signal) -> NDArray[Any]:
        """Return the values of ``signal``, ``N …``.

        Raises:
            SelectionError: the pool has none, or some are not finite.
        """
        values: NDArray[Any] | None = getattr(self, signal)
        if values is None:
            raise SelectionError(f"round {self.round} needs {signal}, which the pool does not have")
        bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if bad.any():
            raise SelectionError(
                f"{signal} of {bad.sum()} of {len(self)} studies are not finite numbers; score them again"
            )
        return values

    def rows(self, studies: tuple[str, ...]) -> NDArray[np.int64]:
        """Return the rows of those ``studies`` that are candidates, in the order given."""
        row = {str(s): i for i, s in enumerate(self.studies)}
        return np.array([row[s] for s in studies if s in row], dtype=np.int64)

    def capped(self, order: NDArray[np.int64], max_per_patient: int | None) -> NDArray[np.int64]:
        """Drop from ``order`` (rows) all but the first ``max_per_patient`` of each patient."""
        if max_per_patient is None:
            return order
        seen: dict[str, int] = {}
        kept = []
        for row in order:
            patient = str(self.patients[row])
            seen[patient] = seen.get(patient, 0) + 1
            if seen[patient] <= max_per_patient:
                kept.append(row)
        return np.array(kept, dtype=np.int64)


@dataclass(frozen=True)
class Ranking:
    """The picks of a round, first to label first, each with its score and its reason in words."""

    studies: tuple[str, ...]
    scores: tuple[float, ...]
    reasons: tuple[str, ...]
    frozen: FrozenOrder | None = None  # to be kept for the rounds that follow


class Strategy(ABC, Generic[C]):
    """A rule that picks ``budget`` studies of a pool; arrays in, ranking out, never a model."""

    paper: ClassVar[str]
    needs: ClassVar[frozenset[Signal]] = frozenset()
    config_class: ClassVar[type[StrategyConfig]] = StrategyConfig

    def __init__(self, config: C) -> None:
        self.config = config

    @classmethod
    def needs_in(cls, round: int) -> frozenset[Signal]:
        """Return what the strategy reads in this round; all that it ``needs`` unless it says otherwise."""
        return cls.needs

    @classmethod
    def most(cls, num_candidates: int, round: int, num_rounds: int) -> int:
        """Return the largest budget that this round could serve; known before anything is scored."""
        return num_candidates

    def select(self, pool: SelectionPool, budget: int, rng: np.random.Generator) -> Ranking:
        """Return exactly ``budget`` distinct candidates, at most ``max_per_patient`` of a patient.

        Raises:
            SelectionError: a signal is absent or not finite, or the budget cannot be served; says what is left.
        """
        for signal in sorted(self.needs_in(pool.round)):
            pool.signal(signal)
        self.check_budget(pool, np.arange(len(pool)), budget, "")
        return self.pick(pool, budget, rng)

    def check_budget(self, pool: SelectionPool, rows: NDArray[np.int64], budget: int, where: str) -> None:
        """Refuse a budget that ``rows`` cannot serve; ``where`` names them in the message."""
        if budget < 1:
            raise SelectionError(f"budget {budget} is not right, expected at least 1 study")
        cap = self.config.max_per_patient
        left = len(pool.capped(rows, cap))
        if budget > left:
            limit = "" if cap is None or left == len(rows) else f" ({len(rows)} without max_per_patient {cap})"
            raise SelectionError(f"budget {budget} is more than the {left} studies left{where}{limit}")

    @abstractmethod
    def pick(self, pool: SelectionPool, budget: int, rng: np.random.Generator) -> Ranking:
        """Pick from a pool whose signals and budget have been checked."""
