"""Flamingo's gated layer and resampler against their written-out twins."""

import pytest
import torch

from chiasm.nn import GatedCross, Resampler, init_weights


def lively(module, gates=(0.7, -0.4)):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    if isinstance(module, GatedCross):
        module.gate_cross.data.fill_(gates[0])
        module.gate_mlp.data.fill_(gates[1])
    return module


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_fresh_gated_layer_is_the_identity():
    layer = GatedCross(8, 2, context_width=6)
    init_weights(layer, 1)
    x, keep = drawn(3, 5, 8), torch.ones(3, 5, 4, dtype=torch.bool)
    assert torch.equal(layer(x, layer.project(drawn(3, 4, 6)), keep), x)


def test_the_gated_layer_is_what_the_paper_writes():
    layer = lively(GatedCross(8, 2, context_width=6))
    x, context, keep = drawn(3, 5, 8), drawn(3, 4, 6, seed=2), torch.rand(3, 5, 4) < 0.7
    got = layer(x, layer.project(context), keep)
    for row in range(3):
        for place in range(5):
            own, read = x[row : row + 1, place : place + 1], context[row : row + 1, keep[row, place]]
            if read.shape[1]:
                own = own + layer.gate_cross.tanh() * layer.attend(layer.norm_cross(own), layer.attend.project(read))
            own = own + layer.gate_mlp.tanh() * layer.mlp(layer.norm_mlp(own))
            torch.testing.assert_close(got[row, place], own[0, 0], rtol=1e-4, atol=1e-5)


def test_a_token_that_reads_nothing_gets_exactly_zero_whatever_the_biases():
    layer = lively(GatedCross(8, 2, context_width=6), gates=(5.0, 0.0))
    x, keep = drawn(2, 3, 8), torch.zeros(2, 3, 4, dtype=torch.bool)
    keep[:, 2] = True
    assert layer.attend.out.bias.abs().min() > 0
    got = layer(x, layer.project(drawn(2, 4, 6)), keep)
    assert torch.equal(got[:, :2], x[:, :2]) and not torch.equal(got[:, 2], x[:, 2])


def test_rows_side_by_side_share_their_context():
    layer = lively(GatedCross(8, 2, context_width=6))
    x, context, keep = drawn(6, 5, 8), drawn(2, 4, 6), torch.rand(6, 5, 4) < 0.5
    shared = layer(x, layer.project(context), keep)
    copied = layer(x, layer.project(context.repeat_interleave(3, 0)), keep)
    torch.testing.assert_close(shared, copied, rtol=1e-4, atol=1e-5)


def test_the_resampler_reads_its_input_and_its_latents_in_every_layer():
    resampler = lively(Resampler(3, 8, 2, depth=2, frames=4))
    tokens = drawn(2, 2, 4, 5, 8)
    got = resampler(tokens)
    assert got.shape == (2, 2, 3, 8)
    for row, picture in ((0, 0), (1, 1)):
        frames = [tokens[row, picture, f] + resampler.times[f] for f in range(4)]
        read, x = torch.cat(frames)[None], resampler.latents[None]
        for layer in resampler.layers:
            latents = layer.norm_latents(x)
            both = torch.cat([layer.norm_input(read), latents], 1)
            x = x + layer.read(latents, layer.read.project(both))
            x = x + layer.mlp(layer.norm_mlp(x))
        torch.testing.assert_close(got[row, picture], resampler.norm(x)[0], rtol=1e-4, atol=1e-5)


def test_latents_are_among_the_keys():
    resampler = lively(Resampler(3, 8, 2, depth=1))
    keys = []
    resampler.layers[0].read.register_forward_hook(lambda _, args, __: keys.append(args[1].keys.shape[2]))
    resampler(drawn(1, 1, 1, 5, 8))
    assert keys == [5 + 3]


def test_time_matters_and_pictures_do_not_mix():
    resampler = lively(Resampler(3, 8, 2, depth=2, frames=3))
    tokens = drawn(2, 2, 3, 5, 8)
    assert not torch.allclose(resampler(tokens), resampler(tokens.flip(2)), atol=1e-3)
    changed = tokens.clone()
    changed[0, 1] = changed[0, 1].flip(-1)
    before, after = resampler(tokens), resampler(changed)
    torch.testing.assert_close(before[0, 0], after[0, 0])
    torch.testing.assert_close(before[1], after[1])
    assert not torch.allclose(before[0, 1], after[0, 1], atol=1e-3)
    assert resampler(tokens[:, :, :1]).shape == (2, 2, 3, 8)
    with pytest.raises(ValueError, match="4 frames does not fit 3"):
        resampler(drawn(1, 1, 4, 5, 8))
