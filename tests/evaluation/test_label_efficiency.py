"""Label-efficiency grids: nested draws, honest spreads, labels to a target, ranks, and a grid that was killed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulated_grid import cohort, features, nine, probe

from medssl.core.errors import EvaluationError
from medssl.core.types import Role
from medssl.evaluation import fits
from medssl.evaluation.curve import Curve, LabelsTo, Use, _reached
from medssl.evaluation.judge import Judge
from medssl.evaluation.label_efficiency import CurveConfig, System, draws, label_efficiency, num_cells
from medssl.evaluation.problem import Kind

GRID = CurveConfig(fractions=(0.05, 0.3, 1.0), seeds=3, target="pixels")


def measured(problem, systems, folder: Path, config: CurveConfig = GRID, **changes) -> Curve:
    return label_efficiency(problem, systems, config, folder, num_resamples=200, **changes)


def test_a_point_has_the_mean_of_its_seeds_with_patient_interval_and_seed_spread_apart(tmp_path: Path) -> None:
    problem = cohort()
    systems = {"ours": probe(problem, 2.0), "pixels": probe(problem, 1.0, seed=2)}
    curve = measured(problem, systems, tmp_path)
    judge = Judge(problem, "auroc", num_resamples=200)
    grid = draws(problem, GRID, 0)
    for i, (point, other) in enumerate(zip(curve.line("ours").points, curve.line("pixels").points, strict=True)):
        ours, theirs = (
            np.stack([systems[name].fit(d.train, d.val, judge.test, d.seed) for d in grid[3 * i : 3 * i + 3]])
            for name in ("ours", "pixels")
        )
        assert point.score == judge.score(ours)
        assert point.difference == judge.difference(ours, theirs, over_draws=True)
        assert other.difference is None
        assert point.by_seed == pytest.approx([judge.score(one).value for one in ours])
        assert point.score.value == pytest.approx(np.mean(point.by_seed))
        assert point.seed_deviation == pytest.approx(np.std(point.by_seed, ddof=1))
        assert point.seed_range == (min(point.by_seed), max(point.by_seed))
        assert point.images == np.mean([len(d.train) for d in grid[3 * i : 3 * i + 3]])
    full = curve.line("ours").points[-1]
    assert full.seed_deviation == 0  # all labels, no chance in learning: no spread, but the patients' interval stays
    assert full.score.high - full.score.low > 0.02


def test_a_killed_grid_goes_on_where_it_was_and_equals_one_never_killed(tmp_path: Path) -> None:
    problem, calls = cohort(150), list[int]()
    whole = measured(problem, {"pixels": probe(problem, 1.0)}, tmp_path / "whole")
    kept = probe(problem, 1.0)

    def fit(train, val, test, seed):
        calls.append(seed)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return kept.fit(train, val, test, seed)

    system = replace(kept, fit=fit)
    with pytest.raises(KeyboardInterrupt):
        measured(problem, {"pixels": system}, tmp_path / "killed")
    assert len(list((tmp_path / "killed").iterdir())) == 4  # nothing half-written
    resumed = measured(problem, {"pixels": system}, tmp_path / "killed")
    assert len(calls) == 5 + 3  # at all labels the three seeds draw alike and nothing is random: one cell
    assert _timeless(resumed) == _timeless(whole)
    measured(problem, {"pixels": system}, tmp_path / "killed")
    assert len(calls) == 8


def _timeless(curve: Curve) -> dict:
    data = curve.to_json()
    for line in data["lines"]:
        for point in line["points"]:
            point.pop("seconds")
    return data


def test_a_cell_is_computed_again_when_it_is_damaged_or_made_from_something_else(tmp_path: Path) -> None:
    problem, calls = cohort(150), list[int]()

    def counted(system: System) -> System:
        return replace(system, fit=lambda *rows: calls.append(1) or system.fit(*rows))

    config = CurveConfig(fractions=(0.3,), seeds=1)
    first = measured(problem, {"pixels": counted(probe(problem, 1.0))}, tmp_path, config)
    (cell,) = tmp_path.iterdir()
    content = cell.read_bytes()
    for place in (5, 6, len(content) // 3):  # flags and version of a zip entry, and its data
        cell.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        again = measured(problem, {"pixels": counted(probe(problem, 1.0))}, tmp_path, config)
        assert _timeless(again) == _timeless(first)
    for damaged in (b"", content[: len(content) // 2]):
        calls.clear()
        cell.write_bytes(damaged)
        again = measured(problem, {"pixels": counted(probe(problem, 1.0))}, tmp_path, config)
        assert len(calls) == 1
        assert _timeless(again) == _timeless(first)
    calls.clear()
    for changed in (probe(problem, 1.5), probe(problem, 1.0, seed=2)):
        measured(problem, {"pixels": counted(changed)}, tmp_path, config)
    other = replace(problem, truth=1 - problem.truth)
    measured(other, {"pixels": counted(probe(problem, 1.0))}, tmp_path, config)
    assert len(calls) == 3


def test_test_labels_reach_no_fit_and_test_rows_no_training(tmp_path: Path) -> None:
    problem, seen = cohort(150), list[tuple]()
    inner = probe(problem, 1.0)

    def fit(train, val, test, seed):
        seen.append((train, val))
        return inner.fit(train, val, test, seed)

    measured(problem, {"pixels": replace(inner, fit=fit)}, tmp_path)
    for train, val in seen:
        assert {*problem.roles[train]} == {"dev"}
        assert {*problem.roles[val]} <= {"val"}
    relabelled = problem.truth.copy()
    test = problem.rows(Role.TEST)
    relabelled[test] = 1 - relabelled[test]
    turned = measured(replace(problem, truth=relabelled), {"pixels": inner}, tmp_path)
    plain = measured(problem, {"pixels": inner}, tmp_path)
    for a, b in zip(plain.line("pixels").points, turned.line("pixels").points, strict=True):
        assert a.by_seed == pytest.approx([1 - value for value in b.by_seed])


def test_shuffled_labels_score_chance_at_every_fraction(tmp_path: Path) -> None:
    problem = cohort(600, 1)
    truth = np.random.default_rng(5).permutation(problem.truth)
    shuffled = replace(problem, truth=truth)
    x = features(problem, 2.0)
    curve = measured(shuffled, {"pixels": System(fits.linear_fit(shuffled, x), "x", False)}, tmp_path)
    assert all(point.score.low < 0.5 < point.score.high for point in curve.line("pixels").points)


class Known:
    """A system whose score follows a formula of the patients it learnt from."""

    def __init__(self, problem, skill) -> None:
        self.problem, self.skill = problem, skill

    def __call__(self, train, val, test, seed):
        num = len(np.unique(self.problem.patients[train]))
        noise = np.random.default_rng(0).normal(size=len(self.problem))[test]
        logit = noise + self.skill(num) * self.problem.truth[test]
        chance = 1 / (1 + np.exp(-logit))
        return np.stack([1 - chance, chance], axis=1)


def known(problem, **skills) -> dict[str, System]:
    return {name: System(Known(problem, skill), name, False) for name, skill in skills.items()}


def test_labels_to_a_target_are_read_off_the_curve_over_log_patients(tmp_path: Path) -> None:
    problem = cohort(800, 1)
    total = len(np.unique(problem.patients[problem.rows(Role.DEV)]))
    systems = known(
        problem,
        target=lambda num: 1.0 + 0.4 * math.log(num / total),  # 1.0 with all
        twice=lambda num: 1.0 + 0.4 * math.log(4 * num / total),  # 1.0 with a quarter
        above=lambda num: 3.0,
        below=lambda num: 0.2,
    )
    config = CurveConfig(fractions=(0.1, 0.2, 0.25, 0.5, 1.0), seeds=2, target="target", reference="target")
    curve = measured(problem, systems, tmp_path, config)
    found = {one.system: one for one in curve.labels_to}
    assert found.keys() == {"twice", "above", "below"}
    assert found["twice"].patients == pytest.approx(0.25 * total, rel=0.05)
    assert found["twice"].low <= found["twice"].patients <= found["twice"].high
    assert found["twice"].share == 1
    assert found["above"].patients == found["above"].fewest == round(0.1 * total)
    assert str(found["above"]).startswith(f"≤ {found['above'].fewest:.0f}")
    assert (found["below"].patients, found["below"].low, found["below"].share) == (None, None, 0)
    assert str(found["below"]) == "not reached"


@pytest.mark.parametrize(("aim", "patients"), [(0.801, 304), (0.81, 338), (0.85, 548), (0.8, 30), (0.75, 17)])
def test_a_plateau_is_reached_where_it_begins_and_left_where_it_ends(aim: float, patients: int) -> None:
    scores = np.array([0.7, 0.8, 0.8, 0.8, 0.9])
    found = _reached(np.array([10.0, 30, 100, 300, 1000]), scores, aim, rising=True)
    assert found == pytest.approx(patients, abs=0.5)


def test_a_difference_is_as_unsure_as_the_draws_of_labels_make_it(tmp_path: Path) -> None:
    problem = cohort(400, 1)
    rng = np.random.default_rng(0)
    lucky = dict(zip(range(3), (0.2, 3.0, 1.0), strict=True))

    def fit(train, val, test, seed):  # what is learnt depends on the draw alone
        logit = rng.normal(size=len(problem))[test] + lucky[seed] * problem.truth[test]
        return np.stack([1 / (1 + np.exp(logit)), 1 / (1 + np.exp(-logit))], axis=1)

    systems = {"ours": System(fit, "ours"), "pixels": known(problem, pixels=lambda num: 0.5)["pixels"]}
    point = measured(problem, systems, tmp_path, CurveConfig(fractions=(0.3,), seeds=3)).line("ours").points[0]
    assert point.difference.low < 0 < point.difference.high
    assert point.difference.high - point.difference.low > 1.5 * (point.score.high - point.score.low)


def test_what_cannot_be_judged_is_said_before_anything_learns(tmp_path: Path) -> None:
    problem, learnt = cohort(80, 1), list[int]()
    systems = {"pixels": System(lambda *given: learnt.append(1), "never")}
    test = problem.roles == "test"
    blind = replace(problem, truth=np.where(test, 0.0, problem.truth))
    with pytest.raises(EvaluationError, match="undefined"):
        measured(blind, systems, tmp_path)
    with pytest.raises(EvaluationError, match="r2"):
        measured(problem, systems, tmp_path, metric="r2")
    assert not learnt


def test_lower_is_better_where_it_is_and_a_regression_has_a_curve_too(tmp_path: Path) -> None:
    classes = cohort(400, 1)
    truth = np.random.default_rng(0).normal(size=len(classes))
    problem = replace(classes, kind=Kind.REGRESSION, names=(), truth=truth)
    rng = np.random.default_rng(1)
    close, far = (truth[:, None] + noise * rng.normal(size=(len(truth), 6)) for noise in (0.3, 3.0))
    systems = {n: System(fits.linear_fit(problem, x), n, False) for n, x in {"near": close, "pixels": far}.items()}
    curve = measured(problem, systems, tmp_path)
    assert curve.metric == "mae"
    near, pixels = curve.line("near").points[-1], curve.line("pixels").points[-1]
    assert near.score.value < pixels.score.value
    assert near.difference is not None
    assert near.difference.low > 0  # turned so that positive is better
    (reached,) = curve.labels_to
    assert reached.patients == reached.fewest


def test_ranks_that_training_turns_are_named_with_both_paired_differences(tmp_path: Path) -> None:
    problem = cohort(700, 1)
    systems = {
        "a.probe": replace(probe(problem, 2.5, seed=1), encoder="a", use=Use.PROBE),
        "b.probe": replace(probe(problem, 1.0, seed=2), encoder="b", use=Use.PROBE),
        "c.probe": replace(probe(problem, 0.1, seed=3), encoder="c", use=Use.PROBE),
        "a.tuned": replace(probe(problem, 1.0, seed=4), encoder="a", use=Use.TUNED),
        "b.tuned": replace(probe(problem, 2.5, seed=5), encoder="b", use=Use.TUNED),
        "c.tuned": replace(probe(problem, 0.1, seed=6), encoder="c", use=Use.TUNED),
    }
    config = CurveConfig(fractions=(0.05, 0.3, 1.0), seeds=3)
    curve = measured(problem, systems, tmp_path, config)
    last = curve.disagreements[-1]
    assert last.encoders == ("a", "b", "c")
    assert last.tau == pytest.approx(1 / 3)  # one of three pairs turned
    (swap,) = last.swaps
    assert (swap.a, swap.b) == ("a", "b")
    assert swap.probing.value > 0 > swap.training.value
    assert swap.is_proven
    alone = {name: system for name, system in systems.items() if system.encoder == "a"}
    assert measured(problem, alone, tmp_path, config).disagreements == ()


def test_a_curve_survives_json(tmp_path: Path) -> None:
    problem = cohort(150)
    systems = {name: nine(problem)[name] for name in ("encoder.probe", "encoder.tuned", "random.probe", "scratch")}
    curve = measured(problem, systems, tmp_path, CurveConfig(fractions=(0.3, 1.0), seeds=1, target="scratch"))
    text = json.dumps(curve.to_json(), allow_nan=False)
    assert Curve.from_json(json.loads(text)) == curve
    assert curve.reference == ""  # pixels were not in the grid
    assert math.isnan(curve.lines[0].points[0].seed_deviation)
    assert all(isinstance(one, LabelsTo) for one in curve.labels_to)


def test_fractions_that_buy_equally_many_are_one_and_progress_is_told(tmp_path: Path) -> None:
    problem, said = cohort(60, 1), list[str]()
    config = CurveConfig(fractions=(0.01, 0.02, 1.0), seeds=2)
    systems = {"pixels": probe(problem, 1.0)}
    curve = measured(problem, systems, tmp_path, config, advance=said.append)
    assert curve.lines[0].points[0].patients == 2  # one of each class at least
    assert len(curve.lines[0].points) == 2
    assert len(said) == num_cells(systems, config, problem) == 5


def test_an_unknown_system_is_refused_with_the_closest_name_and_no_labels_with_their_number(tmp_path: Path) -> None:
    problem = cohort(60, 1)
    with pytest.raises(EvaluationError, match="unknown 'pixel': did you mean 'pixels'"):
        measured(problem, {"pixels": probe(problem, 1.0)}, tmp_path, CurveConfig(systems=("pixel",)))
    with pytest.raises(EvaluationError, match=r"curve\.target: unknown 'pixel': did you mean 'pixels'"):
        measured(problem, {"pixels": probe(problem, 1.0)}, tmp_path, CurveConfig(target="pixel"))
    blank = replace(problem, truth=np.where(problem.roles == "test", np.nan, problem.truth))
    with pytest.raises(EvaluationError, match="0 test rows"):
        measured(blank, {"pixels": probe(problem, 1.0)}, tmp_path)
