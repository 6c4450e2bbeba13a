"""ResNet, Swin and residual encoder against the libraries and formulas that they stand for."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from ranks import on_ranks
from small_encoders import small

from medssl.core.collectives import rank, world_size
from medssl.models.build import seeded
from medssl.models.encoders.base import centred
from medssl.models.encoders.resenc import SMALLEST, Block, stage_strides

IMAGES = torch.rand(4, 1, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stem_kernel", [3, 7])
def test_the_2d_resnet_is_timms_weight_for_weight(stem_kernel: int) -> None:
    from timm.models.resnet import BasicBlock, ResNet

    stem = {"stem_type": "deep", "stem_width": 4} if stem_kernel == 3 else {}
    whole = {"channels": (8, 16, 32, 64), "in_chans": 1, "num_classes": 0, "global_pool": "", **stem}
    theirs = seeded(lambda: ResNet(BasicBlock, [1, 1, 1, 1], **whole), "encoder", 0)
    ours = small("resnet", stem=4, stem_kernel=stem_kernel)
    initial = theirs.state_dict()
    assert ours.net.state_dict().keys() == initial.keys()
    assert all(torch.equal(value, initial[name]) for name, value in ours.net.state_dict().items())
    assert torch.equal(ours.train()(IMAGES).pooled, theirs(centred(IMAGES)).mean((2, 3)))
    features = ours.eval()(IMAGES)
    for one, other in zip(features.maps[::-1], theirs.eval().forward_intermediates(centred(IMAGES))[1], strict=True):
        assert torch.equal(one, other)


def test_the_3d_resnet_has_the_2d_ones_names_and_he_initialisation() -> None:
    plane, space = small("resnet", (32, 32), width=32), small("resnet", (8, 32, 32), width=32)
    for (name, one), (same, other) in zip(plane.named_parameters(), space.named_parameters(), strict=True):
        assert name == same
        if one.ndim == 4:
            assert other.shape == (*one.shape[:2], one.shape[2], *one.shape[2:])
            fan_out = other.shape[0] * other[0, 0].numel()
            assert float(other.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def gradient_of_a_share() -> dict[str, Any]:
    encoder = small("resnet").double().train()
    images = IMAGES.double().tensor_split(world_size())[rank()]
    encoder(images).pooled.square().sum().backward()
    return {name: p.grad.numpy() for name, p in encoder.named_parameters()}


def test_two_processes_see_the_batch_norm_of_one() -> None:
    alone = gradient_of_a_share()
    one, other = on_ranks(2, gradient_of_a_share)
    for name, gradient in alone.items():
        assert abs(one[name] + other[name] - gradient).max() < 1e-9 * max(1, abs(gradient).max())


@pytest.mark.parametrize("shape", [(32, 64), (32, 32, 32)])
@pytest.mark.parametrize("window", [3, 5])  # 5 is larger than the deeper grids
def test_swin_is_monais(shape: tuple[int, ...], window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.networks.nets import swin_unetr

    def rearrange(x: torch.Tensor, pattern: str) -> torch.Tensor:
        before, after = (side.split() for side in pattern.split("->"))
        return x.permute(*(before.index(axis) for axis in after))

    monkeypatch.setattr(swin_unetr, "rearrange", rearrange)  # einops is not installed
    ours, ndim = small("swin", shape, depths=(2, 2, 2, 2), window=window, heads=3), len(shape)
    theirs = swin_unetr.SwinTransformer(
        1, 12, (window,) * ndim, (2,) * ndim, (2, 2, 2, 2), (3, 6, 12, 24), spatial_dims=ndim
    ).eval()
    named = {f"net.{k}": v for k, v in theirs.state_dict().items()}
    ours.load_state_dict({k.replace(".0.blocks", ".blocks").replace(".0.down", ".down"): v for k, v in named.items()})
    images = torch.rand(2, 1, *shape)
    for one, other in zip(ours(images).maps[::-1], theirs(centred(images)), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_residual_block_is_its_formula_and_starts_as_its_shortcut() -> None:
    block, x = Block(3, 5, (1, 2)), torch.rand(2, 3, 6, 9)
    norm = block.skip[1].norm
    pooled = torch.cat([F.avg_pool2d(x[..., :8], (1, 2)), x[..., 8:]], dim=-1)  # the odd column stays alone
    shortcut = F.instance_norm(F.conv2d(pooled, block.skip[1].conv.weight), weight=norm.weight, bias=norm.bias)
    assert torch.allclose(block(x), F.leaky_relu(shortcut, 0.01), atol=1e-6)
    torch.nn.init.ones_(block.conv2.norm.weight)
    inner = F.leaky_relu(F.instance_norm(F.conv2d(x, block.conv1.conv.weight, stride=(1, 2), padding=1)), 0.01)
    inner = F.instance_norm(F.conv2d(inner, block.conv2.conv.weight, padding=1))
    assert torch.allclose(block(x), F.leaky_relu(inner + shortcut, 0.01), atol=1e-5)


@given(st.lists(st.integers(1, 400), min_size=2, max_size=3), st.integers(1, 7))
def test_strides_keep_four_voxels_an_axis_and_make_the_image_more_even(shape: list[int], most: int) -> None:
    strides, size = stage_strides(tuple(shape), most), shape
    assert 1 <= len(strides) <= most
    assert max(strides[0]) == 1 and all(max(s) == 2 for s in strides[1:])
    for stride in strides[1:]:
        after = [-(-n // s) for n, s in zip(size, stride, strict=True)]
        assert all(a >= SMALLEST for a, s in zip(after, stride, strict=True) if s == 2)
        assert max(after) < max(size)
        assert max(after) / min(after) <= max(2, max(size) / min(size))
        size = after
    assert len(strides) == most or max(size) < 2 * SMALLEST


def test_the_published_patch_has_the_published_strides() -> None:
    assert stage_strides((160, 128, 112), 6) == [(1, 1, 1), *[(2, 2, 2)] * 4, (2, 2, 1)]
    assert stage_strides((16, 320, 320), 6) == [(1, 1, 1), *[(1, 2, 2)] * 4, (2, 2, 2)]
