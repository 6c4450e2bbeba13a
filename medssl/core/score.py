"""A performance figure that cannot be shown without its interval and its n."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One metric with its patient-bootstrap interval.

    ``n`` counts patients; ``low`` and ``high`` bound the interval at ``level``.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n} patients)"
