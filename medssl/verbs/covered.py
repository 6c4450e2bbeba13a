"""The fine-tuned encoder beside its baselines, all learnt with the border of every image covered."""

from __future__ import annotations

from collections.abc import Mapping

from medssl.data.covers import Cover
from medssl.data.pixels import small_images
from medssl.evaluation.evaluate import few_labels
from medssl.evaluation.fits import pca_fit
from medssl.evaluation.problem import Fit, Floats
from medssl.evaluation.results import FEW, Comparison
from medssl.verbs.learners import ENCODER, SCRATCH
from medssl.verbs.subject import Subject

PIXELS = "pixels"


def covered_learning(subject: Subject) -> dict[str, Comparison]:
    """Return the encoder beside ``scratch`` and ``pixels_few``, with what the cover took of its lead.

    Probes are compared on features of covered images; here everything learns from covered images, whose border is
    then the same for all labels. A lead that is left does not come from there.
    """
    judge, rule, problem = subject.judge, subject.study.evaluation.gate, subject.problem
    pixels = pca_fit(problem, small_images(subject.data.covered(Cover.BORDER)), PIXELS)

    def predicted(fits: Mapping[str, Fit]) -> dict[str, Floats]:
        return {name: few_labels(problem, fits[name], rule, judge.seed) for name in (ENCODER, SCRATCH, PIXELS)}

    plain = predicted({**subject.learners(), PIXELS: subject.probes[PIXELS]["pca"]})
    without = predicted({**subject.learners(Cover.BORDER), PIXELS: pixels})
    ours, later = plain.pop(ENCODER), without.pop(ENCODER)
    return {
        f"{PIXELS}_{FEW}" if name == PIXELS else name: Comparison(
            judge.score(later),
            judge.score(without[name]),
            judge.difference(later, without[name], over_draws=True),
            judge.lost(ours, theirs, later, without[name], over_draws=True),
            draw_spread=judge.draw_spread(later, without[name]),
            draws=rule.draws,
        )
        for name, theirs in plain.items()
    }
