"""The vision transformer: patches of any sides, views of any size, what it attends to, MONAI's and ours the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_encoders import small
from torch import nn

from medssl.core.errors import EncoderError, StudyError
from medssl.core.types import Geometry
from medssl.models.adapt import load_weights
from medssl.models.attention import Attention
from medssl.models.encoders.vit import VitConfig
from medssl.models.mlp import Mlp
from medssl.models.weights import Normalisation


def test_a_patch_may_have_a_side_an_axis() -> None:
    encoder = small("vit", (4, 16, 24), patch=(2, 4, 8))
    assert encoder.patch == (2, 4, 8) and encoder.grid == (2, 4, 3)
    assert encoder.net.patch_embed.proj.weight.shape == (24, 1, 2, 4, 8)
    assert encoder(torch.rand(2, 1, 4, 16, 24)).tokens.shape == (2, 24, 24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": (4, 4)}, r"encoder.patch: \[4, 4\] has 2 axes, but prepare.shape \[8, 16, 16\] has not"),
        ({"patch": (3, 4, 4)}, r"encoder.patch: \[3, 4, 4\] does not divide prepare.shape \[8, 16, 16\]; choose a div"),
        ({"pool": "cls", "class_token": False}, "encoder.pool: cls needs encoder.class_token; choose pool mean"),
    ],
)
def test_an_impossible_volume_says_which_value_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderError, match=message) as error:
        small("vit", (8, 16, 16), **changes)
    assert "\n" not in str(error.value)


def test_a_patch_without_voxels_is_refused_by_name() -> None:
    with pytest.raises(StudyError, match=r"encoder\.patch"):
        VitConfig.parse({"patch": 0}, "encoder")


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_a_view_of_another_size_has_stretched_positions(positions: str) -> None:
    encoder, image = small("vit", (16, 16), positions=positions), torch.rand(1, 1, 8, 24)
    assert encoder(image).tokens.shape == (1, 12, 24)
    coarse = torch.rand(1, 1, 4, 4)
    small_view, large_view = (F.interpolate(coarse, size=(n, n), mode="bicubic") for n in (16, 32))
    plain = [F.cosine_similarity(encoder(small_view).pooled, encoder(v).pooled).item() for v in (large_view, image)]
    assert plain[0] > plain[1]  # the same extent in more tokens is nearer than another picture
    with pytest.raises(EncoderError, match=r"images of \[10, 16\]: encoder.patch \[4, 4\] does not divide every axis"):
        encoder(torch.rand(1, 1, 10, 16))


@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 12)])
def test_attention_is_that_of_the_last_block(shape: tuple[int, ...]) -> None:
    for pool, query in (("cls", slice(0, 1)), ("mean", slice(1, None))):
        encoder, images, seen = small("vit", shape, pool=pool), torch.rand(2, 1, *shape), []
        last = encoder.net.blocks[-1].attn
        last.qkv.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out))
        encoder(images)
        q, k, _ = seen[0].view(2, -1, 3, 2, 12).permute(2, 0, 3, 1, 4)
        weights = ((q * 12**-0.5) @ k.transpose(-2, -1)).softmax(-1)
        found = encoder.attention_map(images)
        assert torch.allclose(found, weights[:, :, query, 1:].mean(2), atol=1e-6)
        assert (found.sum(-1) < 1).all()  # the rest is attention to the class token
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.allclose(encoder.attention_map(images), found, atol=1e-2)


@pytest.mark.parametrize(("length", "heads"), [(1, 1), (5, 3), (64, 2)])
def test_attention_in_bfloat16_is_the_fused_kernels_and_so_is_its_gradient(length: int, heads: int) -> None:
    width, generator = 24, torch.Generator().manual_seed(0)
    module = Attention(width, heads, qkv_bias=True)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    x, weight = (torch.randn(3, length, width, generator=generator) for _ in range(2))

    def run(dtype: torch.dtype) -> list[torch.Tensor]:
        module.zero_grad()
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = module(inputs)
        out.float().mul(weight).sum().backward()
        return [out.float(), inputs.grad, *(p.grad.clone() for p in module.parameters())]

    for half, whole in zip(run(torch.bfloat16), run(torch.float32), strict=True):
        assert (half - whole).norm() <= 2e-2 * whole.norm()  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("frozen", [False, True])
def test_activations_that_are_not_kept_give_the_same_gradients(frozen: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    module = Mlp(8, 32).double()
    module.fc2.requires_grad_(not frozen)
    plain = nn.Sequential(module.fc1, module.act, module.fc2)
    x = torch.randn(2, 5, 8, dtype=torch.float64, generator=generator)
    found = []
    for net in (module, plain):
        module.zero_grad()
        inputs = x.clone().requires_grad_()
        out = net(inputs)
        out.square().sum().backward()
        found.append([out, inputs.grad, *(p.grad.clone() for p in module.parameters() if p.requires_grad)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(module(x), plain(x))


def test_written_out_attention_passes_the_gradient_check_in_its_own_formula() -> None:
    from medssl.models.attention import _Attend

    qkv = torch.randn(2, 5, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    q, k, v = qkv.view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    fused = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert torch.allclose(_Attend.apply(qkv, 3), fused, atol=1e-12)
    assert torch.autograd.gradcheck(lambda t: _Attend.apply(t, 3), qkv)


@pytest.mark.parametrize("shape", [(16, 16), (12, 12, 12)])
def test_monais_weights_give_monais_features(shape: tuple[int, ...], tmp_path: Path) -> None:
    pytest.importorskip("einops", reason="MONAI's ViT needs einops")
    from monai.networks.nets import ViT

    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = ViT(1, shape, 4, 24, 96, 2, 2, spatial_dims=len(shape), qkv_bias=True).eval()
        nn.init.normal_(theirs.patch_embedding.position_embeddings)
    for norm in (m for m in theirs.modules() if isinstance(m, nn.LayerNorm)):
        norm.eps = 1e-6  # as timm's
    torch.save(theirs.state_dict(), tmp_path / "monai.pt")
    ours = small("vit", shape, positions="learned", class_token=False)
    done = load_weights(ours, tmp_path / "monai.pt", normalisation=Normalisation((0.0,), (1.0,)))
    images = torch.rand(2, 1, *shape)
    assert done.share == 1 and not done.missing
    assert torch.allclose(ours(images).tokens, theirs(images)[0], atol=1e-5)


def test_geometry_and_not_the_name_decides_the_axes() -> None:
    assert isinstance(small("vit", (16, 16)).net.patch_embed.proj, nn.Conv2d)
    assert isinstance(small("vit", (8, 8, 8)).net.patch_embed.proj, nn.Conv3d)
    assert Geometry((8, 8, 8)).ndim == 3
