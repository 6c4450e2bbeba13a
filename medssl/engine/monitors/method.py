"""What a method's own figures betray: a uniform teacher, a task too easy or never learned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from medssl.core.batch import Progress
from medssl.engine.monitors.base import Observation
from medssl.methods.base import Method

NUMBER = re.compile(r"\d[\d.,]*(e[+-]?\d+)?")


@dataclass
class MethodMonitor:
    """Ask the method about each report's figures; alarms that differ in nothing but numbers are told once."""

    method: Method[Any]
    _told: set[str] = field(default_factory=set, init=False)

    def after_step(self, model: nn.Module, progress: Progress, figures: Mapping[str, float]) -> Observation | None:
        """Return the alarms that are new."""
        alarms = self.method.alarms(figures, progress) if figures else ()
        new = {NUMBER.sub("#", alarm): alarm for alarm in alarms}
        new = {kind: alarm for kind, alarm in new.items() if kind not in self._told}
        self._told |= set(new)
        return Observation(alarms=tuple(new.values())) if new else None
