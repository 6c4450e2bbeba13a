"""Positions: any number of axes, any size; the same size changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from medssl.models.positions import interpolate, sincos

grids = st.integers(1, 3).flatmap(lambda n: st.tuples(*[st.integers(1, 5)] * n))


def test_positions_tell_every_place_apart_on_any_grid() -> None:
    for grid in ((4, 6), (3, 4, 5)):
        places = sincos(grid, 48)
        assert places.shape[1] == 48
        assert torch.cdist(places, places).add(torch.eye(len(places)) * 9).min() > 0.1


def test_a_position_is_sine_and_cosine_of_each_coordinate() -> None:
    places, width, num = sincos((2, 3, 4), 20).view(2, 3, 4, 20), 20, 3
    for z, y, x in ((0, 0, 0), (1, 2, 3), (1, 0, 2)):
        frequency = [10000 ** (-k / num) for k in range(num)]
        expected = [f(torch.tensor(a * w)) for a in (z, y, x) for f in (torch.sin, torch.cos) for w in frequency]
        assert torch.allclose(places[z, y, x], torch.stack([*expected, *torch.zeros(width - 6 * num)]), atol=1e-6)


@given(grids)
def test_the_native_grid_keeps_its_positions_bit_by_bit(grid: tuple[int, ...]) -> None:
    table = torch.randn(sincos(grid, 12).shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sincos(grid, 12, native=grid), sincos(grid, 12))
    assert torch.equal(interpolate(table, grid, grid), table)


@given(grids, st.integers(2, 3))
def test_a_finer_view_of_the_same_extent_has_the_native_places_as_block_centres(
    grid: tuple[int, ...], times: int
) -> None:
    coordinates = (torch.arange(grid[0] * times, dtype=torch.float64) + 0.5) / times - 0.5
    fine = sincos((grid[0] * times, *grid[1:]), 4 * len(grid), native=grid)
    assert torch.allclose(coordinates.view(-1, times).mean(1), torch.arange(grid[0], dtype=torch.float64))
    along = fine.view(grid[0] * times, -1, 4 * len(grid))[:, 0]
    assert torch.allclose(along[:, 0], coordinates.sin().float(), atol=1e-6)
    assert torch.allclose(along[:, 2], coordinates.cos().float(), atol=1e-6)


@pytest.mark.parametrize("to", [(7, 9), (4, 12), (2, 3)])
def test_learned_planes_are_resampled_as_dino_does(to: tuple[int, int]) -> None:
    table = torch.randn(4 * 6, 8, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(table.view(1, 4, 6, 8).permute(0, 3, 1, 2), to, mode="bicubic").permute(0, 2, 3, 1)
    assert torch.allclose(interpolate(table, (4, 6), to), whole.reshape(-1, 8), atol=1e-5)


def test_an_axis_of_a_learned_volume_changes_alone() -> None:
    table = torch.randn(2 * 3 * 4, 5, generator=torch.Generator().manual_seed(0)).view(2, 3, 4, 5)
    longer = interpolate(table.view(-1, 5), (2, 3, 4), (2, 7, 4)).view(2, 7, 4, 5)
    one = interpolate(table[1, :, 2].reshape(-1, 5), (3,), (7,))
    assert torch.allclose(longer[1, :, 2], one, atol=1e-6)
