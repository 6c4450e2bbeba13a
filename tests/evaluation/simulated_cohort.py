"""Encoders that are simulated: features of patients whose class is in them or buried, measured as an encoder is."""

from dataclasses import dataclass

import numpy as np

from medssl.evaluation import fits
from medssl.evaluation.evaluate import Systems, evaluate
from medssl.evaluation.gate import GateRule
from medssl.evaluation.problem import Problem


def cohort(seed=0, num_patients=360, signal=1.5, labels="all"):
    """Two images a patient; the class shifts two of ten latent factors. Returns latent factors and the columns."""
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{i:04}" for i in range(num_patients)], 2)
    sick = np.repeat(rng.integers(2, size=num_patients), 2)
    roles = np.repeat(np.array(["dev", "val", "test"])[np.searchsorted([0.5, 0.7], rng.random(num_patients))], 2)
    latent = rng.normal(size=(2 * num_patients, 10))
    latent[:, :2] += signal * sick[:, None]
    truth = [None if labels == "none" else ("sick" if s else "well") for s in sick]
    return rng, latent, truth, roles, patients


def views_of(rng, latent, noise):
    """Forty features that mix the latent factors, with noise that buries them or not."""
    return latent @ rng.normal(size=(10, 40)) + noise * rng.normal(size=(len(latent), 40))


def judged(encoder_noise=0.3, random_noise=8.0, pixel_noise=3.0, resnet_noise=3.0, **cohort_changes):
    rng, latent, truth, roles, patients = cohort(**cohort_changes)
    noises = {"encoder": encoder_noise, "random": random_noise, "pixels": pixel_noise, "small_resnet": resnet_noise}
    systems = {name: views_of(rng, latent, noise) for name, noise in noises.items()}
    return Simulated(systems, truth, roles, patients)


@dataclass(frozen=True)
class Simulated:
    """Features of each system; of pixels PCA is taken, of others kNN and a linear probe; the ResNet learns from few."""

    systems: dict
    truth: list
    roles: np.ndarray
    patients: np.ndarray

    def measured(self, **arguments):
        problem = Problem.of("t", list(self.truth), list(self.roles), list(self.patients))
        probes = {
            name: {"pca": fits.pca_fit(problem, x)}
            if name == "pixels"
            else {"knn": fits.knn_fit(problem, x, name), "linear": fits.linear_fit(problem, x, name)}
            for name, x in self.systems.items()
            if name != "small_resnet"
        }
        few = {name: fits.linear_fit(problem, self.systems[name]) for name in ("encoder", "small_resnet")}
        uncovered = {"rule": GateRule(shortcut=False)}  # these have no images
        return evaluate(problem, Systems(probes, next(iter(self.systems.values())), few), **{**uncovered, **arguments})
