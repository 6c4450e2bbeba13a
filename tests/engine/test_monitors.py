"""Monitors: what they see, when they speak, and that they leave training as it was."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_feed import CPU, IMAGES, Images, Memory, method
from ranks import on_ranks
from torch import Tensor, nn

from medssl.core.batch import Progress, Views
from medssl.core.errors import Preempted
from medssl.core.keys import view_keys
from medssl.engine.loop import Session, train
from medssl.engine.monitors.base import Monitor, evaluating
from medssl.engine.monitors.loader import LoaderMonitor, advice
from medssl.engine.monitors.method import MethodMonitor
from medssl.engine.monitors.pictures import PicturesMonitor
from medssl.engine.monitors.representation import RepresentationMonitor, pooled
from medssl.engine.monitors.system import SystemMonitor
from medssl.engine.optim import LoopConfig
from medssl.evaluation.representation import feature_std, rankme

VIT = {"width": 24, "depth": 2, "heads": 2, "patch": 4}
FLOORS = {"feature_std": 0.01, "rankme": 2.0}
ANYTHING = nn.Identity()


def figures(features: np.ndarray) -> dict[str, float]:
    return {"feature_std": feature_std(features), "rankme": rankme(features)}


def representation(model: Any, every: int) -> RepresentationMonitor:
    start = figures(pooled(model.encoder, IMAGES))
    return RepresentationMonitor(model.encoder, IMAGES, figures, FLOORS, every, start)


def looks(values: Sequence[float], start: float = 5.0) -> list[int]:
    """Return at which of the looks that find ``values`` (floor 2) the alarm is raised."""
    model, found = method("rotation", "resnet", {"depth": 10, "width": 8}), iter(values)
    monitor = RepresentationMonitor(
        model.encoder, IMAGES[:2], lambda _: {"rankme": next(found)}, {"rankme": 2.0}, 1, {"rankme": start}
    )
    seen = [monitor.after_step(ANYTHING, Progress(i + 1, 99), {}) for i in range(len(values))]
    return [i for i, one in enumerate(seen) if one is not None and one.alarms]


@pytest.mark.parametrize(
    ("values", "start", "alarms"),
    [
        ([1.1, 1.05, 1.04, 1.04], 5.0, [1]),  # told at the second look, and once
        ([1.1, 3.0, 1.1, 3.0], 5.0, []),  # dips of one look
        ([1.1, 1.3, 1.7, 2.5], 5.0, []),  # on the rise
        ([1.4, 1.4, 1.4, 1.4], 1.3, []),  # no worse than untrained
        ([1.1, 1.1, 9.0, 1.1, 1.1], 5.0, [1, 4]),  # told again after a recovery
    ],
)
def test_a_collapse_is_told_at_the_second_look_and_a_dip_is_not(
    values: list[float], start: float, alarms: list[int]
) -> None:
    assert looks(values, start) == alarms


RECIPES = [("mae", "vit", VIT, "adamw", 0.064), ("rotation", "resnet", {"depth": 10, "width": 8}, "sgd", 1.6)]


@pytest.mark.parametrize("scale", [1, 100])
@pytest.mark.parametrize(("name", "encoder", "config", "optimiser", "lr"), RECIPES)
def test_a_hundredfold_rate_raises_the_alarm_within_three_looks_and_the_right_one_never(
    name: str, encoder: str, config: dict[str, Any], optimiser: str, lr: float, scale: int, tmp_path: Path
) -> None:
    model, feed, journal = method(name, encoder, config), Images(8), Memory()
    every = 2 * feed.steps_per_epoch
    loop = LoopConfig(epochs=10, batch_size=8, optimiser=optimiser, lr=lr * scale, log_steps=1)
    monitors = [representation(model, every), MethodMonitor(model)]
    train(model, feed, loop, Session(tmp_path, journal, monitors=monitors), CPU)
    assert sum("rankme" in seen for _, seen in journal.seen) == 5
    assert bool(journal.notes) == (scale == 100), journal.notes
    if scale == 100:
        step, text = re.fullmatch(r"step (\d+): (.*)", journal.notes[0]).groups()  # type: ignore[union-attr]
        assert int(step) <= 3 * every
        assert "the representation is collapsing" in text


def test_a_collapse_is_told_though_the_run_is_stopped_after_every_look(tmp_path: Path) -> None:
    model, journal = method("mae", "vit", VIT), Memory()
    loop = LoopConfig(epochs=4, batch_size=24, log_steps=1)
    for step in (1, 2, 3):
        encoder: Any = model.encoder
        watch = RepresentationMonitor(encoder, IMAGES, lambda features: {"rankme": 1.01}, {"rankme": 2.0}, 1)
        session = Session(tmp_path, journal, monitors=[watch], resume=step > 1, stop_after=step)
        with pytest.raises(Preempted):
            train(model, Images(24), loop, session, CPU)
    assert len([note for note in journal.notes if "is collapsing" in note]) == 1


def test_features_that_are_no_longer_finite_are_told_once() -> None:
    model = method("rotation", "resnet", {"depth": 10, "width": 8})
    monitor = representation(model, 1)
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(torch.nan)
    seen = [monitor.after_step(model, Progress(i, 9), {}) for i in (1, 2)]
    assert [one.alarms for one in seen if one] == [("the features are no longer finite",), ()]


def test_features_do_not_depend_on_how_many_are_taken_at_once() -> None:
    encoder: Any = method("mae", "vit", VIT).encoder
    assert np.allclose(pooled(encoder, IMAGES), pooled(encoder, IMAGES, batch_size=5), atol=1e-6)


def batch(num: int = 4, images: Tensor = IMAGES) -> Views:
    keys = torch.from_numpy(view_keys(0, 0, np.arange(num), 1))
    return Views((images[:num],), keys, torch.arange(num))


def all_monitors(model: Any, folder: Path) -> list[Monitor]:
    drawn = PicturesMonitor(model, batch(), {"image": IMAGES[:4]}, lambda *_: _[2], folder, 1)
    return [representation(model, 1), MethodMonitor(model), SystemMonitor(folder), LoaderMonitor("wait"), drawn]


@pytest.mark.parametrize(("name", "encoder", "config"), [r[:3] for r in RECIPES])
def test_watching_changes_no_bit_of_training(name: str, encoder: str, config: dict[str, Any], tmp_path: Path) -> None:
    config = {**config, **({"drop_path": 0.2} if encoder == "vit" else {})}
    states, generators = [], []
    for watched in (False, True):
        model = method(name, encoder, config)
        torch.manual_seed(3)
        monitors = all_monitors(model, tmp_path) if watched else []
        session = Session(tmp_path / str(watched), Memory(), monitors=monitors)
        train(model, Images(6), LoopConfig(epochs=2, batch_size=6, lr=1e-2, log_steps=1), session, CPU)
        assert all(module.training for module in model.modules())
        states.append(model.state_dict())
        generators.append(torch.get_rng_state())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert torch.equal(*generators)


def test_a_module_that_stood_in_eval_mode_still_does_after_a_look() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [True, True, False, False, False]


class Uneasy:
    """A method whose alarms carry numbers."""

    def alarms(self, figures: Mapping[str, float], progress: Progress) -> tuple[str, ...]:
        loss = (f"loss {figures['loss']:.3g} is at ln 4, after {progress.fraction:.0%}",)
        return loss + (("the teacher is uniform",) if progress.step > 2 else ())


def test_an_alarm_of_the_method_is_told_once_whatever_its_numbers() -> None:
    monitor: Any = MethodMonitor(Uneasy())  # type: ignore[arg-type]
    assert monitor.after_step(ANYTHING, Progress(1, 9), {}) is None  # no report, no question
    seen = [monitor.after_step(ANYTHING, Progress(i, 9), {"loss": 10.0**-i}) for i in range(1, 6)]
    assert [one.alarms if one else () for one in seen] == [
        ("loss 0.1 is at ln 4, after 11%",), (), ("the teacher is uniform",), (), (),
    ]  # fmt: skip


def test_a_loader_bound_run_says_once_what_to_change() -> None:
    monitor = LoaderMonitor("raise loop.workers")
    waits = [0.5, 0.5, 0.05, 0.2, 0.2, 0.2, 0.9, 0.9, 0.9, 0.9]
    seen = [monitor.after_step(ANYTHING, Progress(i, 99), {"data_wait": w}) for i, w in enumerate(waits)]
    assert [i for i, one in enumerate(seen) if one] == [5]
    assert seen[5].alarms == ("loader-bound: 20% of the time goes by waiting for data; raise loop.workers",)


@pytest.mark.parametrize(
    ("workers", "crops", "compressed", "cropped", "words"),
    [
        (0, 1, False, False, ["raise loop.workers from 0 to 7"]),
        (7, 1, False, True, ["loop.crops=4"]),
        (7, 4, True, True, ["prepare.codec=none"]),
        (0, 1, True, True, ["loop.workers", "loop.crops", "prepare.codec"]),
        (7, 4, False, True, ["faster disk"]),
    ],
)
def test_the_advice_follows_the_facts(
    workers: int, crops: int, compressed: bool, cropped: bool, words: list[str]
) -> None:
    told = advice(LoopConfig(workers=workers, crops=crops), compressed=compressed, cropped=cropped, cores=8)
    options = ("loop.workers", "loop.crops", "prepare.codec", "faster disk")
    assert all(word in told for word in words)
    assert [o for o in options if o in told] == [o for o in options if any(o in word for word in words)]


@pytest.mark.parametrize(
    ("environment", "workers"),
    [
        ({}, 7),
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "16"}, 1),  # torchrun: four processes share these cores
        ({"SLURM_NTASKS_PER_NODE": "8", "SLURM_NTASKS": "16", "WORLD_SIZE": "16"}, 7),  # srun: they are the task's own
    ],
)
def test_workers_are_advised_by_the_cores_that_a_process_has(
    environment: dict[str, str], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = advice(LoopConfig(workers=0), compressed=False, cropped=False, cores=8)
    assert told.startswith(f"raise loop.workers from 0 to {workers} ")


def test_workers_are_advised_alike_on_each_of_srun_s_tasks() -> None:
    assert {told.split(" (")[0] for told in on_ranks(2, _advised)} == {"raise loop.workers from 0 to 7"}


def _advised() -> str:
    return advice(LoopConfig(workers=0), compressed=False, cropped=False, cores=8)


def test_the_machine_is_read_at_reports_only(tmp_path: Path) -> None:
    monitor = SystemMonitor(tmp_path)
    assert monitor.after_step(ANYTHING, Progress(1, 9), {}) is None
    sum(i * i for i in range(200_000))
    seen = monitor.after_step(ANYTHING, Progress(2, 9), {"loss": 1.0})
    assert seen is not None
    values: Any = seen.figures
    assert {"system/cpu_cores", "system/load", "system/disk_free_gib"} <= set(values)
    assert values["system/cpu_cores"] > 0
    assert 0.01 < values.get("system/rss_gib", 1.0) < 1000


def test_pictures_hold_the_seen_parts_and_repeat_at_each_look(tmp_path: Path) -> None:
    model, sheets = method("mae", "vit", VIT), dict[str, tuple[Any, ...]]()

    def draw(pictures: Any, captions: Any, out: Path, columns: int) -> Path:
        sheets[out.name] = pictures, captions, columns
        return out

    monitor = PicturesMonitor(model, batch(), {"image": IMAGES[:4], "view 1": IMAGES[:4]}, draw, tmp_path, 10)
    for step in (1, 5, 10, 20):
        monitor.after_step(model, Progress(step, 99), {})
    names = ["views.png", "task-00000010.png", "tokens-00000010.png", "task-00000020.png", "tokens-00000020.png"]
    assert [name for name in sheets if not name.startswith("attention")] == names
    pictures, captions, columns = sheets["task-00000010.png"]
    assert (captions[:3], columns, len(pictures)) == (["original", "seen", "reconstructed"], 6, 12)
    original, seen, reconstructed = (np.stack(pictures[i::3]) for i in range(3))
    assert np.allclose(original, IMAGES[:4, 0], atol=1e-6)
    kept = np.isclose(seen, original)
    assert 0.2 < kept.mean() < 0.3  # a quarter of the patches
    assert np.allclose(reconstructed[kept], original[kept])
    assert not np.allclose(reconstructed[~kept], original[~kept])
    again = sheets["task-00000020.png"][0]
    assert all(np.array_equal(one, two) for one, two in zip(pictures, again, strict=True))


def _watched_on_ranks(folder: Path) -> tuple[list[str], list[str]]:
    torch.set_default_dtype(torch.float32)
    model, journal = method("mae", "vit", VIT), Memory()
    drawn = PicturesMonitor(model, batch(), {"image": IMAGES[:4]}, lambda *given: given[2], folder, 4)
    session = Session(folder, journal, monitors=[representation(model, 4), drawn, MethodMonitor(model)])
    config = LoopConfig(epochs=1, batch_size=6, lr=1e-2, log_steps=4, distribution="fsdp")
    train(model, Images(6), config, session, CPU)
    return [path.name for path in journal.artifacts], [name for _, seen in journal.seen for name in seen]


def test_a_sharded_model_is_pictured_by_the_first_process_alone(tmp_path: Path) -> None:
    (first, figures_of_first), (second, figures_of_second) = on_ranks(2, _watched_on_ranks, tmp_path)
    assert [name.partition("-")[0] for name in first] == ["views.png", "task", "tokens", "attention"]
    assert second == []
    assert "rankme" in figures_of_first
    assert figures_of_first == figures_of_second
