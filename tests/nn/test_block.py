"""The block is the paper's sentence; its cache equals no cache, and beams share their picture's keys."""

import pytest
import torch

from chiasm.nn import Attention, Block, KeyValueCache

D = 8


def make(context_width=None, dropout=0.0):
    torch.manual_seed(0)
    return Block(D, 2, context_width=context_width, dropout=dropout)


def test_it_adds_what_self_cross_and_feed_forward_make_of_the_normed_sum():
    block = make(context_width=6)
    x, context = torch.randn(2, 5, D), torch.randn(2, 7, 6)
    keep = torch.rand(2, 7) < 0.7
    y = x + block.attend_self(n := block.norm_self(x), block.attend_self.project(n), causal=True)
    y = y + block.attend_cross(block.norm_cross(y), block.attend_cross.project(context), keep=keep)
    y = y + block.mlp(block.norm_mlp(y))
    got = block(x, causal=True, context=block.project(context), context_keep=keep)
    torch.testing.assert_close(got, y, rtol=1e-5, atol=1e-6)  # in training its own projections are one


def test_without_a_context_width_there_is_no_cross_attention():
    assert sum(isinstance(module, Attention) for module in make().modules()) == 1
    assert sum(isinstance(module, Attention) for module in make(6).modules()) == 2


def test_keep_hides_padding_from_self_attention():
    block = make()
    x = torch.randn(2, 6, D)
    keep = torch.ones(2, 6, dtype=torch.bool)
    keep[:, 4:] = False
    torch.testing.assert_close(block(x, keep=keep)[:, :4], block(x[:, :4]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunks", [[12], [1] * 12, [6, 6], [5, 1, 4, 2]], ids=str)
def test_a_cached_block_equals_an_uncached_one(chunks):
    block = make(context_width=6)
    x, context = torch.randn(2, 12, D), block.project(torch.randn(2, 7, 6))
    whole = block(x, causal=True, context=context)
    cache = KeyValueCache()
    with torch.no_grad():
        parts = [block(part, causal=True, cache=cache, context=context) for part in x.split(chunks, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-6)


def test_beams_read_their_own_picture_without_a_copy_of_its_keys():
    block = make(context_width=6)
    pictures, beams = torch.randn(3, 7, 6), 4
    keep = torch.rand(3, 7) < 0.7
    x = torch.randn(3 * beams, 5, D)
    shared = block(x, causal=True, context=block.project(pictures), context_keep=keep)
    copied = block(
        x,
        causal=True,
        context=block.project(pictures.repeat_interleave(beams, 0)),
        context_keep=keep.repeat_interleave(beams, 0),
    )
    torch.testing.assert_close(shared, copied, rtol=1e-5, atol=1e-6)


def test_cross_weights_are_those_with_which_forward_reads():
    block = make(context_width=6)
    x, context = torch.randn(2, 5, D), block.project(torch.randn(2, 7, 6))
    keep = torch.rand(2, 7) < 0.7
    maps = block.cross_weights(x, context, keep)
    y = x + block.attend_self(n := block.norm_self(x), block.attend_self.project(n), causal=True)
    y = y + block.attend_cross.out((maps @ context.values).transpose(1, 2).flatten(2))
    y = y + block.mlp(block.norm_mlp(y))
    torch.testing.assert_close(y, block(x, causal=True, context=context, context_keep=keep), rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only():
    block = make(dropout=0.5)
    x = torch.randn(2, 5, D)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
