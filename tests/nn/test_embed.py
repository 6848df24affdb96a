"""Patches, tokens and positions against permutations and loops that are plain to read."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chiasm.nn import GridPositions, PatchEmbed, TokenEmbed, fourier_features, resize_grid, sincos_grid


def test_patches_are_cut_in_place_with_their_channels_together():
    torch.manual_seed(0)
    b, c, p, rows, columns, d = 2, 3, 4, 3, 5, 6
    embed, images = PatchEmbed(p, d, c), torch.randn(b, c, rows * p, columns * p)
    patches = images.view(b, c, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)  # b gh gw c p p
    wanted = patches.flatten(3) @ embed.project.weight.flatten(1).T + embed.project.bias
    torch.testing.assert_close(embed(images), wanted.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(9, 8), (8, 10)])
def test_a_picture_that_is_no_whole_number_of_patches_is_refused(size):
    with pytest.raises(ValueError, match=rf"\({size[0]}, {size[1]}\) pixels is not a whole number of 4-pixel patches"):
        PatchEmbed(4, 6)(torch.zeros(1, 3, *size))


def test_tokens_have_the_position_where_they_stand():
    embed = TokenEmbed(7, 5, 4)
    ids = torch.tensor([[3, 0, 6], [1, 1, 1]])
    for start in (0, 2):
        got = embed(ids, start)
        for row in range(2):
            for place in range(3):
                wanted = embed.tokens.weight[ids[row, place]] + embed.positions[start + place]
                assert torch.equal(got[row, place], wanted)
    positions = torch.tensor([[0, 1, 0], [4, 2, 3]])
    assert torch.equal(embed(ids, positions=positions), embed.tokens(ids) + embed.positions[positions])


def test_tokens_beyond_the_position_table_are_refused():
    embed = TokenEmbed(7, 5, 4)
    embed(torch.zeros(1, 5, dtype=torch.long))
    for length, start in ((6, 0), (1, 5), (3, 3)):
        with pytest.raises(ValueError, match=f"{start + length} tokens does not fit a context of 5"):
            embed(torch.zeros(1, length, dtype=torch.long), start)


def test_sincos_positions_equal_a_loop():
    rows, columns, width = 3, 5, 12
    got, quarter = sincos_grid(rows, columns, width), width // 4
    for row in range(rows):
        for column in range(columns):
            wanted = []
            for place in (row, column):
                angles = [place / 10_000 ** (i / quarter) for i in range(quarter)]
                wanted += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            torch.testing.assert_close(got[row, column], torch.tensor(wanted))


@given(st.integers(1, 12), st.integers(1, 12))
def test_sincos_positions_all_differ_and_have_equal_length(rows, columns):
    places = sincos_grid(rows, columns, 16).flatten(0, 1)
    torch.testing.assert_close(places.norm(dim=1), torch.full((rows * columns,), math.sqrt(8)))
    distances = torch.cdist(places, places) + 9 * torch.eye(len(places))
    assert distances.min() > 0.1


def test_sincos_positions_look_alike_where_places_are_near():
    places = sincos_grid(9, 9, 32)
    near, far = places[4, 4] @ places[4, 5], places[4, 4] @ places[0, 8]
    assert places[4, 4] @ places[4, 4] > near > far


def test_sincos_positions_refuse_a_width_that_is_no_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        sincos_grid(2, 2, 6)


def test_grid_positions_start_as_sincos_and_are_learned():
    positions = GridPositions(3, 4, 8)
    assert torch.equal(positions(3, 4), sincos_grid(3, 4, 8).permute(2, 0, 1))
    positions(3, 4).sum().backward()
    assert torch.equal(positions.table.grad, torch.ones(8, 3, 4))


def test_a_grid_of_the_same_size_is_the_table_itself():
    table = torch.randn(4, 3, 5)
    assert resize_grid(table, 3, 5) is table


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_resized_grid_has_exactly_the_size_asked_for(rows, columns):
    assert resize_grid(torch.randn(4, 7, 5), rows, columns).shape == (4, rows, columns)


def test_a_resized_grid_keeps_what_is_constant_and_what_is_smooth():
    torch.testing.assert_close(resize_grid(torch.full((2, 4, 4), 3.0), 7, 9), torch.full((2, 7, 9), 3.0))
    ramp = torch.arange(8.0)[None, None].expand(1, 8, 8)
    doubled = resize_grid(ramp, 16, 16)[0, 8]
    torch.testing.assert_close(doubled[4:-4], (torch.arange(16.0) / 2 - 0.25)[4:-4], rtol=0, atol=0.05)


def test_grids_are_resized_by_cubics_which_overshoot_an_edge():
    edge = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 4, 4)
    assert resize_grid(edge, 8, 8).max() > 1.02


def test_a_grid_is_resized_in_fp32_and_returned_in_its_own_precision():
    table = torch.randn(4, 5, 5)
    resized = resize_grid(table.bfloat16(), 9, 9)
    assert resized.dtype == torch.bfloat16
    assert torch.equal(resized, resize_grid(table.bfloat16().float(), 9, 9).bfloat16())


@pytest.mark.parametrize(
    "size, bands, most", [((5,), 3, None), ((4, 6), 4, None), ((3, 2, 4), 2, 10.0), ((1, 3), 2, 8.0)]
)
def test_fourier_features_equal_a_loop(size, bands, most):
    got = fourier_features(size, bands, most)
    assert got.shape == (math.prod(size), len(size) * (2 * bands + 1))
    for row, place in enumerate(torch.cartesian_prod(*map(torch.arange, size)).view(-1, len(size)).tolist()):  # ij
        wanted = []
        for axis, side in zip(place, size, strict=True):
            position = -1 + 2 * axis / (side - 1) if side > 1 else 0.0
            nyquist = (most or side) / 2
            frequencies = [1 + band * (nyquist - 1) / (bands - 1) for band in range(bands)]
            angles = [math.pi * frequency * position for frequency in frequencies]
            wanted += [position, *map(math.sin, angles), *map(math.cos, angles)]
        torch.testing.assert_close(got[row], torch.tensor(wanted), rtol=1e-5, atol=1e-5)
