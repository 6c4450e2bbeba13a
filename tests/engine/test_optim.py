"""Schedules, parameter groups and precision: what a step is taken with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from memory_feed import CPU, IMAGES, Images, Memory, Regression, method
from pydantic import ValidationError
from torch import nn

from medssl.core.batch import ParamGroup, Progress, Views, decay_groups
from medssl.core.errors import TrainingError
from medssl.engine.loop import Session, train
from medssl.engine.optim import LoopConfig, build_optimiser, decay_factor, layered, learning_rate, peak_rate
from medssl.engine.step import Stepper

VIT = {"width": 24, "depth": 2, "heads": 2, "patch": 4}


def test_the_schedule_warms_up_peaks_at_the_scaled_rate_and_ends_near_zero() -> None:
    config = LoopConfig(epochs=1, batch_size=128, accumulate=4, lr=1e-3, warmup_fraction=0.1)
    rates = [learning_rate(s, 100, config) for s in range(100)]
    assert max(rates) == pytest.approx(2e-3)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-5


@pytest.mark.parametrize(
    ("rule", "per", "expected"), [("linear", 256, 2e-3), ("linear", 512, 1e-3), ("sqrt", 1024, 7.0710678e-4)]
)
def test_the_rate_scales_with_the_images_a_step_by_the_papers_rule(rule: str, per: int, expected: float) -> None:
    config = LoopConfig.parse({"lr": 1e-3, "batch_size": 128, "accumulate": 4, "lr_rule": rule, "lr_batch": per})
    assert peak_rate(config) == pytest.approx(expected)


def test_a_constant_schedule_stays_and_a_cosine_ends_where_it_is_told() -> None:
    constant = LoopConfig(batch_size=256, lr=1e-3, schedule="constant", warmup_fraction=0.1)
    assert {learning_rate(s, 100, constant) for s in range(10, 100)} == {1e-3}
    ends = LoopConfig(batch_size=256, lr=1e-3, lr_end=0.1, warmup_fraction=0.0)
    assert learning_rate(100, 100, ends) == pytest.approx(1e-4)


def test_weight_decay_moves_by_half_a_cosine_and_what_is_not_decayed_stays_so() -> None:
    config = LoopConfig(epochs=1, batch_size=6, weight_decay=0.04, weight_decay_end=0.4)
    factors = [decay_factor(s, 100, config) * 0.04 for s in (0, 50, 100)]
    assert factors == pytest.approx([0.04, 0.22, 0.4])
    stepper = Stepper(Regression(), config, CPU)
    views = Views((IMAGES[:6],), torch.arange(6).unsqueeze(1), torch.arange(6))
    stepper.take([views], Progress(50, 100))
    assert sorted({g["weight_decay"] for g in stepper.optimiser.param_groups}) == pytest.approx([0.0, 0.22])


def test_biases_and_norms_are_not_decayed_and_heads_may_learn_faster() -> None:
    parts = {"a": (nn.Linear(2, 2), 1.0), "b": (nn.LayerNorm(2), 0.1)}
    optimiser = build_optimiser(decay_groups(parts, 0.5), LoopConfig())
    assert [(g["weight_decay"], g["lr_scale"]) for g in optimiser.param_groups] == [(0.5, 1.0), (0.0, 1.0), (0.0, 0.1)]


def test_deeper_layers_learn_faster_and_the_head_at_the_full_rate() -> None:
    class Whole(nn.Module):
        """Positions, a layer, a norm, two layers, a norm; and a head."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Module(), nn.Linear(2, 2)
            self.encoder.positions = nn.Parameter(torch.zeros(2))
            self.encoder.parts = nn.ModuleList([nn.LayerNorm(2) if i in (1, 4) else nn.Linear(2, 2) for i in range(5)])

        def layers(self) -> list[nn.Module]:
            return [self.encoder.parts[i] for i in (0, 2, 3)]

    whole = Whole()
    layers = whole.layers()
    groups = layered(decay_groups({"all": (whole, 2.0)}, 0.1), whole, 0.5)
    scales = {id(p): g.lr_scale for g in groups for p in g.params}
    assert [scales[id(layer.weight)] for layer in layers] == [0.25, 0.5, 1.0]
    assert scales[id(whole.head.bias)] == 2.0
    assert scales[id(whole.encoder.positions)] == scales[id(whole.encoder.parts[1].weight)] == 0.25  # as the stem
    assert scales[id(whole.encoder.parts[4].weight)] == 2.0
    assert len(scales) == len(list(whole.parameters()))
    assert layered(groups, whole, 1.0) is groups


def test_a_group_stays_still_for_its_frozen_epochs_and_keeps_no_momentum_of_them() -> None:
    class Half(Regression):
        def parameter_groups(self, weight_decay: float) -> list[ParamGroup]:
            first, last = self.net[1], self.net[3]
            frozen = ParamGroup("last", list(last.parameters()), 0.1, frozen_epochs=1)
            return [*decay_groups({"first": (first, 1.0)}, weight_decay), frozen]

    model = Half()
    before = model.net[3].weight.detach().clone()
    stepper = Stepper(model, LoopConfig(lr=1e-2), CPU)
    views = Views((IMAGES[:6],), torch.arange(6).unsqueeze(1), torch.arange(6))
    stepper.take([views], Progress(0, 8, epoch=0))
    assert torch.equal(model.net[3].weight, before)
    assert not stepper.optimiser.state[model.net[3].weight]
    stepper.take([views], Progress(4, 8, epoch=1))
    assert not torch.equal(model.net[3].weight, before)


def losses_of(config: LoopConfig, folder: Path) -> list[float]:
    journal = Memory()
    train(method("mae", "vit", VIT), Images(6), config, Session(folder, journal), CPU)
    return [values["loss"] for _, values in journal.seen if "loss" in values]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_the_curve_of_single(precision: Any, tmp_path: Path) -> None:
    config = LoopConfig(epochs=5, batch_size=6, lr=1e-2, log_steps=1)
    single = losses_of(config, tmp_path / "single")
    half = losses_of(config.model_copy(update={"precision": precision}), tmp_path / "half")
    assert half[-len(single) :] != single
    assert half[-1] == pytest.approx(single[-1], rel=0.02)


def test_an_overflow_of_fp16_lowers_the_scale_and_changes_nothing_else() -> None:
    model = Regression()
    stepper = Stepper(model, LoopConfig(precision="fp16"), CPU)
    before, scale = [p.detach().clone() for p in model.parameters()], stepper.scaler.get_scale()
    views = Views((IMAGES[:6] * float("inf"),), torch.arange(6).unsqueeze(1), torch.arange(6))
    assert stepper.take([views], Progress(0, 8)) is None
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert stepper.scaler.get_scale() == scale / 2


def test_recomputing_batch_norm_is_refused_in_one_line() -> None:
    with pytest.raises(TrainingError, match=r"batch-norm statistics twice a step; use encoder\.norm=group"):
        Stepper(method("rotation", "resnet", {"depth": 10, "width": 8}), LoopConfig(recompute=True), CPU)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch.compile's own look
def test_compiled_layers_follow_the_curve_of_plain_ones(tmp_path: Path) -> None:
    config = LoopConfig(epochs=2, batch_size=6, lr=1e-2, log_steps=1)
    plain = losses_of(config, tmp_path / "plain")
    compiled = losses_of(config.model_copy(update={"compile": True}), tmp_path / "compiled")
    assert compiled == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"betas": (1.5, 0.9)}, "betas"),
        ({"optimiser": "sgd", "betas": (0.0, 0.9)}, "Nesterov"),
        ({"warmup_fraction": 5}, "warmup_fraction"),
        ({"weight_decay": 0, "weight_decay_end": 0.4}, "weight_decay_end moves a weight_decay that is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LoopConfig(**wrong)


def test_where_rollbacks_may_lead_shapes_a_result() -> None:
    assert LoopConfig(checkpoint_epochs=3).shaping() == LoopConfig().shaping()
    assert LoopConfig(checkpoint_epochs=3, rollbacks=1).shaping() != LoopConfig(rollbacks=1).shaping()
