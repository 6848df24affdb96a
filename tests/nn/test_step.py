"""A block taken token by token equals the block over the whole text."""

import pytest
import torch

from chiasm.nn import Block, BlockStep, KeyValueCache

ROWS, TOKENS, D, C = 6, 7, 16, 12


@pytest.mark.parametrize("pictures", [6, 3, 1])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@torch.no_grad()
def test_token_by_token_equals_the_whole(pictures, dropout):
    generator = torch.Generator().manual_seed(0)
    block = Block(D, 4, context_width=C, dropout=dropout).eval()
    for parameter in block.parameters():
        parameter.normal_(std=0.5, generator=generator)
    context = block.project(torch.randn(pictures, 5, C, generator=generator))
    x = torch.randn(ROWS, TOKENS, D, generator=generator)
    wanted = block(x, causal=True, context=type(context)(*(t.repeat_interleave(ROWS // pictures, 0) for t in context)))
    step, cache = BlockStep(block), KeyValueCache()
    got = torch.stack([step(token, cache, context) for token in x.unbind(1)], 1)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu"])
@torch.no_grad()
def test_a_block_without_cross_attention_and_with_any_activation(activation):
    generator = torch.Generator().manual_seed(0)
    block = Block(D, 4, activation=activation, norm_eps=0.1).eval()
    for parameter in block.parameters():
        parameter.normal_(std=0.5, generator=generator)
    x = torch.randn(ROWS, TOKENS, D, generator=generator)
    step, cache = BlockStep(block), KeyValueCache()
    got = torch.stack([step(token, cache) for token in x.unbind(1)], 1)
    torch.testing.assert_close(got, block(x, causal=True), rtol=1e-4, atol=1e-5)
