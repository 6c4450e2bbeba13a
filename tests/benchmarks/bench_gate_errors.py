"""How often the gate errs, in simulated cohorts of which the truth is known.

    python tests/benchmarks/bench_gate_errors.py

Every system sees the class of a patient through noise; noises correlate by .8, as those of systems that see the same
images do. Raw pixels and the small ResNet have AUROC .90 throughout, the untrained encoder .74. What learns from few
labels differs between draws of labels by as much as a linear probe on PneumoniaMNIST did (deviation .012).
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from scipy import special, stats

from medssl.evaluation.evaluate import Systems, evaluate
from medssl.evaluation.gate import Decision, GateRule
from medssl.evaluation.problem import Fit, Floats, Problem, Rows

CORRELATION, BETWEEN_DRAWS = 0.8, 0.06  # the latter in units of the shift: .012 of the AUROC around .9
NUM_DEV = 20  # patients that nothing is learnt from here
ENCODERS = {"as the untrained one": 0.74, "worse by .03": 0.87, "as pixels and ResNet": 0.90, "better by .013": 0.913,
            "better by .03": 0.93, "better by .06": 0.96}  # fmt: skip


def main() -> None:
    """Print a row an encoder and a size of cohort."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--patients", type=int, nargs="+", default=[40, 100, 300, 1000])
    args = parser.parse_args()
    print(f"{'encoder':24} {'patients':>8} " + " ".join(f"{decision:>10}" for decision in Decision))
    for name, auroc in ENCODERS.items():
        for num_patients in args.patients:
            said = Counter(verdict(np.random.default_rng(i), num_patients, auroc) for i in range(args.cohorts))
            shares = " ".join(f"{said[decision] / args.cohorts:10.1%}" for decision in Decision)
            print(f"{name:24} {num_patients:8} {shares}", flush=True)


def verdict(rng: np.random.Generator, num_patients: int, auroc: float) -> Decision:
    """Return what the gate says to an encoder of this AUROC in one cohort."""
    sick = rng.permutation(np.arange(num_patients) % 2)
    values = [str(i % 2) for i in range(NUM_DEV)] + [str(s) for s in sick]
    roles = ["dev"] * NUM_DEV + ["test"] * num_patients
    problem = Problem.of("simulated", values, roles, [f"p{i}" for i in range(len(values))])
    seen = np.sqrt(CORRELATION) * rng.normal(size=num_patients)
    seeds = rng.integers(2**32, size=8)

    def system(auroc: float, which: int, *, spread: float = 0.0) -> Fit:
        shift = np.sqrt(2) * stats.norm.ppf(auroc)
        noise = np.random.default_rng(seeds[which]).normal(size=num_patients) * np.sqrt(1 - CORRELATION)

        def fit(train: Rows, val: Rows, test: Rows, seed: int) -> Floats:
            drawn = np.random.default_rng([seed, seeds[which]]).normal() * spread
            p = special.expit(seen + noise + (shift + drawn) * sick)
            return np.stack([1 - p, p], axis=1)

        return fit

    probes = {"encoder": {"linear": system(auroc, 0)}, "random": {"linear": system(0.74, 1)}}
    learners = {
        "encoder": system(auroc, 3, spread=BETWEEN_DRAWS),
        "small_resnet": system(0.90, 4, spread=BETWEEN_DRAWS),
        "pixels": system(0.90, 5, spread=BETWEEN_DRAWS),
    }
    features = rng.normal(size=(len(problem), 16))
    systems = Systems({**probes, "pixels": {"pca": system(0.90, 2)}}, features, learners)
    return evaluate(problem, systems, rule=GateRule(shortcut=False), num_resamples=300).verdict.decision


if __name__ == "__main__":
    main()
