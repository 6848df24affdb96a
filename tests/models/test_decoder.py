"""The decoder: what a token may see, what must be refused, where it looked."""

from dataclasses import replace

import pytest
import torch

from chiasm.models.decoder import CausalDecoder, DecoderConfig
from chiasm.models.language import TextRules
from chiasm.types import Encoded

CONFIG = DecoderConfig(width=16, depth=2, heads=2, vocabulary=11, rules=TextRules(context=9))


def make(seed=0):
    torch.manual_seed(seed)
    decoder = CausalDecoder(CONFIG, context_width=6).eval()
    for parameter in decoder.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(4)
    return decoder


def context(rows=3, keep=False):
    generator = torch.Generator().manual_seed(1)
    kept = torch.rand(rows, 5, generator=generator) < 0.6 if keep else None
    return Encoded(tokens=torch.randn(rows, 5, 6, generator=generator), keep=kept)


def texts(length=8, rows=3):
    return torch.randint(3, 11, (rows, length), generator=torch.Generator().manual_seed(2))


def test_a_token_sees_itself_and_what_lies_before_it():
    decoder, ids = make(), texts()
    before = decoder(ids, context())
    for place in range(8):
        changed = ids.clone()
        changed[:, place] = (ids[:, place] - 3 + 1) % 8 + 3
        same = (decoder(changed, context()) == before).all(-1)
        assert same[:, :place].all() and not same[:, place:].any()


def test_masked_context_leaves_no_trace():
    decoder, kept = make(), context(keep=True)
    loud = Encoded(tokens=kept.tokens.masked_fill(~kept.keep[..., None], 1e3), keep=kept.keep)
    assert torch.equal(decoder(texts(), kept), decoder(texts(), loud))


def test_the_output_layer_is_the_token_table():
    decoder = make()
    assert decoder.head.weight is decoder.embed.tokens.weight
    hidden = torch.randn(2, 16)
    torch.testing.assert_close(decoder.head(hidden), hidden @ decoder.embed.tokens.weight.T)


def test_a_text_beyond_the_context_is_refused_in_one_piece_and_in_steps():
    decoder = make()
    decoder(texts(9), context())
    with pytest.raises(ValueError, match="10 tokens does not fit a context of 9"):
        decoder(texts(10), context())
    draft = decoder.start(context(), 1)
    with torch.no_grad():
        decoder.step(texts(9), draft)
        with pytest.raises(ValueError, match="10 tokens does not fit a context of 9"):
            decoder.step(texts(1), draft)


@pytest.mark.parametrize("keep", [False, True])
def test_maps_are_the_weights_with_which_the_forward_pass_read(keep):
    decoder, ids, seen = make(), texts(), context(keep=keep)
    wanted = []
    hooks = [
        block.attend_cross.register_forward_pre_hook(
            lambda attention, args, kwargs: wanted.append(attention.weights(*args, **kwargs)), with_kwargs=True
        )
        for block in decoder.blocks
    ]
    decoder(ids, seen)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(decoder.attention_maps(ids, seen), torch.stack(wanted, 1))


def test_a_draft_selects_pictures_with_their_masks():
    decoder, seen = make(), context(keep=True)
    with torch.no_grad():
        draft = decoder.start(seen, beams=2)
        decoder.step(texts(1, rows=6), draft)
        draft.select(torch.tensor([5, 4, 0, 0]))
        got = decoder.step(texts(1, rows=4), draft)
    assert torch.equal(draft.context_keep, seen.keep[[2, 0]])
    whole = torch.cat([texts(1, rows=6)[[5, 4, 0, 0]], texts(1, rows=4)], 1)
    chosen = [2, 2, 0, 0]
    wanted = decoder.head(decoder(whole, Encoded(tokens=seen.tokens[chosen], keep=seen.keep[chosen])))[:, -1]
    torch.testing.assert_close(got[:, 0], wanted, rtol=1e-4, atol=1e-5)


def make_prefixed(dropout=0.0):
    torch.manual_seed(0)
    decoder = CausalDecoder(replace(CONFIG, dropout=dropout)).eval()
    for parameter in decoder.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(4)
    return decoder


def prefix(rows=3, keep=False):
    generator = torch.Generator().manual_seed(1)
    kept = torch.tensor([[True] * 5, [True, False, True, True, False], [False] * 5])[:rows] if keep else None
    return Encoded(tokens=torch.randn(rows, 5, 16, generator=generator), keep=kept)


def one_by_one(decoder, ids, before):
    """Hidden states of one text: every token of every layer reads, in a plain loop, the tokens that it may read."""
    words = [decoder.embed.tokens.weight[i] + decoder.embed.positions[place] for place, i in enumerate(ids.tolist())]
    tokens = list(before) + words
    for block in decoder.blocks:
        read = []
        for place, token in enumerate(tokens):
            seen = tokens[: len(before)] if place < len(before) else tokens[: place + 1]
            keys = block.attend_self.project(block.norm_self(torch.stack(seen))[None])
            read.append(token + block.attend_self(block.norm_self(token)[None, None], keys)[0, 0])
        tokens = [token + block.mlp(block.norm_mlp(token)) for token in read]
    return torch.stack([decoder.norm(token) for token in tokens[len(before) :]])


@torch.no_grad()
@pytest.mark.parametrize("kept", [False, True])
def test_a_prefix_reads_itself_both_ways_and_words_read_it_and_what_lies_before(kept):
    decoder, ids, seen = make_prefixed(), texts(), prefix(keep=kept)
    hidden = decoder(ids, prefix=seen)
    for row in range(3):
        before = seen.tokens[row] if seen.keep is None else seen.tokens[row, seen.keep[row]]
        torch.testing.assert_close(hidden[row], one_by_one(decoder, ids[row], before), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("chunks", [[8], [1] * 8, [4, 4], [3, 1, 2, 2]], ids=str)
def test_every_chunking_behind_a_prefix_gives_the_uncached_logits(chunks, kept):
    decoder, ids, seen = make_prefixed(), texts(), prefix(keep=kept)
    draft = decoder.start(prefix=seen)
    parts = [decoder.step(part, draft) for part in ids.split(chunks, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), decoder.head(decoder(ids, prefix=seen)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_masked_prefix_leaves_no_trace():
    decoder, ids, seen = make_prefixed(), texts(), prefix(keep=True)
    loud = Encoded(tokens=seen.tokens.masked_fill(~seen.keep[..., None], 1e3), keep=seen.keep)
    assert torch.equal(decoder(ids, prefix=seen), decoder(ids, prefix=loud))
    torch.testing.assert_close(decoder(ids, prefix=seen)[2], decoder(ids)[2], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_draft_selects_rows_with_their_prefixes():
    decoder, seen = make_prefixed(), prefix(keep=True)
    draft = decoder.start(prefix=seen, beams=2)
    decoder.step(texts(1, rows=6), draft)
    draft.select(torch.tensor([5, 4, 2, 2]))
    got = decoder.step(texts(1, rows=4), draft)
    whole = torch.cat([texts(1, rows=6)[[5, 4, 2, 2]], texts(1, rows=4)], 1)
    chosen = [2, 2, 1, 1]
    wanted = decoder(whole, prefix=Encoded(tokens=seen.tokens[chosen], keep=seen.keep[chosen]))
    torch.testing.assert_close(got[:, 0], decoder.head(wanted)[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [False, True])
def test_maps_of_a_prefix_are_the_weights_with_which_the_words_read_it(kept):
    decoder, ids, seen, wanted = make_prefixed(), texts(), prefix(keep=kept), []
    hooks = [
        block.attend_self.register_forward_pre_hook(
            lambda attention, args, kwargs: wanted.append(attention.weights(*args, **kwargs)), with_kwargs=True
        )
        for block in decoder.blocks
    ]
    with torch.no_grad():  # in training, blocks read themselves by another way than `forward`
        decoder(ids, prefix=seen)
    for hook in hooks:
        hook.remove()
    maps = decoder.attention_maps(ids, prefix=seen)
    assert maps.shape == (3, 2, 2, 8, 5)
    torch.testing.assert_close(maps, torch.stack(wanted, 1)[:, :, :, 5:, :5])
    if kept:
        assert (maps[2] == 0).all() and (maps[1][..., [1, 4]] == 0).all()


def test_a_decoder_has_the_activation_and_the_epsilon_of_its_configuration():
    config = replace(CONFIG, activation="gelu_tanh", norm_eps=0.1)
    decoder = CausalDecoder(config)
    assert all(block.mlp[1].approximate == "tanh" for block in decoder.blocks)
    norms = [module for module in decoder.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 5 and all(norm.eps == 0.1 for norm in norms)


@pytest.mark.parametrize("heads", [3, 0, -2])
def test_a_width_that_heads_do_not_divide_is_refused(heads):
    with pytest.raises(ValueError, match=f"width 16 is not a multiple of heads {heads}"):
        DecoderConfig(width=16, heads=heads)
