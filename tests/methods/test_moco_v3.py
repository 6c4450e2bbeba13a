"""MoCo v3: the loss of its paper, who is whose negative, what is frozen, and its alarms."""

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch
from small_methods import batch_of, small_method
from torch import Tensor

from medssl.core.batch import Progress
from medssl.methods.base import METHODS

NOW = Progress(0, 10)


def heads(method: Any, images: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Return unit queries and keys of each crop, in the statistics of all crops together."""
    features = torch.cat([method.encoder(crop).pooled for crop in images])
    told = torch.cat([method.teacher["encoder"](crop).pooled for crop in images])
    queries = method.predictor(method.projector(features)).chunk(2)
    keys = method.teacher["projector"](told).chunk(2)
    return [q / q.norm(dim=1, keepdim=True) for q in queries], [k / k.norm(dim=1, keepdim=True) for k in keys]


@pytest.mark.parametrize("patient", [None, [0, 0, 1, 2]])
def test_the_loss_equals_a_naive_double_loop(patient: list[int] | None) -> None:
    method = small_method("moco_v3")
    batch = replace(batch_of(method, 4), patient=None if patient is None else torch.tensor(patient))
    losses, figures = method.losses(batch)
    queries, keys = heads(small_method("moco_v3"), batch.images)
    owner = patient or [0, 1, 2, 3]
    for b in range(4):
        total = 0.0
        for q, k in ((queries[0], keys[1]), (queries[1], keys[0])):
            own = (q[b] @ k[b] / 0.2).exp()
            others = [(q[b] @ k[j] / 0.2).exp() for j in range(4) if owner[j] != owner[b]]
            total += -2 * 0.2 * (own / (own + sum(others))).log().item()
        assert losses[b].item() == pytest.approx(total, rel=1e-4)
    num_others = [sum(o != own for o in owner) for own in owner]
    assert figures["negatives"].item() == pytest.approx(sum(num_others) / 4)


def test_images_of_one_patient_alone_have_no_negatives_and_that_is_said() -> None:
    method = small_method("moco_v3")
    batch = replace(batch_of(method, 4), patient=torch.zeros(4, dtype=torch.int64))
    losses, figures = method.losses(batch)
    assert not losses.any()
    assert figures["without_negatives"] == 1
    seen = {name: float(value) for name, value in figures.items()} | {"loss": 0.0}
    assert "had no negative" in method.alarms(seen, NOW)[0]


def test_a_batch_of_one_stays_finite() -> None:
    method = small_method("moco_v3")
    output = method.training_step(batch_of(method, 1), NOW)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_the_patch_embedding_of_a_vit_stays_as_drawn_unless_asked() -> None:
    method = small_method("moco_v3")
    frozen = [name for name, p in method.encoder.named_parameters() if not p.requires_grad]
    assert frozen
    assert len(frozen) == len(list(method.encoder.layers()[0].parameters()))
    assert all(p.requires_grad for p in small_method("moco_v3", freeze_patches=False).encoder.parameters())
    assert all(p.requires_grad for p in small_method("moco_v3", encoder="resnet").encoder.parameters())


def test_no_gradient_reaches_the_momentum_encoder_and_the_queries_encoder_is_exported() -> None:
    method = small_method("moco_v3")
    method.training_step(batch_of(method, 4), NOW).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert method.export() is method.encoder


def test_a_score_is_how_far_the_query_is_from_the_key_of_the_whole_image() -> None:
    method = small_method("moco_v3")
    image = replace(batch_of(method, 4), images=(torch.rand(4, 1, 16, 16),))
    losses = method.pretext_losses(image)
    method.eval()
    queries, keys = heads(method, (image.images[0],) * 2)
    cosine = (queries[0] * keys[0]).sum(1)
    assert torch.allclose(losses, 2 - 2 * cosine, atol=1e-5)


def test_contrast_that_is_solved_in_the_first_fifth_is_said_to_be_too_easy() -> None:
    method, figures = small_method("moco_v3", 2), {"loss": 0.5, "negatives": 60.0, "pretext_accuracy": 0.99}
    assert "too easy: 99.0% right after 20%" in method.alarms(figures, Progress(200, 1000))[0]
    assert not method.alarms(figures, Progress(199, 1000)) + method.alarms(figures, Progress(300, 1000))
    assert not method.alarms({**figures, "pretext_accuracy": 0.9}, Progress(200, 1000))


def test_contrast_at_chance_and_too_large_batches_are_said_aloud() -> None:
    method = small_method("moco_v3")
    chance = 4 * 0.2 * log(1 + 63)
    figures = {"negatives": 63.0, "without_negatives": 0.0, "loss": 0.97 * chance}
    assert "at chance" in method.alarms(figures, Progress(100, 200))[0]
    for loss, step, total in ((0.9 * chance, 100, 200), (0.97 * chance, 99, 198), (0.97 * chance, 100, 201)):
        assert not method.alarms(figures | {"loss": loss}, Progress(step, total))
    assert "beyond 1024" in method.alarms(figures | {"negatives": 2000.0, "loss": 0.1}, NOW)[0]


def test_heads_are_narrower_on_small_pools() -> None:
    method = METHODS.load("moco_v3")
    assert [method.fitted(method.config_class(), num, 256).hidden for num in (5000, 100_000)] == [2048, 4096]
    assert method.fitted(method.config_class(hidden=77), 5000, 256).hidden == 77
