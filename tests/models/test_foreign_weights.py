"""Weights of timm, MONAI and nnU-Net become ours: the same features of the same images."""

from pathlib import Path

import pytest
import torch
from foreign_weights import GREY, settled, timm_resnet, timm_vit
from safetensors.torch import save_file
from small_encoders import SMALL, small
from torch import Tensor, nn

from medssl.core.errors import EncoderError
from medssl.core.files import write_json
from medssl.models.adapt import load_weights
from medssl.models.build import save_encoder
from medssl.models.encoders.base import centred
from medssl.models.positions import interpolate
from medssl.models.weights import IMAGENET, Normalisation


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
