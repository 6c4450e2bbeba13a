"""Shortcuts: is the label, or the pretext's answer, to be had from the border, from fine detail, without any shape?

DeGrave, Janizek and Lee, Nature Machine Intelligence 2021, show radiograph models that read markers and borders;
Geirhos et al., Nature Machine Intelligence 2020, say what a shortcut is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.score import Score
from medssl.evaluation.audits import Audit
from medssl.evaluation.bootstrap import mean_bootstrap
from medssl.evaluation.judge import Judge, surely_above
from medssl.evaluation.problem import Floats
from medssl.evaluation.results import ENCODER, Comparison

QUESTIONS = 3  # whether pixels or the encoder read the frame, or pixels the corners: one false alarm among them is one
REGIONS = {
    "frame": "the frame of the image",
    "corners": "the corners of the image",
    "border": "the border of the image",
}


def region_audit(judge: Judge, region: str, readers: Mapping[str, Floats], encoder: Floats, delta: float) -> Audit:
    """Ask whether ``region`` alone tells the label: a warning where it beats chance by ``delta``.

    Args:
        judge: of the task.
        region: a name of ``REGIONS``.
        readers: predictions from nothing but that region, by who reads it: raw ``pixels``, which see what is always in
            one place, or the ``encoder``, which sees what it has learnt to see.
        encoder: predictions from the encoder's features of whole images.
        delta: see above.
    """
    chance, what, task = judge.chance(), REGIONS[region], judge.problem.task
    lead = judge.difference(encoder, chance)
    over = {name: judge.difference(alone, chance) for name, alone in readers.items()}
    shown = {name: judge.score(alone) for name, alone in readers.items()}
    scores = {"encoder": judge.score(encoder), "encoder over chance": lead}
    for name, alone in readers.items():
        scores |= {f"{region} by {name}": shown[name], f"{region} by {name} over chance": over[name]}
        scores[f"encoder over {region} by {name}"] = judge.difference(encoder, alone)
    best = max(over, key=lambda name: over[name].low)
    if not surely_above(over[best], delta, QUESTIONS):
        finding = f"{task!r} is not shown to be predicted from {what} alone by {delta:g} over chance: {shown[best]}."
        return Audit(f"{region} alone", finding, scores=scores)
    share = min(over[best].value / lead.value, 1) if lead.low > 0 else 0
    explained = f", {share:.0%} of what the encoder has over chance" if share else ""
    who = "" if best == "pixels" else f" by the {best}"
    finding = (
        f"The data set has a shortcut: {task!r} is predicted from {what} alone{who}, {shown[best]}{explained}. "
        "Part of any encoder's score may be this, and may be gone in another hospital."
    )
    return Audit(f"{region} alone", finding, True, scores)


def covering_audit(
    judge: Judge, region: str, plain: Mapping[str, Floats], covered: Mapping[str, Floats]
) -> tuple[Audit, dict[str, Comparison]]:
    """Ask whether the encoder needs ``region``: a warning where its lead over the random encoder vanishes without it.

    Args:
        judge: of the task.
        region: a name of ``REGIONS``.
        plain: predictions of ``encoder``, ``random`` and other systems from whole images.
        covered: the same with the region covered, in training too.

    Returns:
        the audit, and the encoder beside each other system with the region covered.
    """
    ours, without = plain[ENCODER], covered[ENCODER]
    compared = {
        name: Comparison(
            judge.score(without),
            judge.score(other),
            judge.difference(without, other),
            judge.lost(ours, plain[name], without, other),
        )
        for name, other in covered.items()
        if name != ENCODER
    }
    drop = judge.difference(ours, without)
    scores = {"encoder": judge.score(ours), f"encoder, {region} covered": judge.score(without), "drop": drop}
    for name, found in compared.items():
        scores[f"encoder over {name}"] = judge.difference(ours, plain[name])
        scores[f"encoder over {name}, {region} covered"] = found.difference
        scores[f"lead over {name} lost"] = found.lost or drop
    before, found = scores["encoder over random"], compared["random"]
    if before.low > 0 and found.vanished:
        finding = (
            f"The encoder reads a shortcut: its lead over the random encoder, {_figures(before)}, vanishes when "
            f"{REGIONS[region]} is covered, {_figures(found.difference)}."
        )
        return Audit(f"{region} covered", finding, True, scores), compared
    finding = (
        f"With {REGIONS[region]} covered the encoder changes by {_figures(_negative(drop))}; "
        f"over the random encoder it then has {_figures(found.difference)}."
    )
    return Audit(f"{region} covered", finding, scores=scores), compared


def texture_audit(judge: Judge, plain: Floats, low_pass: Floats, patch_shuffle: Floats, delta: float) -> Audit:
    """Ask what is left without fine detail, and without arrangement.

    A warning where the loss of fine detail costs more than ``delta``, and half or more of what was there over chance:
    detail is what scanners and reconstructions change. Arrangement is reported only: some disease has none.
    """
    chance = judge.chance()
    over = judge.difference(plain, chance)
    scores = {
        "encoder": judge.score(plain),
        "encoder over chance": over,
        "low pass": judge.score(low_pass),
        "low pass over chance": judge.difference(low_pass, chance),
        "low pass drop": judge.difference(plain, low_pass),
        "patch shuffle": judge.score(patch_shuffle),
        "patch shuffle drop": judge.difference(plain, patch_shuffle),
    }
    drop = scores["low pass drop"]
    leans = drop.low > delta and 2 * drop.value > over.value > 0
    shape = scores["patch shuffle drop"]
    finding = (
        f"Without fine detail the encoder changes by {_figures(_negative(drop))}, with its patches shuffled by "
        f"{_figures(_negative(shape))}."
    )
    if leans:
        finding = f"The encoder leans on fine detail, which scanners and reconstructions change. {finding}"
    return Audit("texture", finding, leans, scores)


def pretext_audit(
    losses: Mapping[str, Floats],
    patients: Sequence[Any] | NDArray[Any],
    chance: float | None,
    *,
    seed: int,
    num_resamples: int = 1000,
) -> Audit:
    """Ask whether the pretext task was solved by the frame: a warning where the frame alone tells more than the rest.

    A loss that rises when the frame is covered proves little, for a covered image is strange to any network. So the
    frame alone is shown as well: what is read off the border is read off it alone.

    Args:
        losses: one an image, of ``plain`` images, with the ``frame`` covered, and with the ``interior`` covered.
        patients: of the images.
        chance: the loss of a network that knows nothing; None where the task has no such level (then the pixels are
            the answer, and covering them changes the question): nothing is concluded.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
    """

    def mean(name: str, values: Floats) -> Score:
        return mean_bootstrap(name, values, patients, seed=seed, num=num_resamples)

    without, alone = np.asarray(losses["frame"], float), np.asarray(losses["interior"], float)
    scores = {
        "plain": mean("pretext loss", losses["plain"]),
        "frame covered": mean("pretext loss", without),
        "frame alone": mean("pretext loss", alone),
        "rise by covering the frame": mean("pretext loss rise", without - losses["plain"]),
        "frame alone better than the rest": mean("pretext loss difference", without - alone),
    }
    told = f"pretext loss {scores['plain'].value:.3f}, {scores['frame covered'].value:.3f} with the frame covered, "
    told += f"{scores['frame alone'].value:.3f} with nothing but the frame"
    if chance is None:
        return Audit("pretext", f"{told[0].upper()}{told[1:]}: what is covered is part of the question.", scores=scores)
    facts = {"chance": chance}
    told += f", by chance {chance:.3f}"
    if scores["plain"].value > 0.95 * chance:
        return Audit("pretext", f"The pretext task was not learned: {told}.", True, scores, facts)
    border = scores["frame alone better than the rest"].low > 0 and scores["frame alone"].high < chance
    finding = "The pretext task is solved by the border" if border else "The pretext task needs what is inside"
    return Audit("pretext", f"{finding}: {told}.", border, scores, facts)


def _negative(score: Score) -> Score:
    return replace(score, value=-score.value, low=-score.high, high=-score.low)


def _figures(score: Score) -> str:
    return f"{score.value:+.3f} [{score.low:+.3f}, {score.high:+.3f}]"
