"""Simulated patients and systems of known worth for label-efficiency grids; nothing here trains a network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medssl.evaluation import fits
from medssl.evaluation.curve import Use
from medssl.evaluation.label_efficiency import System
from medssl.evaluation.problem import Problem


def cohort(num_patients: int = 400, images_each: int = 2, seed: int = 0, labelled: float = 1.0) -> Problem:
    """Return a problem of two classes, a third of the patients sick, with roles drawn at 60/15/25 %."""
    rng = np.random.default_rng(seed)
    sick = rng.random(num_patients) < 1 / 3
    roles = rng.choice(["dev", "val", "test"], num_patients, p=[0.6, 0.15, 0.25])
    known = rng.random(num_patients) < labelled
    words = [("sick" if s else "well") if k else None for s, k in zip(sick, known, strict=True)]
    each = np.repeat(np.arange(num_patients), images_each)
    return Problem.of("t", [words[i] for i in each], roles[each].tolist(), [f"p{i:05}" for i in each])


def features(problem: Problem, signal: float, width: int = 20, seed: int = 1) -> np.ndarray:
    """Return ``N D`` noise in which ``signal`` standard deviations of one direction tell the classes apart."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(problem), width))
    x[:, 0] += signal * np.nan_to_num(problem.truth)
    return x


def probe(problem: Problem, signal: float, encoder: str = "", seed: int = 1, **changes: object) -> System:
    """Return a linear probe on such features."""
    x = features(problem, signal, seed=seed)
    use = Use.PROBE if encoder else Use.OTHER
    return System(fits.linear_fit(problem, x), f"{signal} {seed}", False, encoder, use, **changes)  # type: ignore[arg-type]


def nine(problem: Problem) -> Mapping[str, System]:
    """Return a system of every name that a study's curve has."""
    tuned = {"encoder.tuned": ("encoder", 2.2, False), "scratch": ("random", 1.5, True)}
    made = {
        "encoder.probe": probe(problem, 2.0, "encoder", 1),
        "random.probe": probe(problem, 1.1, "random", 2, baseline=True),
        "small_resnet": probe(problem, 1.7, seed=3, baseline=True),
        "pixels": probe(problem, 1.4, seed=4, baseline=True),
        "frame": probe(problem, 0.5, seed=5, baseline=True),
        "thumbnail": probe(problem, 0.8, seed=6, baseline=True),
    }
    for name, (encoder, signal, baseline) in tuned.items():
        fit = fits.linear_fit(problem, features(problem, signal, 40, seed=7))
        made[name] = System(fit, f"{name} {signal}", False, encoder, Use.TUNED, baseline)
    return made
