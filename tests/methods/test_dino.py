"""DINO: the loss of its paper, one forward a size, centre and teacher once a step, rules, and its alarms."""

from math import log
from typing import Any

import pytest
import torch
from small_methods import batch_of, doubled, part, small_method

from medssl.core.batch import Progress, Views
from medssl.core.errors import StudyError
from medssl.core.types import Geometry
from medssl.methods.base import METHODS
from medssl.methods.dino import local_shape, num_prototypes, teacher_momentum
from medssl.models.build import build_encoder
from medssl.models.encoders.base import ENCODERS

NOW = Progress(0, 10)


def test_the_loss_equals_the_papers_formula_written_out() -> None:
    method, batch = small_method("dino"), batch_of(small_method("dino"), 3)
    method.centre += torch.randn(32, generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.no_grad():
        told = [method.teacher["head"](method.teacher["encoder"](crop).pooled) for crop in batch.images[:2]]
        said = [method.head(method.encoder(crop).pooled) for crop in batch.images]
        targets = [((t - method.centre) / 0.04).softmax(-1) for t in told]
        pairs = [
            -(targets[i] * (said[j] / 0.1).log_softmax(-1)).sum(-1).mean() for i in range(2) for j in range(4) if i != j
        ]
    output = method.training_step(batch, NOW)
    assert output.loss.item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)
    entropy = torch.stack([torch.special.entr(t).sum(-1).mean() for t in targets]).mean()
    assert output.metrics["teacher_entropy"].item() == pytest.approx(entropy.item(), rel=1e-4)
    assert output.metrics["kl"].item() == pytest.approx(output.loss.item() - entropy.item(), abs=1e-4)
    assert 1 <= output.metrics["prototypes_used"] <= 32
    assert output.metrics["centre_norm"].item() == pytest.approx(method.centre.norm().item())


def test_the_student_passes_once_a_size_and_the_teacher_once() -> None:
    method, seen = small_method("dino", local_crops=6), []
    for name, encoder in (("student", method.encoder), ("teacher", method.teacher["encoder"])):
        encoder.register_forward_pre_hook(lambda _m, args, name=name: seen.append((name, *args[0].shape)))
    method.training_step(batch_of(method, 3), NOW)
    assert seen == [("teacher", 6, 1, 16, 16), ("student", 6, 1, 16, 16), ("student", 18, 1, 8, 8)]


def test_no_gradient_reaches_the_teacher_or_the_centre() -> None:
    method = small_method("dino")
    method.training_step(batch_of(method, 3), NOW).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert not method.centre.requires_grad


def test_the_centre_moves_once_a_step_by_the_mean_of_all_its_micro_batches() -> None:
    method = small_method("dino").double()
    batch = doubled(batch_of(method, 6))
    with torch.no_grad():
        told = method.teacher["head"](method.teacher["encoder"](torch.cat(batch.images[:2])).pooled)
    for rows in (slice(0, 1), slice(1, 6)):
        method.training_step(part(batch, rows), NOW)
        assert not method.centre.any()
    method.on_step_end(Progress(1, 10))
    assert torch.allclose(method.centre, 0.1 * told.mean(0), atol=1e-12)
    assert not method.seen


def test_the_teachers_temperature_warms_up_over_its_share_of_training() -> None:
    method = small_method("dino", teacher_temperature=(0.04, 0.07), temperature_warmup=0.3)
    found = [method.temperature(Progress(step, 100)) for step in (0, 15, 30, 90)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert small_method("dino", temperature_warmup=0.0).temperature(Progress(1, 100)) == pytest.approx(0.07)


def test_prototypes_are_weight_normalised_decayed_and_stand_still_for_an_epoch() -> None:
    method = small_method("dino")
    features = torch.randn(4, 24)
    before = method.head(features)
    method.head.prototypes.data *= 7.0
    assert torch.allclose(method.head(features), before, atol=1e-5)
    assert before.abs().max() <= 1 + 1e-6
    groups = {g.name: g for g in method.parameter_groups(0.04)}
    assert groups["prototypes"].frozen_epochs == 1
    assert groups["prototypes"].weight_decay == 0.04
    assert {g.frozen_epochs for g in groups.values()} == {0, 1}


def test_the_teachers_encoder_is_exported() -> None:
    method = small_method("dino")
    for p in method.parameters():
        p.data += 0.1 if p.requires_grad else 0.0
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(method.export()(images).pooled, method.teacher["encoder"](images).pooled)
    assert not torch.equal(method.export()(images).pooled, method.encoder(images).pooled)


def test_crops_that_patches_do_not_tile_are_cut_to_whole_patches() -> None:
    method = small_method("dino", local_shape=(10, 7))
    seen: list[Any] = []
    method.encoder.register_forward_pre_hook(lambda _m, args: seen.append(tuple(args[0].shape[2:])))
    assert torch.isfinite(method.training_step(batch_of(method, 2), NOW).loss)
    assert seen == [(16, 16), (8, 4)]
    cnn = small_method("dino", encoder="resnet", local_shape=(10, 7))
    assert torch.isfinite(cnn.training_step(batch_of(cnn, 2), NOW).loss)


def test_without_local_crops_each_global_one_teaches_the_other() -> None:
    method = small_method("dino", local_crops=0)
    assert torch.isfinite(method.training_step(batch_of(method, 2), NOW).loss)


@pytest.mark.parametrize(
    ("shape", "local"),
    [
        ((224, 224), (96, 96)),  # the paper's
        ((96, 96, 96), (48, 48, 48)),  # 3DINO's
        ((64, 64), (32, 32)),
        ((28, 28), (12, 12)),
        ((16, 16), (8, 8)),
        ((20, 256, 192), (8, 112, 80)),
        ((7, 7), (3, 3)),
    ],
)
def test_local_crops_follow_from_the_image_shape(shape: tuple[int, ...], local: tuple[int, ...]) -> None:
    assert local_shape(Geometry(shape)) == local


@pytest.mark.parametrize(
    ("shape", "patch", "local"),
    [
        ((16, 32, 32), (16, 16, 16), (16, 16, 16)),
        ((56, 56), (28, 28), (28, 28)),
        ((48, 48), (16, 16), (32, 32)),  # two patches, where the image has more
        ((16, 16), (16, 16), (16, 16)),
        ((96, 96), (16, 16), (48, 48)),
    ],
)
def test_local_crops_by_rule_hold_whole_patches_and_train(
    shape: tuple[int, ...], patch: tuple[int, ...], local: tuple[int, ...]
) -> None:
    assert local_shape(Geometry(shape), patch) == local
    method = around("vit", shape, {"width": 24, "depth": 1, "heads": 2, "patch": patch})
    batch = method_batch(method)
    assert batch.images[-1].shape[2:] == local
    assert torch.isfinite(method.training_step(batch, NOW).loss)


@pytest.mark.parametrize(
    ("encoder", "settings", "local", "said"),
    [
        (
            "vit",
            {"width": 24, "depth": 1, "heads": 2, "patch": 16},
            (8, 8),
            r"is smaller than encoder\.patch \[16, 16\]",
        ),
        ("vit", {"width": 24, "depth": 1, "heads": 2, "patch": (16, 32)}, (16, 16), r"encoder\.patch \[16, 32\]"),
        ("resenc", {"width": 4, "blocks": [1] * 6}, (16, 16), r"one voxel .* such as \[32, 32\]"),
    ],
)
def test_local_crops_too_small_for_the_encoder_are_refused(
    encoder: str, settings: dict[str, Any], local: tuple[int, ...], said: str
) -> None:
    with pytest.raises(StudyError, match=rf"^method\.local_shape: \[{local[0]}, {local[1]}\] .*{said}"):
        around(encoder, (64, 64), settings, local_shape=local)
    assert around(encoder, (64, 64), settings, local_shape=local, local_crops=0)


@pytest.mark.parametrize("encoder", ["resenc", "resnet", "swin"])
@pytest.mark.parametrize("shape", [(64, 64), (32, 32, 32)])
def test_local_crops_by_rule_leave_a_convolutional_encoder_something_to_normalise(
    encoder: str, shape: tuple[int, ...]
) -> None:
    small: dict[str, Any] = {"resenc": {"width": 4}, "resnet": {"depth": 10, "width": 8}, "swin": {"width": 12}}
    method = around(encoder, shape, small[encoder])
    assert torch.isfinite(method.training_step(method_batch(method), NOW).loss)


def around(encoder: str, shape: tuple[int, ...], settings: dict[str, Any], **config: Any) -> Any:
    """Return a small DINO around an encoder for images of ``shape``."""
    plugin, dino = ENCODERS.load(encoder), METHODS.load("dino")
    chosen, geometry = plugin.config_class.parse(settings), Geometry(shape)
    plugin.check(chosen, geometry)
    small = {"prototypes": 32, "hidden": 32, "bottleneck": 16, "local_crops": 2}
    return dino(dino.config_class.parse({**small, **config}), build_encoder(encoder, chosen, geometry, seed=0))


def method_batch(method: Any) -> Views:
    """Return views of two images, of the shapes that the method asks for."""
    shape, views = method.encoder.geometry.shape, method.views(method.config, method.encoder.geometry).views
    images = tuple(torch.rand(2, 1, *(view.size or shape)) for view in views)
    return Views(images, torch.zeros(2, len(views), dtype=torch.int64), torch.arange(2))


def test_local_crops_beyond_the_image_are_refused() -> None:
    method = METHODS.load("dino")
    for wrong in ((20, 8), (8,), (8, 8, 8)):
        with pytest.raises(StudyError, match=r"method\.local_shape: .* does not fit into prepare\.shape \[16, 16\]"):
            method.check(method.config_class(local_shape=wrong), Geometry((16, 16)))


def test_small_pools_get_fewer_prototypes_and_a_teacher_of_their_pace() -> None:
    assert [num_prototypes(n) for n in (1, 5000, 30_000, 99_999, 1_281_167)] == [1024, 1024, 2048, 8192, 65536]
    assert teacher_momentum(1_281_167, 1024) == pytest.approx(0.996)
    assert teacher_momentum(1_281_167, 256) == pytest.approx(0.9995)
    assert teacher_momentum(5000, 64) == pytest.approx(1 - 64 / 50_000)  # ten epochs
    assert teacher_momentum(100, 64) == pytest.approx(0.996)
    assert teacher_momentum(1_281_167, 4096) == pytest.approx(0.996)
    assert teacher_momentum(2000, 10**6) == teacher_momentum(2000, 2000)  # a step has no more than the pool
    method = METHODS.load("dino")
    made = method.fitted(method.config_class(prototypes=77), 5000, 64)
    assert (made.prototypes, made.teacher_momentum) == (77, pytest.approx(0.99872))
    cropped = method.fitted(method.config_class(), 5000, 256, 4)
    assert cropped.teacher_momentum == teacher_momentum(20_000, 256)
    assert cropped.prototypes == num_prototypes(5000)


def test_a_student_that_foretells_a_sure_teacher_in_the_first_fifth_has_too_easy_a_task() -> None:
    method, most = small_method("dino"), log(32)
    figures = {"teacher_entropy": 0.5 * most, "kl": 0.01 * most, "prototypes_used": 20.0}
    assert "too easy" in method.alarms(figures, Progress(200, 1000))[0]
    assert not method.alarms(figures, Progress(300, 1000)) + method.alarms(figures, Progress(199, 1000))
    for healthy in ({"kl": 0.1 * most}, {"teacher_entropy": 0.95 * most}):  # much to learn, or nothing foretold yet
        assert not method.alarms(figures | healthy, Progress(200, 1000))


def test_both_collapses_are_said_aloud_and_health_is_not() -> None:
    method, now, most = small_method("dino"), Progress(20, 100), log(32)
    uniform = {"teacher_entropy": 0.99 * most, "kl": 0.002 * most, "prototypes_used": 31.9}
    single = {"teacher_entropy": 0.01, "kl": 0.01, "prototypes_used": 1.01}
    assert "collapsed to uniform" in method.alarms(uniform, now)[0]
    assert "collapsed to one prototype" in method.alarms(single, now)[0]
    healthy = [
        uniform | {"kl": 0.1 * most},  # nothing agreed on yet
        single | {"prototypes_used": 9.0},  # sure, and of different things
        {"teacher_entropy": 0.5 * most, "kl": 0.1, "prototypes_used": 20.0},
        {},
    ]
    assert not any(method.alarms(figures, now) for figures in healthy)
    assert not method.alarms(uniform, Progress(19, 100))
    assert not method.alarms(uniform, Progress(20, 1000))
