"""Fine-tuning: head and encoder learn at their own rates, a frozen encoder never moves, weights are exact."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from memory_feed import CPU
from small_pool import make_pool

from medssl.core.batch import Progress, Trainable, Views
from medssl.core.errors import EncoderError
from medssl.core.types import Geometry
from medssl.data.crops import windows
from medssl.data.prepare import PrepareConfig, prepare
from medssl.engine.optim import LoopConfig, build_optimiser
from medssl.finetune.classify import Classifier, ClassifyConfig, class_weights, load_classifier, save_classifier
from medssl.models.build import build_encoder
from medssl.models.encoders.base import ENCODERS

SMALL = {"depth": 10, "width": 8, "stem": 2}


def classifier(
    frozen: bool = False, targets: tuple[int, ...] = (0, 0, 0, 1), shape: tuple[int, ...] = (16, 16)
) -> Classifier:
    config = ENCODERS.load("resnet").config_class.parse(SMALL)
    encoder = build_encoder("resnet", config, Geometry(shape), seed=0)
    with torch.no_grad():
        features = encoder.eval()(torch.rand(8, 1, *shape, generator=torch.Generator().manual_seed(0))).pooled
    weights = class_weights(np.array(targets), 2, balance=True)
    return Classifier(encoder, ["no", "yes"], ClassifyConfig(frozen=frozen), features, weights)


def batch(targets: tuple[int, ...] = (0, 0, 0, 1)) -> Views:
    images = torch.rand(len(targets), 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return Views(
        (images,), torch.zeros(len(targets), 1, dtype=torch.int64), torch.arange(len(targets)), torch.tensor(targets)
    )


def steps(model: Classifier, num: int) -> None:
    optimiser = build_optimiser(model.parameter_groups(0.0), LoopConfig(lr=1e-2))
    for step in range(num):
        optimiser.zero_grad()
        model.training_step(batch(), Progress(step, num)).loss.backward()
        optimiser.step()


def test_a_classifier_is_trainable_and_starts_at_equal_odds() -> None:
    model = classifier()
    assert isinstance(model, Trainable)
    assert torch.equal(model(batch().images[0]), torch.zeros(4, 2))


def test_the_head_sees_standardised_features() -> None:
    model = classifier().eval()
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    standardised = (model.encoder(images).pooled - model.mean) / model.deviation
    assert torch.allclose(standardised.mean(0), torch.zeros(64), atol=1e-4)
    alive = model.deviation > 1.01 * model.deviation.min()
    assert torch.allclose(standardised.std(0, correction=0)[alive], torch.ones(int(alive.sum())), atol=1e-3)


def test_a_frozen_encoder_does_not_move_not_even_its_batch_norm() -> None:
    model = classifier(frozen=True).train()
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    steps(model, 3)
    assert all(torch.equal(before[k], v) for k, v in model.encoder.state_dict().items())
    assert model.head.weight.abs().max() > 0


def test_head_and_encoder_learn_at_their_own_rates() -> None:
    groups = classifier().parameter_groups(0.1)
    assert {g.name.split(".")[0]: g.lr_scale for g in groups} == {"head": 1.0, "encoder": 0.1}
    model = classifier().train()
    before = {k: v.clone() for k, v in model.encoder.named_parameters()}
    steps(model, 2)
    assert any(not torch.equal(before[k], v) for k, v in model.encoder.named_parameters())


def test_batch_norm_keeps_its_statistics_whatever_the_labelled_images_are() -> None:
    model = classifier().train()
    before = {k: v.clone() for k, v in model.encoder.state_dict().items() if "running" in k}
    steps(model, 3)
    assert before
    assert all(torch.equal(before[k], model.encoder.state_dict()[k]) for k in before)


def test_balanced_weights_are_inverse_to_frequency_with_mean_one() -> None:
    targets = np.array([0] * 6 + [1] * 2)
    weights = class_weights(targets, 2, balance=True)
    assert weights.tolist() == pytest.approx([8 / 12, 2.0])
    assert weights[targets].mean().item() == pytest.approx(1)
    assert class_weights(targets, 2, balance=False).tolist() == [1, 1]


def test_weighted_micro_batches_sum_to_the_whole_batch() -> None:
    model = classifier(frozen=True).eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    whole, parts = batch((0, 1, 1, 0)), []
    for rows in (slice(0, 1), slice(1, 4)):
        part = Views((whole.images[0][rows],), whole.keys[rows], whole.volume[rows], whole.targets[rows])
        parts.append((model.training_step(part, Progress(0, 1)).loss, model.normaliser(part)))
    total = sum(w for _, w in parts)
    combined = sum(loss * w / total for loss, w in parts)
    naive = F.cross_entropy(model(whole.images[0]), whole.targets, model.class_weights)
    assert combined.item() == pytest.approx(naive.item(), rel=1e-5)


def test_a_saved_classifier_predicts_the_same(tmp_path: Path) -> None:
    model = classifier()
    steps(model.train(), 3)
    about = {"name": "resnet", "config": SMALL, "prepare": {"shape": [16, 16]}}
    save_classifier(model.eval(), tmp_path, about)
    loaded, told = load_classifier(tmp_path)
    images = batch().images[0]
    assert torch.equal(loaded.eval()(images), model(images))
    assert loaded.classes == ["no", "yes"]
    assert told["prepare"] == {"shape": [16, 16]}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"no model\.json there"):
        load_classifier(tmp_path)


def test_a_volume_larger_than_the_geometry_is_judged_by_the_mean_over_all_its_windows(tmp_path: Path) -> None:
    shape = (16, 16, 16)
    data = prepare(make_pool(tmp_path / "pool", 4, 1, ndim=3), PrepareConfig(shape=shape, fit="crop"))
    assert data.cropped
    model = classifier(shape=shape).eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    found = model.probabilities(data, CPU, batch_size=5)  # batches end within a volume
    for row in range(len(data)):
        boxes = windows(tuple(data.shapes[row]), shape)
        assert len(boxes) > 5
        images = torch.from_numpy(np.stack([data.reader.read(row, (slice(None), *b)) for b in boxes])).float()
        with torch.no_grad():
            each = model(images).double().softmax(1)
        assert np.allclose(found[row], each.mean(0), atol=1e-5)
    assert found.std() > 0
    assert np.allclose(found.sum(1), 1)


def test_volumes_of_the_geometry_are_judged_whole_and_none_give_no_row(tmp_path: Path) -> None:
    data = prepare(make_pool(tmp_path / "pool", 5, 1), PrepareConfig(shape=(16, 16)))
    model = classifier().eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(data.images(np.arange(5))).double().softmax(1)
    assert np.array_equal(model.probabilities(data, CPU), expected)
    assert model.probabilities(data.of(data.catalog.only([])), CPU).shape == (0, 2)
