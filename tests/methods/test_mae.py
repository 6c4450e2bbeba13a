"""MAE: what it hides, what it encodes, the loss of its paper, and its alarms."""

import numpy as np
import pytest
import torch
from small_methods import ENCODER, batch_of, small_method

from medssl.core.batch import Progress
from medssl.core.errors import StudyError
from medssl.core.keys import view_keys
from medssl.core.types import Geometry
from medssl.methods.base import METHODS
from medssl.models.build import build_encoder
from medssl.models.encoders.base import ENCODERS


def test_mae_hides_exactly_its_ratio_and_other_keys_hide_others() -> None:
    method = small_method("mae", mask_ratio=0.75)
    keys = torch.from_numpy(view_keys(0, 0, np.arange(500), 1))[:, 0]
    keep, hide = method.split(keys)
    assert keep.shape == (500, 4)
    assert torch.equal(torch.cat([keep, hide], dim=1).sort(dim=1).values, torch.arange(16).repeat(500, 1))
    share = torch.bincount(keep.flatten(), minlength=16) / 500
    assert (share - 0.25).abs().max() < 0.08


def test_mae_encodes_only_what_it_keeps() -> None:
    method, seen = small_method("mae", mask_ratio=0.75), []
    method.encoder.net.blocks[0].register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[1]))
    method.losses(batch_of(method, 2))
    assert seen == [1 + 4]  # the class token and a quarter of 16


def test_mae_loss_equals_the_papers_formula_written_out() -> None:
    method = small_method("mae").eval()
    batch = batch_of(method, 3)
    losses, _ = method.losses(batch)
    predicted, hidden = method.reconstruct(batch)
    for b in range(3):
        errors = []
        for token in range(16):
            y, x = divmod(token, 4)
            patch = batch.images[0][b, 0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten()
            target = (patch - patch.mean()) / patch.var().clamp_min(1e-4).sqrt()
            if hidden[b, token]:
                errors.append(((predicted[b, token] - target) ** 2).mean())
        assert len(errors) == 12
        assert torch.stack(errors).mean().item() == pytest.approx(losses[b].item(), rel=1e-5)


def test_mae_in_a_volume_hides_cubes_and_predicts_nothing_else() -> None:
    method = small_method("mae", 3).eval()
    batch, seen = batch_of(method, 2), []
    method.decoder.out.register_forward_hook(lambda _m, args, out: seen.append((args[0].shape[1], out.shape[-1])))
    losses, _ = method.losses(batch)
    assert seen == [(6, 64)]  # of 8 cubes of 4 × 4 × 4 voxels
    predicted, hidden = method.reconstruct(batch)
    cubes = batch.images[0].view(2, 2, 4, 2, 4, 2, 4).permute(0, 1, 3, 5, 2, 4, 6).reshape(2, 8, 64)
    target = (cubes - cubes.mean(-1, keepdim=True)) / cubes.var(-1, keepdim=True).clamp_min(1e-4).sqrt()
    errors = (predicted - target).square().mean(-1)
    expected = torch.stack([errors[b][hidden[b] > 0].mean() for b in range(2)])
    assert torch.allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_mae_in_bfloat16_has_the_loss_and_gradient_of_fp32_within_its_rounding(ndim: int) -> None:
    method, found = small_method("mae", ndim), []
    for enabled in (False, True):
        method.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = method.training_step(batch_of(method, 8), Progress(0, 10)).loss
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(p.grad.dtype == torch.float32 for p in method.parameters() if p.requires_grad)
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad])))
    (whole, exact), (half, rounded) = found
    assert half == pytest.approx(whole, rel=4e-3)
    assert (rounded - exact).norm() < 3e-2 * exact.norm()


def test_mae_refuses_an_image_of_one_patch() -> None:
    encoder = build_encoder("vit", ENCODERS.load("vit").config_class.parse(ENCODER["vit"]), Geometry((4, 4)), seed=0)
    with pytest.raises(StudyError, match=r"method mae hides patches, but encoder.patch \[4, 4\] leaves one an image"):
        METHODS.load("mae")(METHODS.load("mae").config_class(), encoder)


def test_mae_decoder_sees_kept_tokens_only_at_their_places() -> None:
    method = small_method("mae").eval()
    tokens, keep = torch.randn(1, 4, 24), torch.tensor([[3, 7, 8, 15]])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(method.decoder(tokens, keep), method.decoder(tokens[:, order], keep[:, order]), atol=1e-5)


def test_mae_says_when_it_learned_nothing_or_had_nothing_to_learn() -> None:
    method = small_method("mae")
    assert "at chance" in method.alarms({"loss": 0.99}, Progress(500, 1000))[0]
    assert "too easy" in method.alarms({"loss": 0.01}, Progress(200, 1000))[0]
    assert "at chance" in method.alarms({"loss": 0.69, "mean_loss": 0.69}, Progress(500, 1000))[0]  # a third is air
    assert not method.alarms({"loss": 0.6, "mean_loss": 0.69}, Progress(500, 1000))
    for loss, step in ((0.99, 499), (0.01, 201), (0.5, 900), (0.99, 0)):
        assert not method.alarms({"loss": loss}, Progress(step, 1000))
    assert not method.alarms({"loss": 1.0}, Progress(20, 20))  # too short to tell
    assert not small_method("mae", normalise_patches=False).alarms({"loss": 1.0}, Progress(900, 1000))


def test_images_with_much_air_cost_less_to_predict_by_their_mean() -> None:
    method = small_method("mae")
    batch = batch_of(method, 8)
    _, figures = method.losses(batch)
    assert figures["mean_loss"].item() == pytest.approx(1.0, abs=0.1)
    for images in batch.images:
        images[..., : images.shape[-1] // 2] = 0.0
    _, figures = method.losses(batch)
    assert figures["mean_loss"].item() == pytest.approx(0.5, abs=0.2)
