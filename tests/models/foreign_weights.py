"""Networks of another library, weights of ours in a folder, and an image to see both with."""

from pathlib import Path
from typing import Any

import torch
from small_encoders import SMALL
from torch import Tensor, nn

from medssl.models.build import save_encoder

GREY = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def saved(encoder: Any, name: str, folder: Path) -> Path:
    save_encoder(encoder, folder, {"name": name, "config": SMALL[name]})
    return folder


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


def timm_vit(in_chans: int = 3, **changes: Any) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    whole = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VisionTransformer(in_chans=in_chans, **whole).eval()
        nn.init.normal_(made.pos_embed)
        nn.init.normal_(made.cls_token)
    return made
