"""The feed-forward that computes its activation twice, against the plain sequence of its layers."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from chiasm.nn.block import FeedForward
from chiasm.nn.linear import linear_of
from chiasm.nn.lora import add_lora

WIDTH, HIDDEN = 16, 64


def both_ways(mlp, x, *, autocast=False):
    """Output and gradients of the feed-forward, and of its layers called one after the other."""

    def run(way):
        mlp.zero_grad()
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = way(given)
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out))
        return [out, given.grad, *(p.grad for p in mlp.parameters())]

    return run(mlp), run(lambda given: nn.Sequential.forward(mlp, given))


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu"])
@pytest.mark.parametrize("shape", [(5, WIDTH), (2, 3, WIDTH), (2, 3, 4, WIDTH)])
def test_the_same_as_its_layers(activation, shape):
    torch.manual_seed(0)
    mlp = FeedForward(WIDTH, HIDDEN, activation=activation)
    for one, other in zip(*both_ways(mlp, torch.randn(shape)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_same_under_autocast_to_the_bit():
    torch.manual_seed(0)
    mlp = FeedForward(WIDTH, HIDDEN)
    ours, plain = both_ways(mlp, torch.randn(8, 5, WIDTH), autocast=True)
    assert ours[0].dtype == torch.bfloat16 and ours[2].dtype == torch.float32
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen):
    torch.manual_seed(0)
    mlp = FeedForward(WIDTH, HIDDEN)
    dict(mlp.named_parameters())[frozen].requires_grad_(False)
    ours, plain = both_ways(mlp, torch.randn(8, WIDTH))
    assert sum(gradient is None for gradient in ours) == 1
    for one, other in zip(ours, plain, strict=True):
        assert one is other is None or torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_low_rank_terms_are_trained_through_it():
    torch.manual_seed(0)
    mlp = FeedForward(WIDTH, HIDDEN)
    add_lora(mlp, 2, inside=(FeedForward,))
    for name, parameter in mlp.named_parameters():
        if name.endswith("up"):
            nn.init.normal_(parameter)
    ours, plain = both_ways(mlp, torch.randn(8, WIDTH))
    for one, other in zip(ours, plain, strict=True):
        assert one is other is None or torch.allclose(one, other, rtol=1e-5, atol=1e-5)


def test_dropout_drops_of_the_output_in_training_alone():
    torch.manual_seed(0)
    mlp = FeedForward(WIDTH, HIDDEN, dropout=0.5)
    x = torch.randn(100, WIDTH)
    assert 0.4 < (mlp(x) == 0).float().mean() < 0.6
    assert (mlp.eval()(x) != 0).all()


def test_double_precision_agrees_with_finite_differences():
    torch.manual_seed(0)
    mlp = FeedForward(3, 5).double()
    assert torch.autograd.gradcheck(mlp, torch.randn(4, 3, dtype=torch.double, requires_grad=True))


def test_the_activation_is_held_once():
    mlp = FeedForward(WIDTH, HIDDEN)
    held = []

    def hold(tensor):
        held.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        mlp(torch.randn(7, WIDTH, requires_grad=True))
    assert held.count((7, HIDDEN)) == 1


def test_who_follows_the_modules_sees_each_once():
    mlp, norm = FeedForward(WIDTH, HIDDEN), nn.LayerNorm(WIDTH)
    seen = []
    for module in (norm, mlp[1]):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    x = torch.randn(7, WIDTH, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        mlp(x, norm).sum().backward()
    assert seen == [norm, mlp[1]]
    assert counter.get_total_flops() == 3 * 2 * 7 * 2 * WIDTH * HIDDEN  # two products, each with two in its gradient


@pytest.mark.parametrize("frozen", ["x", "weight", "bias", "nothing"])
def test_of_a_norm_too(frozen):
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
    nn.init.normal_(norm.weight)
    for name, parameter in norm.named_parameters():
        parameter.requires_grad_(name != frozen)
    x = torch.randn(5, WIDTH, requires_grad=frozen != "x")
    ways = []
    for way in (lambda: linear_of(norm, x, linear.weight, linear.bias), lambda: linear(norm(x))):
        out = way()
        wanted = [part for part in (x, *norm.parameters(), *linear.parameters()) if part.requires_grad]
        ways.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one, other)
