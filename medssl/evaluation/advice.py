"""What would settle a difference that is not yet told apart from none: more patients, or more draws of labels."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from scipy.stats import norm

from medssl.evaluation.bootstrap import draw_reach
from medssl.evaluation.judge import widened

if TYPE_CHECKING:
    from medssl.evaluation.results import Comparison

POWER = 0.8  # with which what is advised would settle a difference
MOST_DRAWS, MOST_PATIENTS = 100, 100  # the latter times those there are: beyond them nothing is advised


@dataclass(frozen=True)
class Asked:
    """One of ``num`` questions about a baseline; ``margin`` is in the metric's unit; ``top``: both at the ceiling.

    ``leads``: whether there is a lead to be shown, not only no loss. ``who`` is asked about.
    """

    name: str
    margin: float
    num: int
    top: bool
    leads: bool
    who: str = "The encoder"


def advice_on(asked: Asked, found: Comparison, needed: float, by: float = 0.0) -> str:
    """Say what would settle a true difference of this size, one way or another, with a chance of ``POWER``."""
    difference = found.difference
    below, above = difference.value - difference.low, difference.high - difference.value
    wider = widened(asked.num, difference.level)
    ways = [(difference.value - needed, below, 1.0), (-by - difference.value, above, wider)]  # a yes, a proven loss
    if asked.leads:
        ways.append((asked.margin - difference.value, above, 1.0))  # no better
    asks = filter(None, (_asks(found, *way) for way in ways if way[0] > 0))
    draws, patients = min(asks, default=(0, 0))
    more_draws, more_patients = draws > found.draws, patients > difference.n
    what = [f"{draws} draws of labels (gate.draws, now {found.draws})"] * more_draws
    what += [f"{ceil(patients / 10) * 10} labelled test patients"] * more_patients
    if not what:
        return ""
    return f" About {' and '.join(what)} would settle a difference of this size with a power of {POWER:.0%}."


def _asks(found: Comparison, slack: float, reach: float, wider: float) -> tuple[int, int] | None:
    """Return how many draws and test patients leave ``slack`` outside an interval that now reaches so far.

    It must be left by more than the interval, ``wider`` times as wide, for an estimate strays from the truth. The part
    of patients narrows with the root of their number; that of draws does not, and may make up half the variance.
    """
    level, num = found.difference.level, found.difference.n
    room = slack / (wider + norm.ppf(POWER) / norm.ppf((1 + level) / 2))
    now = draw_reach(found.draw_spread, found.draws, level)
    of_patients = max(reach**2 - now**2, 0)
    for draws in range(found.draws, max(found.draws, MOST_DRAWS) + 1):
        of_draws = draw_reach(found.draw_spread, draws, level) ** 2
        if 2 * of_draws <= room**2:
            patients = ceil(num * of_patients / (room**2 - of_draws))
            return (draws, patients) if patients <= MOST_PATIENTS * num else None
    return None
