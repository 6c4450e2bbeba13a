"""Cohorts of small images with a disease inside and, where asked, a cue at the border; and encoders, good and bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from medssl.data.covers import Cover, covered
from medssl.data.pixels import corners, frame
from medssl.evaluation import fits
from medssl.evaluation.acquisition import group_audit
from medssl.evaluation.audits import Audit, Audits
from medssl.evaluation.duplicates import duplicate_audit, same_digest, same_look
from medssl.evaluation.evaluate import Systems, evaluate
from medssl.evaluation.judge import Judge
from medssl.evaluation.problem import Floats, Problem
from medssl.evaluation.results import Evaluation
from medssl.evaluation.shortcuts import covering_audit, region_audit, texture_audit

SIZE, DELTA = 32, 0.05
CHECKS = (np.indices((4, 4)).sum(0) % 2 - 0.5) * 0.12
STRIPES = (np.indices((4, 4))[0] // 2 - 0.5) * 0.12
CROSS, BAR = np.array([[1, -1], [-1, 1]]) * 0.15, np.array([[1, 1], [-1, -1]]) * 0.15
INSIDE = [(y, x) for y in (4, 26) for x in (4, 26)]  # of 32: beyond the frame's 4, within the corners' 6
Encode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Cohort:
    """Images ``N 1 Y X`` of one patient each, and what is to be predicted."""

    images: np.ndarray
    problem: Problem


def cohort(
    seed: int,
    num: int = 400,
    cue: str | None = None,
    strength: float = 0.9,
    labels: str = "true",
    radiographs: np.ndarray | None = None,
) -> Cohort:
    """Return discs anywhere in the middle (or some of ``radiographs``, ``N Y X``), half of them with a nodule inside.

    ``cue``: a ``corner`` marker, a bright ``border``, or which of two ``marker`` signs of equal brightness stands
    somewhere along the border (or, smaller, ``inside`` the frame in a corner), as often with the disease as
    ``strength`` says. ``labels`` may be ``shuffled``.
    """
    rng = np.random.default_rng((7, seed))
    y, x = np.mgrid[:SIZE, :SIZE]
    sick = rng.integers(2, size=num)
    if radiographs is None:
        images, contrast = 0.2 + 0.03 * rng.normal(size=(num, SIZE, SIZE)), 0.16
    else:
        images, contrast = radiographs[rng.choice(len(radiographs), num, replace=False)].astype(np.float64), 0.3
    for i in range(num):
        cy, cx = rng.uniform(13.5, 17.5, 2)
        if radiographs is None:
            images[i] += 0.4 * ((y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(6, 8) ** 2)
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0, 3.5)
        ny, nx = cy + reach * np.sin(angle), cx + reach * np.cos(angle)
        images[i] += contrast * sick[i] * np.exp(-((y - ny) ** 2 + (x - nx) ** 2) / 2)
    shown = np.where(rng.random(num) < strength, sick, 1 - sick).astype(bool)
    if cue == "corner":
        images[shown, 1:4, 1:4] += 0.5
    if cue == "border":
        images[shown, :2] += 0.06
        images[shown, -2:] += 0.06
    if cue == "marker":
        for i in range(num):
            at = rng.integers(SIZE - 4)
            place = (slice(0, 4), slice(at, at + 4)) if rng.integers(2) else (slice(at, at + 4), slice(SIZE - 4, SIZE))
            images[i][place] += CHECKS if shown[i] else STRIPES
    if cue == "inside":
        for i in range(num):
            top, left = INSIDE[rng.integers(4)]
            images[i, top : top + 2, left : left + 2] += (CROSS if shown[i] else BAR) * rng.choice([-1, 1])
    truth = rng.permutation(sick) if labels == "shuffled" else sick
    roles = np.array(["dev", "val", "test"])[np.searchsorted([0.5, 0.62], rng.random(num))]
    scanner = [f"scanner {i}" for i in rng.integers(3, size=num)]
    values = ["sick" if t else "well" for t in truth]
    people = [f"p{i:04}" for i in range(num)]
    problem = Problem.of("nodule", values, roles.tolist(), people, groups={"scanner": scanner})
    return Cohort(np.clip(images, 0, 1).astype(np.float32)[:, None], problem)


def good(images: np.ndarray) -> np.ndarray:
    """Features that find blobs of any place and brightness: what pretraining on such images should give."""
    found = []
    for sigma in (0.8, 1.2, 1.8, 2.6):
        blobs = gaussian_filter(images[:, 0], (0, sigma, sigma)) - gaussian_filter(
            images[:, 0], (0, 1.6 * sigma, 1.6 * sigma)
        )
        inside = blobs[:, 7:-7, 7:-7].reshape(len(images), -1)
        found += [np.quantile(inside, q, axis=1) for q in (0.02, 0.25, 0.5, 0.75, 0.95, 1.0)]
    return np.stack(found, axis=1)


@cache
def filters(seed: int) -> torch.Tensor:
    return torch.randn(24, 1, 5, 5, generator=torch.Generator().manual_seed(seed)) / 5


def untrained(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Random filters, rectified and averaged over a 2 x 2 grid."""
    maps = F.relu(F.conv2d(torch.from_numpy(images), filters(seed), padding=2))
    return F.adaptive_avg_pool2d(maps, 2).flatten(1).numpy()


def another_untrained(images: np.ndarray) -> np.ndarray:
    """Other random filters."""
    return untrained(images, seed=1)


def collapsed(images: np.ndarray) -> np.ndarray:
    """One point, almost; a probe would still find the disease."""
    return 1 + 1e-4 * good(images)


def shortcut(images: np.ndarray) -> np.ndarray:
    """Nothing but which signs stand in the frame, wherever they are, and how bright it is."""
    signs = torch.from_numpy(np.stack([CHECKS, STRIPES])[:, None]).float()
    found = F.conv2d(torch.from_numpy(images), signs).numpy()
    outer = np.concatenate([found[:, :, :1].reshape(len(images), 2, -1), found[..., -1].reshape(len(images), 2, -1)], 2)
    levels = np.quantile(frame(images), (0.1, 0.5, 0.9), axis=1).T - 0.2
    return np.concatenate([outer.max(2), outer.min(2), outer.std(2), levels], axis=1)


def inside_shortcut(images: np.ndarray) -> np.ndarray:
    """Nothing but which signs stand in the corners just inside the frame, dark on bright or bright on dark."""
    places = [images[:, 0, top : top + 2, left : left + 2] for top, left in INSIDE]
    signs = np.stack([[abs((place * sign).sum((1, 2))) for place in places] for sign in (CROSS, BAR)])  # 2 4 N
    return np.concatenate([*signs, signs.max(1)]).T


def other_domain(images: np.ndarray) -> np.ndarray:
    """Principal components of stripes, on which such an encoder was trained."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIZE, :SIZE]
    angle, phase = rng.uniform(0, np.pi, (2, 300, 1, 1))
    stripes = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 0.9 + 6 * phase).reshape(300, -1)
    basis = np.linalg.svd(stripes - stripes.mean(0), full_matrices=False)[2][:24]
    return images.reshape(len(images), -1) @ basis.T


ENCODERS: Mapping[str, Encode] = {
    "good": good, "random": another_untrained, "collapsed": collapsed, "shortcut": shortcut, "other": other_domain,
}  # fmt: skip


def cover(images: np.ndarray, what: Cover) -> np.ndarray:
    return covered(torch.from_numpy(images), what, torch.arange(len(images))).numpy()


def predicted(judge: Judge, images: np.ndarray, encode: Encode | None) -> Floats:
    """Return what a linear probe makes of the encoder's features, or of pixels without one."""
    if encode is None:
        return judge.predicted(fits.pca_fit(judge.problem, images))
    return judge.predicted(fits.linear_fit(judge.problem, encode(images)))


def audited(made: Cohort, encode: Encode, num_resamples: int = 300, *, pixels: bool = True) -> Audits:
    """Ask what the pixels and features of a cohort can answer, as the verb does of a pool.

    ``pixels`` among the systems decide no warning, and take most of the time.
    """
    judge = Judge(made.problem, "auroc", num_resamples=num_resamples)
    systems: dict[str, Encode | None] = {"encoder": encode, "random": untrained, **({"pixels": None} if pixels else {})}
    plain = {name: predicted(judge, made.images, system) for name, system in systems.items()}
    found: list[Audit] = []
    compared = {}
    for region, see, covering in ((Cover.FRAME, frame, Cover.BORDER), (Cover.CORNERS, corners, Cover.CORNERS)):
        alone = judge.predicted(fits.pca_fit(made.problem, see(made.images)))
        readers = {"pixels": alone}
        if region is Cover.FRAME:
            readers["encoder"] = predicted(judge, cover(made.images, Cover.INTERIOR), encode)
        found.append(region_audit(judge, str(region), readers, plain["encoder"], DELTA))
        hidden = cover(made.images, covering)
        without = {name: predicted(judge, hidden, system) for name, system in systems.items()}
        one, compared[covering] = covering_audit(judge, str(covering), plain, without)
        found.append(one)
    changed = [predicted(judge, cover(made.images, c), encode) for c in (Cover.LOW_PASS, Cover.PATCH_SHUFFLE)]
    found.append(texture_audit(judge, plain["encoder"], *changed, DELTA))
    roles, digests = made.problem.roles, np.array([image.tobytes().hex() for image in made.images])
    copies = {
        "exact": same_digest(digests, roles),
        "look": same_look(encode(made.images), roles, lambda rows: made.images[rows]),
    }
    found.append(duplicate_audit(copies, int((roles == "test").sum()), judge, plain["encoder"]))
    x, how = {"encoder": encode(made.images)}, {"seed": 0, "num_resamples": num_resamples}
    scanner = group_audit(judge, made.problem, "scanner", x, DELTA, **how)
    found += [scanner] if scanner else []
    return Audits(tuple(found), compared[Cover.BORDER])


def gated(made: Cohort, encode: Encode, num_resamples: int = 300, *, closely: bool = True) -> Evaluation:
    """Evaluate an encoder with its baselines and (``closely``) audits; pixels stand for what is learnt from scratch."""
    x = {"encoder": encode(made.images), "random": untrained(made.images)}
    probes = {name: {"linear": fits.linear_fit(made.problem, features)} for name, features in x.items()}
    pixels = fits.pca_fit(made.problem, made.images)
    learners = {"encoder": probes["encoder"]["linear"], "small_resnet": pixels}
    systems = Systems({**probes, "pixels": {"pca": pixels}}, x["encoder"], learners)
    measured = evaluate(made.problem, systems, num_resamples=num_resamples)
    return measured.audited(audited(made, encode, num_resamples)) if closely else measured
