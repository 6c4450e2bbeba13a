"""Weights of another shape, another library or another dimension give the features that they should."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_encoders import SMALL, small
from torch import Tensor, nn

from medssl.core.errors import EncoderError
from medssl.core.files import write_json
from medssl.models.adapt import (
    Adaptation,
    fold_normalisation,
    inflated,
    load_weights,
    resized_offsets,
    resized_patch,
    spread_channels,
)
from medssl.models.build import save_encoder
from medssl.models.encoders.base import ENCODERS, centred
from medssl.models.positions import interpolate
from medssl.models.weights import IMAGENET, Normalisation

GREY = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
every = pytest.mark.parametrize("name", ENCODERS.names())


def saved(encoder: Any, name: str, folder: Path) -> Path:
    save_encoder(encoder, folder, {"name": name, "config": SMALL[name]})
    return folder


@every
def test_the_same_encoder_is_taken_whole(name: str, tmp_path: Path) -> None:
    source, target = small(name, (32, 32)), small(name, (32, 32), seed=1)
    done = load_weights(target, saved(source, name, tmp_path))
    assert (done.share, done.adapted, done.missing, done.unexpected) == (1.0, {}, {}, ())
    assert set(done.matched) == set(source.state_dict())
    assert torch.equal(target(GREY).pooled, source(GREY).pooled)


@every
@pytest.mark.parametrize("channels", [3, 4])
def test_a_grey_image_and_its_copy_in_every_channel_have_the_same_features(
    name: str, channels: int, tmp_path: Path
) -> None:
    colour, grey = small(name, (32, 32), channels), small(name, (32, 32), seed=1)
    copies = GREY.expand(-1, channels, -1, -1)
    done = load_weights(grey, saved(colour, name, tmp_path / "colour"))
    assert list(done.adapted.values()) == [f"{channels} channels to 1"]
    assert torch.allclose(grey(GREY).pooled, colour(copies).pooled, atol=1e-5)
    again = small(name, (32, 32), channels, seed=2)
    load_weights(again, saved(grey, name, tmp_path / "grey"))
    assert torch.allclose(again(copies).pooled, grey(GREY).pooled, atol=1e-5)


def test_one_channel_is_the_sum_of_three_to_1e_6() -> None:
    conv = torch.rand(8, 3, 7, 7, dtype=torch.float64)
    image = torch.rand(1, 1, 30, 30, dtype=torch.float64)
    ours = F.conv2d(image, spread_channels(conv, 1), padding=3)
    assert torch.allclose(ours, F.conv2d(image.expand(1, 3, -1, -1), conv, padding=3), atol=1e-6)


@given(st.sampled_from([1, 3]), st.sampled_from([2, 3]))
def test_a_folded_normalisation_is_a_normalised_image(channels: int, ndim: int) -> None:
    scale = IMAGENET if channels == 3 else Normalisation((0.2,), (0.7,))
    conv, image = torch.rand(4, channels, *(3,) * ndim).double(), torch.rand(1, channels, *(6,) * ndim).double()
    mean, std = (torch.tensor(v).double().view(1, -1, *(1,) * ndim) for v in (scale.mean, scale.std))
    convolve = (F.conv2d, F.conv3d)[ndim - 2]
    weight, bias = fold_normalisation(conv, scale)
    assert torch.allclose(convolve(centred(image), weight, bias), convolve((image - mean) / std, conv), atol=1e-6)


def test_timms_resnet_of_standardised_colour_becomes_ours_of_grey(tmp_path: Path) -> None:
    theirs = settled(timm_resnet(in_chans=3))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    scale = {"mean": [0.5] * 3, "std": [0.2, 0.3, 0.4]}  # mid-grey, so that the padded border is the same too
    write_json(tmp_path / "config.json", {"pretrained_cfg": {**scale, "license": "apache-2.0"}})
    ours = small("resnet", (32, 32), stem=4, stem_kernel=7)
    done = load_weights(ours, tmp_path)
    std = torch.tensor(scale["std"]).view(1, 3, 1, 1)
    expected = theirs((GREY.expand(-1, 3, -1, -1) - 0.5) / std).mean((2, 3))
    assert torch.allclose(ours(GREY).pooled, expected, atol=1e-5)
    assert done.share == 1
    assert str(done).startswith(f"{tmp_path.name} (licence: apache-2.0): 100.0% of the encoder's parameters")
    assert set(done.adapted) == {"net.conv1.weight", "net.bn1.running_mean"}
    assert "3 channels to 1" in str(done) and "(0.2, 0.3, 0.4)" in str(done)


def test_without_a_word_about_them_three_channels_are_imagenets_and_one_is_plain(tmp_path: Path) -> None:
    for channels, scale in ((3, IMAGENET), (1, Normalisation((0.0,), (1.0,)))):
        theirs = settled(timm_resnet(in_chans=channels))
        torch.save({"epoch": 3, "state_dict": theirs.state_dict()}, tmp_path / "checkpoint.pt")
        guessed, told = (small("resnet", (32, 32), channels, stem=4, stem_kernel=7) for _ in range(2))
        load_weights(guessed, tmp_path / "checkpoint.pt")
        load_weights(told, tmp_path / "checkpoint.pt", normalisation=scale)
        assert all(torch.equal(a, b) for a, b in zip(guessed.parameters(), told.parameters(), strict=True))
    with pytest.raises(EncoderError, match="normalisation has 3 channels, but the weights have 1"):
        load_weights(told, tmp_path / "checkpoint.pt", normalisation=IMAGENET)


def test_a_teacher_inside_a_wrapped_checkpoint_is_found(tmp_path: Path) -> None:
    theirs = {f"module.backbone.{k}": v for k, v in timm_resnet(in_chans=1).state_dict().items()}
    head = {"module.head.weight": torch.rand(7, 64)}
    other = {k: torch.zeros_like(v) for k, v in theirs.items()}
    torch.save({"student": other, "teacher": {**theirs, **head}, "epoch": 1}, tmp_path / "dino.pth")
    ours = small("resnet", stem=4, stem_kernel=7)
    done = load_weights(ours, tmp_path / "dino.pth")
    assert done.share == 1
    assert done.unexpected == ("module.head.weight",)
    assert torch.equal(ours.net.layer4[0].conv1.weight, theirs["module.backbone.layer4.0.conv1.weight"])


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 32)])
def test_swinunetrs_encoder_is_ours(shape: tuple[int, ...], tmp_path: Path) -> None:
    from monai.networks.nets import swin_unetr

    theirs = swin_unetr.SwinUNETR(1, 2, feature_size=12, window_size=3, spatial_dims=len(shape)).eval()
    torch.save({"model": theirs.state_dict()}, tmp_path / "swin_unetr.pt")
    ours = small("swin", shape, heads=3, depths=(2, 2, 2, 2))
    done = load_weights(ours, tmp_path / "swin_unetr.pt")
    assert done.share == 1 and not done.missing
    assert {name.partition(".")[0].rstrip("0123456789") for name in done.unexpected} == {"encoder", "decoder", "out"}
    image, block = torch.rand(1, 1, *shape), theirs.swinViT.layers1[0].blocks[0]
    assert torch.equal(ours.net.layers1.blocks[0].mlp.linear1.weight, block.mlp.linear1.weight)
    assert torch.allclose(ours.net.patch_embed(centred(image)), theirs.swinViT.patch_embed(image), atol=1e-5)


def test_nnunets_names_are_known(tmp_path: Path) -> None:
    source, target = small("resenc", (16, 16)), small("resenc", (16, 16), seed=1)
    named = {}
    for name, value in source.state_dict().items():
        stem = name.replace("stem.", "stem.convs.0.")
        parts = stem.split(".")
        theirs = ".".join([*parts[:2], "blocks", *parts[2:]]) if parts[0] == "stages" else stem
        named[f"encoder.{theirs}"] = value
        named[f"encoder.{theirs.replace('.conv.', '.all_modules.0.').replace('.norm.', '.all_modules.1.')}"] = value
    torch.save({"network_weights": named}, tmp_path / "checkpoint_final.pth")
    done = load_weights(target, tmp_path / "checkpoint_final.pth", normalisation=Normalisation((0.5,), (0.25,)))
    assert (done.share, done.missing, done.unexpected) == (1.0, {}, ())
    images = GREY[..., :16, :16]
    assert torch.equal(target(images).pooled, source(images).pooled)


@pytest.mark.parametrize("name", ["resnet", "resenc"])
def test_2d_weights_start_a_3d_encoder(name: str, tmp_path: Path) -> None:
    plane, space = small(name, (32, 32), 3), small(name, (16, 32, 32), 1, seed=1)
    done = load_weights(space, saved(plane, name, tmp_path))
    assert done.share == 1
    assert "inflated to 3D" in done.adapted.values() and "3 channels to 1, inflated to 3D" in done.adapted.values()
    with pytest.raises(EncoderError, match="of the encoder's parameters, expected at least 90%; missing"):
        load_weights(plane, saved(space, name, tmp_path))


def test_an_inflated_convolution_sees_a_still_volume_as_the_plane_it_repeats() -> None:
    conv, image = torch.rand(4, 2, 3, 3), torch.rand(1, 2, 8, 8)
    volume = image.unsqueeze(2).expand(-1, -1, 5, -1, -1)
    seen = F.conv3d(volume, inflated(conv, 3))
    assert torch.allclose(seen, F.conv2d(image, conv).unsqueeze(2).expand_as(seen), atol=1e-6)


@given(st.sampled_from([(4, 4), (4, 6), (2, 3, 4)]), st.integers(1, 3))
def test_a_patch_embedding_gives_enlarged_patches_the_same_token(size: tuple[int, ...], factor: int) -> None:
    weight, patch = torch.rand(5, 2, *size).double(), torch.rand(1, 2, *size).double()
    larger = tuple(n * factor + 1 for n in size)
    mode = ("bilinear", "trilinear")[len(size) - 2]
    tokens = (F.interpolate(patch, larger, mode=mode) * resized_patch(weight, larger)).flatten(1).sum(1)
    assert torch.allclose(tokens, (patch * weight).flatten(1).sum(1))
    assert torch.allclose(resized_patch(weight, size), weight)


@pytest.mark.parametrize("ndim", [2, 3])
def test_relative_positions_of_another_window_keep_centre_and_symmetry(ndim: int) -> None:
    offsets = torch.stack(torch.meshgrid(*[torch.arange(-2, 3.0)] * ndim, indexing="ij")).square().sum(0)
    table = offsets.reshape(-1, 1).expand(-1, 2)
    larger = resized_offsets(table, 9**ndim, ndim).reshape(*(9,) * ndim, 2)
    assert torch.allclose(larger, larger.flip(list(range(ndim))), atol=1e-5)
    assert larger[(4,) * ndim].abs().max() < 1e-5
    assert torch.allclose(resized_offsets(table, len(table), ndim), table, atol=1e-5)


def test_another_window_and_patch_are_adapted(tmp_path: Path) -> None:
    source = saved(small("swin", (32, 32)), "swin", tmp_path)
    done = load_weights(small("swin", (32, 32), window=5, patch=4), source)
    assert done.share == 1
    assert done.adapted["net.patch_embed.proj.weight"] == "patch (2, 2) to (4, 4)"
    assert done.adapted["net.layers1.blocks.0.attn.relative_position_bias_table"] == "25 relative positions to 81"
    with pytest.raises(
        EncoderError, match=r"missing .*relative_position_bias_table \(\(25, 2\) there, \(125, 2\) here"
    ):
        load_weights(small("swin", (16, 16, 16)), source)
    whole = {k: v.half() for k, v in small("swin", (32, 32)).state_dict().items() if v.is_floating_point()}
    torch.save(whole, tmp_path / "half.pt")
    assert load_weights(small("swin", (32, 32), window=5), tmp_path / "half.pt").share == 1


def test_another_encoder_is_refused_by_name_and_left_as_it_was(tmp_path: Path) -> None:
    target = small("resnet", depth=18)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(EncoderError, match=r"has 44% .* at least 90%; missing net.layer1.1.conv1.weight \(not") as e:
        load_weights(target, saved(small("resnet"), "resnet", tmp_path))
    assert str(e.value).endswith("and 36 more") and "\n" not in str(e.value)
    wider = small("resnet", width=16)
    with pytest.raises(EncoderError, match=r"missing net.conv1.0.weight \(\(4, 1, 3, 3\) there, \(8, 1, 3, 3\) here\)"):
        load_weights(wider, tmp_path)
    with pytest.raises(EncoderError, match="holds encoder resnet, expected swin"):
        load_weights(small("swin"), tmp_path)
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())
    assert load_weights(target, tmp_path, least=0.4).share < 0.5


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_files_that_are_no_weights_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = small("resnet")
    (tmp_path / "harmful.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    torch.save({"state_dict": {"a": Harmful()}}, tmp_path / "wrapped.pt")
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    (tmp_path / "damaged.pt").write_bytes(b"")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    for folder, name in (("run", "encoder.json"), ("hub", "config.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("{", encoding="utf-8")
        save_file({"a": torch.zeros(1)}, tmp_path / folder / "model.safetensors")
    said = {
        "harmful.pt": "save its state_dict alone",
        "wrapped.pt": "save its state_dict alone",
        "damaged.safetensors": "cannot be read as weights",
        "damaged.pt": "cannot be read as weights",
        "list.pt": "holds a list, expected tensors by name",
        "run": "encoder.json is damaged",
        "hub": "config.json is damaged",
        "nowhere.pt": "no weights there; name a run",
    }
    for name, words in said.items():
        with pytest.raises(EncoderError, match=words) as error:
            load_weights(target, tmp_path / name)
        assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def timm_resnet(in_chans: int) -> nn.Module:
    from timm.models.resnet import BasicBlock, ResNet

    with torch.random.fork_rng():
        torch.manual_seed(in_chans)
        return ResNet(
            BasicBlock, [1, 1, 1, 1], channels=(8, 16, 32, 64), in_chans=in_chans, num_classes=0, global_pool=""
        ).eval()


def settled(net: nn.Module) -> nn.Module:
    """Return ``net`` with batch-norm statistics that are not the initial ones."""
    seen: Tensor = torch.rand(8, net.in_chans, 32, 32, generator=torch.Generator().manual_seed(1))
    net.train()(seen)
    return net.eval()


def test_an_adaptation_lists_a_few_names_only() -> None:
    missing = {f"layer{i}": "not there" for i in range(9)}
    line = str(Adaptation("x.pt", ("a",), {}, missing, ("head",), 0.95, None))
    assert "x.pt (licence: not stated): 95.0%" in line
    assert "missing: layer0 (not there), layer1 (not there), layer2 (not there), layer3 (not there) and 5 more" in line
    assert "adapted: none" in line and "without a place: head" in line


def timm_vit(in_chans: int = 3, **changes: Any) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    whole = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VisionTransformer(in_chans=in_chans, **whole).eval()
        nn.init.normal_(made.pos_embed)
        nn.init.normal_(made.cls_token)
    return made


def test_timms_vit_of_standardised_colour_becomes_ours_of_grey(tmp_path: Path) -> None:
    theirs = timm_vit()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    ours = small("vit", (32, 32), patch=8, positions="learned")
    done = load_weights(ours, tmp_path / "vit.safetensors")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    expected = theirs.forward_features((GREY.expand(-1, 3, -1, -1) - mean) / std)
    assert torch.allclose(ours(GREY).tokens, expected[:, 1:], atol=1e-5)
    assert done.share == 1 and set(done.unexpected) == {"net.head.weight", "net.head.bias"}
    assert done.adapted["net.cls_token"] == "its position added"


def test_learned_positions_follow_the_grid_and_fixed_ones_refuse_them(tmp_path: Path) -> None:
    theirs = timm_vit(1)
    torch.save(theirs.state_dict(), tmp_path / "vit.pt")
    ours = small("vit", (32, 48), patch=4, positions="learned")
    done = load_weights(ours, tmp_path / "vit.pt")
    assert done.adapted["net.pos_embed"] == "(4, 4) to (8, 12)"
    assert "patch (8, 8) to (4, 4)" in done.adapted["net.patch_embed.proj.weight"]
    assert torch.equal(ours.net.pos_embed, interpolate(theirs.pos_embed[0, 1:], (4, 4), (8, 12))[None])
    again = small("vit", (16, 48), positions="learned", seed=1)
    about = {"name": "vit", "config": {**SMALL["vit"], "positions": "learned"}}
    save_encoder(ours, tmp_path / "own", about)
    assert load_weights(again, tmp_path / "own").adapted == {"net.pos_embed": "(8, 12) to (4, 12)"}
    torch.save({**theirs.state_dict(), "pos_embed": torch.rand(1, 20, 24)}, tmp_path / "oblong.pt")
    with pytest.raises(EncoderError, match="20 learned positions are no grid of 2 equal axes"):
        load_weights(ours, tmp_path / "oblong.pt")
    with pytest.raises(EncoderError, match=r"learned positions, .* set encoder\.positions=learned"):
        load_weights(small("vit", (32, 32)), tmp_path / "vit.pt")


def test_a_plane_vit_starts_a_volume_vit(tmp_path: Path) -> None:
    theirs = timm_vit()
    torch.save(theirs.state_dict(), tmp_path / "vit.pt")
    ours = small("vit", (16, 32, 32), patch=8, positions="learned")
    done = load_weights(ours, tmp_path / "vit.pt", normalisation=Normalisation((0.5,) * 3, (0.25,) * 3))
    assert done.share == 1
    assert done.adapted["net.pos_embed"] == "(4, 4) to (2, 4, 4)"
    still = GREY.unsqueeze(2).expand(-1, -1, 16, -1, -1)
    flat = theirs.patch_embed(centred(GREY.expand(-1, 3, -1, -1))) + theirs.pos_embed[:, 1:]
    assert torch.allclose(ours._embedded(still, None)[:, 1:], flat.repeat(1, 2, 1), atol=1e-5)


def test_monais_vit_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.networks.blocks import selfattention
    from monai.networks.nets import ViT

    class Rearrange(nn.Module):  # of einops, which is not installed
        def __init__(self, pattern: str, **sizes: int) -> None:
            super().__init__()
            self.pattern, self.sizes = pattern, sizes

        def forward(self, x: Tensor) -> Tensor:
            if "qkv" in self.pattern:
                return x.unflatten(2, (3, self.sizes["l"], -1)).permute(2, 0, 3, 1, 4)
            return x.transpose(1, 2).flatten(2)  # b l h d -> b h (l d)

    monkeypatch.setattr(selfattention, "Rearrange", Rearrange)
    torch.manual_seed(0)  # their layer norms have a larger epsilon, which tells where tokens hardly vary
    theirs = ViT(
        1, (16, 16, 16), (8, 8, 8), hidden_size=24, mlp_dim=96, num_layers=2, num_heads=2, pos_embed_type="learnable"
    ).eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "monai.pt")
    ours = small("vit", (16, 16, 16), patch=8, positions="learned", class_token=False)
    done = load_weights(ours, tmp_path / "monai.pt")
    assert set(done.missing) == {f"net.blocks.{i}.attn.qkv.bias" for i in range(2)}  # MONAI has none, ours starts at 0
    volume = torch.rand(1, 1, 16, 16, 16)
    assert torch.allclose(ours(volume).tokens, theirs(volume)[0], atol=1e-4)
