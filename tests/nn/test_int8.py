"""Layers in int8 are the plain ones up to rounding, row by row, and only the large ones are replaced."""

import pytest
import torch
from torch import nn

from chiasm.nn import Int8Linear, quantize_int8


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(32,), (1, 32), (5, 3, 32)])
def test_nearly_the_plain_layer(bias, shape):
    torch.manual_seed(0)
    linear = nn.Linear(32, 48, bias=bias)
    x = torch.randn(shape)
    plain, rounded = linear(x), Int8Linear(linear)(x)
    assert rounded.shape == plain.shape
    error = (rounded - plain).norm() / plain.norm()
    assert 0 < error < 0.01


def test_what_is_on_the_grid_is_exact():
    weight = torch.tensor([[127.0, -3, 0], [1, 127, 64]]) * torch.tensor([[0.25], [2.0]])
    linear = nn.Linear(3, 2, bias=False)
    linear.weight.data = weight
    x = torch.tensor([[127.0, 5, -9], [0, 0, 0], [-0.5, 63.5, 1]])
    torch.testing.assert_close(Int8Linear(linear)(x), x @ weight.T, rtol=1e-6, atol=1e-6)


def test_a_large_row_or_output_costs_no_other_its_precision():
    torch.manual_seed(0)
    linear = nn.Linear(32, 4)
    x = torch.randn(3, 32)
    alone = Int8Linear(linear)(x)
    linear.weight.data[3] *= 1e4
    torch.testing.assert_close(Int8Linear(linear)(torch.cat([x, 1e6 * x]))[:3, :3], alone[:, :3])


def test_only_large_layers_are_replaced_each_where_it_stands():
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Embedding(100, 8))
    assert quantize_int8(model, least_weights=128) == 1
    assert type(model[0]) is nn.Linear and isinstance(model[1][0], Int8Linear)
    assert quantize_int8(model, least_weights=1000) == 0
