"""Batch norm: the library's on one process, the same on two, finite on one image."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import on_ranks
from torch import Tensor, nn

from medssl.core.collectives import rank
from medssl.models.norms import BatchNorm

SHAPES = {1: (6, 5), 2: (6, 5, 3, 4), 3: (6, 5, 2, 3, 2)}
LIBRARY = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def normed(axes: int, rows: slice = slice(None), dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Normalise given rows of a fixed batch by two norms in a row; return output, gradients and statistics."""
    g = torch.Generator().manual_seed(axes)
    images = (torch.randn(SHAPES[axes], generator=g, dtype=torch.float64) * 3 + 7).to(dtype)[rows]
    wanted = torch.randn(SHAPES[axes], generator=g, dtype=torch.float64).to(dtype)[rows]
    net = nn.Sequential(BatchNorm(5), nn.Tanh(), BatchNorm(5, momentum=None, affine=False)).to(dtype)
    nn.init.normal_(net[0].weight, generator=g)
    images.requires_grad_()
    out = net(images)
    (out * wanted).sum().backward()
    gradients = {f"{n}.grad": p.grad for n, p in net.named_parameters()}
    return {"out": out.detach(), "images.grad": images.grad, **gradients, **net.state_dict()}


def shares() -> dict[str, Any]:
    """Two or four rows of six on each rank, and what one image a rank gives."""
    rows = slice(0, 2) if rank() == 0 else slice(2, 6)
    parts = {axes: {name: value.numpy() for name, value in normed(axes, rows).items()} for axes in SHAPES}
    single = BatchNorm(5)(torch.randn(1, 5, generator=torch.Generator().manual_seed(rank())))
    half = BatchNorm(5)(torch.randn(3, 5, 2).bfloat16())
    return {"axes": parts, "single": single.detach().numpy(), "half": (str(half.dtype), half.detach().float().numpy())}


@pytest.fixture(scope="module")
def ranks() -> list[Any]:
    return on_ranks(2, shares)


@pytest.mark.parametrize("axes", SHAPES)
def test_one_process_computes_the_librarys_batch_norm(axes: int) -> None:
    ours, theirs = BatchNorm(5), LIBRARY[axes](5)
    for step in range(3):
        images = torch.randn(SHAPES[axes], generator=torch.Generator().manual_seed(step))
        assert torch.equal(ours(images), theirs(images))
        assert torch.equal(ours(images), F.batch_norm(images, None, None, ours.weight, ours.bias, training=True))
        theirs(images)
    for (name, one), (other, two) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(one, two)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize("axes", SHAPES)
def test_two_processes_with_unequal_shares_equal_one(axes: int, ranks: list[Any]) -> None:
    whole = normed(axes)
    first, second = ({name: torch.as_tensor(value) for name, value in r["axes"][axes].items()} for r in ranks)
    for name, value in whole.items():
        if name in ("out", "images.grad"):
            made = torch.cat([first[name], second[name]])
        elif name.endswith(".grad"):  # each holds its rows' part
            made = first[name] + second[name]
        else:
            assert torch.equal(first[name], second[name]), name
            made = first[name]
        assert torch.allclose(made.double(), value.double(), rtol=0, atol=1e-9), name


def test_a_single_value_a_channel_is_normalised_by_the_running_statistics() -> None:
    norm = BatchNorm(3)
    norm.running_mean.copy_(torch.tensor([1.0, 2, 3]))
    for shape in ((1, 3), (1, 3, 1, 1, 1)):
        assert torch.allclose(norm(torch.ones(shape)).flatten(), torch.tensor([0.0, -1, -2]), atol=1e-4)
    assert norm.num_batches_tracked == 0
    assert torch.isfinite(BatchNorm(3, track_running_stats=False)(torch.ones(1, 3))).all()


def test_one_image_a_process_and_half_precision_stay_finite(ranks: list[Any]) -> None:
    for made in ranks:
        assert np.isfinite(made["single"]).all()
        assert made["half"][0] == "torch.bfloat16"
        assert np.isfinite(made["half"][1]).all()
    assert np.allclose(ranks[0]["single"], -ranks[1]["single"], atol=1e-4)  # one above the mean, one below


def test_a_vector_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="expects B D"):
        BatchNorm(3)(torch.ones(3))
