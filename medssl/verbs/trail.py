"""What a training looked like to held-out labels, moment by moment, and the weights of the moment to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from torch import Tensor, nn

from medssl.core.batch import Progress
from medssl.data.prepared import Prepared
from medssl.engine.distributed import device_for
from medssl.engine.monitors.base import evaluating
from medssl.evaluation.choosing import standing
from medssl.evaluation.problem import Floats, Problem, Rows
from medssl.finetune.classify import Classifier

WORST = (-np.inf, -np.inf)


@dataclass
class Trail:
    """A monitor: looks at a classifier at even moments of its training and keeps the weights of the best one.

    ``held`` rows of ``problem``, in ``data``, judge by ``metric``. ``keep``: the number of the moment to keep instead,
    0 for none. ``seen``: the predictions at each moment, ``H K``.
    """

    problem: Problem
    held: Rows
    data: Prepared
    metric: str
    moments: int
    keep: int | None
    steps_per_epoch: int
    seen: dict[int, Floats] = field(default_factory=dict)
    best: tuple[float, float] = WORST
    weights: dict[str, Tensor] | None = None
    model: Classifier | None = None
    kept_step: int = 0
    steps: int = 0

    def after_step(self, model: nn.Module, progress: Progress, figures: Mapping[str, float]) -> None:
        """Look, where this step is a moment's."""
        self.steps = progress.total_steps
        ends = {max(1, round(self.steps * i / self.moments)): i for i in range(1, self.moments + 1)}
        moment = ends.get(progress.step)
        if moment is None:
            return
        is_better = moment == self.keep
        if len(self.held):
            with evaluating(model):
                self.seen[moment] = cast(Classifier, model).probabilities(self.data, device_for())
            now = standing(self.problem, self.held, self.seen[moment], self.metric)
            is_better = is_better or (self.keep is None and now > self.best)
            self.best = max(self.best, now)
        if is_better:
            self.kept_step = progress.step
            self.weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
