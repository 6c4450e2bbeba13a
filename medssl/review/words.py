"""The report's words for the names that runs use, and its forms of figures, times and durations."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from medssl.core.score import Score

SYSTEMS = {
    "encoder": "pretrained encoder",
    "random": "untrained encoder",
    "pixels": "raw pixels",
    "frame": "frame of the image alone",
    "corners": "corners of the image alone",
    "thumbnail": "4 × 4 thumbnail",
    "scratch": "same network from scratch",
    "small_resnet": "small ResNet from scratch",
    "model": "fine-tuned model",
}
BASELINES = {
    "random": "The same network with random weights: what the architecture alone is worth.",
    "pixels": "Principal components of the raw pixels: what needs no network at all.",
    "frame": "Nothing but the outermost pixels of the image: what collimators, padding and markers give away.",
    "corners": "Nothing but the corners of the image: what markers and burned-in text give away.",
    "thumbnail": "The image at 4 × 4 pixels: what overall brightness and layout give away.",
    "scratch": "The same network trained on the labels alone, from random weights, with the same tuning.",
    "small_resnet": "A small ResNet trained on the labels alone: what anybody would try first.",
}
PROBES = {
    "knn": "nearest neighbours",
    "linear": "linear probe",
    "probe": "linear probe",
    "pca": "linear probe on components",
    "attentive": "attentive probe",
    "few": "learnt from few labels",
    "nearest_mean": "nearest class mean",
    "logistic": "logistic regression",
}
METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "ece": "calibration error",
    "brier": "Brier score",
    "sensitivity_at_90": "sensitivity at 90 % specificity",
    "sensitivity_at_95": "sensitivity at 95 % specificity",
    "kappa": "quadratic kappa",
    "mae": "mean absolute error",
    "class_mae": "classes off on average",
    "r2": "R²",
    "dice": "Dice",
    "nmi": "cluster NMI",
    "ari": "cluster ARI",
    "recall_at_1": "recall at 1",
    "recall_at_5": "recall at 5",
    "map": "mean average precision",
}
PICTURES = {
    "views": "examples of training views",
    "task": "the task and its answer",
    "tokens": "tokens as colours: the first three principal components",
    "features": "feature maps as colours: the first three principal components",
    "attention": "attention of the last layer",
    "neighbours": "nearest neighbours among other patients",
    "map-label": "embedding map by label",
    "map-scanner": "embedding map by scanner",
    "map-site": "embedding map by site",
    "reliability": "reliability of the predicted probabilities",
}
READING = {
    "tokens": "Each patch has the colours of its token: patches of one colour are alike to the encoder.",
    "features": "The coarsest feature maps: places of one colour are alike to the encoder.",
    "attention": "Where the pooled feature takes its information from, the redder the more: all heads, then single "
    "ones. It shows where, not why, and proves nothing.",
    "neighbours": "Each row: a test image, then the images most similar to it (cosine, from the mean of all) among "
    "patients that may be trained on, one a patient, and whether they have its label. Of volumes the middle slice.",
    "map-label": "Images laid out by t-SNE. Neighbourhoods mean something; the size of a group and the distance "
    "between groups do not.",
    "map-scanner": "The same layout. Colours that keep apart say that the encoder tells the scanner of an image.",
    "map-site": "The same layout. Colours that keep apart say that the encoder tells the site of an image.",
    "reliability": "What the probe predicted for test patients against what came true. Below the dashed line it "
    "promises more than comes true, above it less. Vertical lines: 95 % intervals (Wilson), each patient counted once. "
    "The calibration error, where given, is that of the likeliest class over 15 bins: too large on few patients.",
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
    base = word.removesuffix("_few")
    return SYSTEMS.get(base, base.replace("_", " ")) + (", few labels" if base != word else "")


def name(word: str) -> str:
    """Return what a probe, a metric or a figure is called in the report."""
    base, _, rest = word.partition(" ")
    known = PROBES | METRICS
    return known.get(word) or (f"{known[base]} {rest}" if base in known and rest else word.replace("_", " "))


def kind_name(kind: str) -> str:
    """Return what a kind of run is called in the report."""
    return KINDS.get(kind, kind)


def picture_name(stem: str) -> str:
    """Return what a picture of a run is called in the report.

    Example:
        >>> picture_name("task-00000150")
        'the task and its answer, after 150 steps'
    """
    if stem in PICTURES:
        return PICTURES[stem]
    kind, _, step = stem.partition("-")
    return PICTURES.get(kind, kind.replace("_", " ")) + (f", after {int(step):,} steps" if step.isdecimal() else "")


def reading(stem: str) -> str:
    """Return how a picture of an evaluation is to be read, or nothing where its name is not known."""
    return READING.get(stem, "")


def meaning(system: str) -> str:
    """Return what a baseline is there for, or nothing where its name is not known."""
    return BASELINES.get(system, "")


def sentence(text: str) -> str:
    """Return ``text`` with a capital first letter, leaving the rest alone."""
    return text[:1].upper() + text[1:]


def short(value: str) -> str:
    """Return a value of the catalog, of a pseudonym its beginning.

    Example:
        >>> short("89b1250f2419026606893d73b8c5803b"), short("GE Definium 8000")
        ('89b1250f…', 'GE Definium 8000')
    """
    return f"{value[:8]}…" if re.fullmatch(r"[0-9a-f]{32,}", value) else value


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


def signed(value: float) -> str:
    """Return a difference with three decimals and its sign, or n/a where it could not be measured."""
    return f"{value:+.3f}" if math.isfinite(value) else "n/a"


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
