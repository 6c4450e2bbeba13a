"""The report's words for the names that runs use, and its forms of figures, times and durations."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from medssl.core.score import Score

SYSTEMS = {
    "encoder": "pretrained encoder",
    "random": "untrained encoder",
    "pixels": "raw pixels",
    "scratch": "training from scratch",
    "model": "fine-tuned model",
}
PROBES = {"knn": "nearest neighbours", "linear": "linear probe", "probe": "linear probe"}
METRICS = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "ece": "calibration error", "dice": "Dice"}
PICTURES = {
    "views": "examples of training views",
    "task": "the task and its answer",
    "tokens": "tokens as colours: the first three principal components",
    "attention": "attention of the last layer",
}
KINDS = {
    "ingest": "ingest",
    "pretrain": "pretraining",
    "evaluate": "evaluation",
    "select": "selection",
    "import": "label import",
    "finetune": "fine-tuning",
    "predict": "prediction",
    "pretext": "pretext training",
    "demo": "demonstration",
}


def system_name(word: str) -> str:
    """Return what a system or a baseline is called in the report."""
    return SYSTEMS.get(word, word.replace("_", " "))


def name(word: str) -> str:
    """Return what a probe, a metric or a figure is called in the report."""
    return PROBES.get(word, METRICS.get(word, word.replace("_", " ")))


def kind_name(kind: str) -> str:
    """Return what a kind of run is called in the report."""
    return KINDS.get(kind, kind)


def picture_name(stem: str) -> str:
    """Return what a picture of a run is called in the report.

    Example:
        >>> picture_name("task-00000150")
        'the task and its answer, after 150 steps'
    """
    kind, _, step = stem.partition("-")
    return PICTURES.get(kind, kind.replace("_", " ")) + (f", after {int(step):,} steps" if step.isdecimal() else "")


def sentence(text: str) -> str:
    """Return ``text`` with a capital first letter, leaving the rest alone."""
    return text[:1].upper() + text[1:]


def number(value: float) -> str:
    """Return a figure with three decimals, or n/a where it could not be measured."""
    return f"{value:.3f}" if math.isfinite(value) else "n/a"


def interval(score: Score) -> str:
    """Return a score with its interval and n in one line; a score is never shown without them.

    Example:
        >>> interval(Score("auroc", 0.873, 0.841, 0.902, 120))
        '0.873 [0.841, 0.902] n = 120'
    """
    return f"{number(score.value)} [{number(score.low)}, {number(score.high)}] n = {score.n}"


def when(time: datetime) -> str:
    """Return a time as day and minute, UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def duration(seconds: float) -> str:
    """Return seconds in the two units that matter.

    Example:
        >>> duration(3725)
        '1 h 02 min'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s" if rest else "< 1 s"
