"""How often a 95 % interval holds the true value: patients with correlated rows, their number, the metric, the method.

Each simulated patient has 1 to 5 images; half of the variance of their scores is the patient's own. System ``b`` is
weaker than ``a`` and correlated with it by .8, so ``difference`` is a paired comparison with a known truth. The truth
of a metric without a closed form is its value on 40,000 patients. Methods:

    percentile   quantiles of the resamples (Efron 1979)
    expanded     quantiles at the level that t and n / (n - 1) ask for (Hesterberg 2014, arXiv:1411.5279)
    bca          bias-corrected and accelerated, jackknife over patients (Efron 1987)
    logit-t      value and bootstrap standard error on the logit scale, t quantiles
    medssl       what ``patient_bootstrap`` and ``paired_difference`` give

    python tests/benchmarks/bench_intervals.py --simulations 2000 --patients 20 40 100 300
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medssl.evaluation.bootstrap import paired_difference, patient_bootstrap, resampled
from medssl.evaluation.metrics import metric_named

Floats = NDArray[np.float64]
Interval = tuple[float, float]
NORMAL = NormalDist()
LEVEL = 0.95
WEAKER = 0.8


def main() -> None:
    """Print coverage, misses on both sides and mean width of each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--patients", type=int, nargs="+", default=[20, 40, 100, 300])
    parser.add_argument("--metrics", nargs="+", default=["auroc"])
    parser.add_argument("--shift", type=float, default=1.2, help="of the positive scores: 1.2 is an AUROC of .80")
    parser.add_argument("--prevalence", type=float, default=0.5)
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()
    print(
        f"{'metric':24} {'patients':>8} {'method':>10} {'covers':>7} {'true below':>10} {'true above':>10} {'width':>6}"
    )
    for metric in args.metrics:
        truth = true_values(metric, args.shift, args.prevalence)
        for num_patients in args.patients:
            found = simulate(metric, truth, num_patients, args)
            for (figure, method), rows in found.items():
                low, high, expected = np.array(rows).T
                below, above = (expected < low).mean(), (expected > high).mean()
                covers, width = 1 - below - above, (high - low).mean()
                print(
                    f"{figure:24} {num_patients:8} {method:>10} {covers:7.3f} {below:10.3f} {above:10.3f} {width:6.3f}",
                    flush=True,
                )


def cohort(
    rng: np.random.Generator, num_patients: int, shift: float, prevalence: float
) -> tuple[NDArray[np.int64], Floats, Floats, NDArray[np.int64]]:
    """Return truth, the probabilities ``N 2`` of two systems, and patients."""
    patient = np.repeat(np.arange(num_patients), rng.integers(1, 6, num_patients))
    sick = rng.permutation(np.arange(num_patients) < round(prevalence * num_patients))
    truth = sick[patient].astype(np.int64)

    def noise() -> Floats:
        return np.sqrt(0.5) * (rng.normal(size=num_patients)[patient] + rng.normal(size=len(patient)))

    ours = noise()
    scores = truth * shift + ours, truth * WEAKER * shift + 0.8 * ours + 0.6 * noise()
    a, b = (np.asarray(stats.norm.cdf(score - shift / 2)) for score in scores)
    return truth, np.stack([1 - a, a], axis=1), np.stack([1 - b, b], axis=1), patient


def true_values(metric: str, shift: float, prevalence: float) -> Mapping[str, float]:
    """Return the value of system a, and a minus b turned so that positive is better."""
    measure = metric_named(metric)
    if metric == "auroc":
        a, b = (NORMAL.cdf(s * shift / np.sqrt(2)) for s in (1, WEAKER))
    else:
        truth, given_a, given_b, _ = cohort(np.random.default_rng(0), 40_000, shift, prevalence)
        a, b = (float(measure(truth, p, np.ones((1, len(truth))))[0]) for p in (given_a, given_b))
    return {metric: a, f"{metric} difference": (a - b) if measure.higher_is_better else (b - a)}


def simulate(
    metric: str, expected: Mapping[str, float], num_patients: int, args: argparse.Namespace
) -> Mapping[tuple[str, str], list[tuple[float, float, float]]]:
    """Return, by figure and method, (low, high, truth) of each simulation."""
    measure, rng = metric_named(metric), np.random.default_rng(num_patients)
    found = defaultdict(list)
    sign = 1 if measure.higher_is_better else -1
    for seed in range(args.simulations):
        truth, a, b, patients = cohort(rng, num_patients, args.shift, args.prevalence)
        figures = {
            metric: lambda w, t=truth, p=a: measure(t, p, w),
            f"{metric} difference": lambda w, t=truth, p=a, q=b: sign * (measure(t, p, w) - measure(t, q, w)),
        }
        scores = {
            metric: patient_bootstrap(metric, truth, a, patients, seed=seed, num=args.resamples),
            f"{metric} difference": paired_difference(metric, truth, a, b, patients, seed=seed, num=args.resamples),
        }
        for name, figure in figures.items():
            value, values = resampled(figure, patients, seed=seed, num=args.resamples)
            left_out = figure((1.0 - np.eye(num_patients))[:, patients])
            methods = {
                "percentile": tuple(np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])),
                "expanded": expanded(values, num_patients),
                "bca": bca(value, values, left_out),
                "medssl": (scores[name].low, scores[name].high),
            }
            if name == metric and 0 < value < 1:
                methods["logit-t"] = logit_t(value, values, num_patients)
            for method, (low, high) in methods.items():
                found[name, method].append((float(low), float(high), expected[name]))
    return found


def expanded(values: Floats, num_patients: int) -> Interval:
    """Return quantiles at the level at which a normal interval would have the width of a t interval."""
    t = stats.t.ppf((1 + LEVEL) / 2, num_patients - 1)
    tail = NORMAL.cdf(-float(t) * np.sqrt(num_patients / (num_patients - 1)))
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bca(value: float, values: Floats, left_out: Floats) -> Interval:
    """Return Efron's bias-corrected and accelerated interval."""
    share = np.mean(values < value) + np.mean(values == value) / 2
    bias = NORMAL.inv_cdf(float(np.clip(share, 0.5 / len(values), 1 - 0.5 / len(values))))
    pull = np.nanmean(left_out) - left_out[~np.isnan(left_out)]
    spread = float((pull**2).sum())
    skew = (pull**3).sum() / (6 * spread**1.5) if spread else 0.0
    z = [bias + NORMAL.inv_cdf(q) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    low, high = np.quantile(values, [NORMAL.cdf(bias + each / (1 - skew * each)) for each in z])
    return float(low), float(high)


def logit_t(value: float, values: Floats, num_patients: int) -> Interval:
    """Return value and standard error carried to the logit scale and back."""
    centre = np.log(value / (1 - value))
    reach = stats.t.ppf((1 + LEVEL) / 2, num_patients - 1) * values.std(ddof=1) / (value * (1 - value))
    return float(1 / (1 + np.exp(reach - centre))), float(1 / (1 + np.exp(-reach - centre)))


if __name__ == "__main__":
    main()
