"""The rules of texts and the text encoder: what it may see, what must be refused, how it pools."""

import pytest
import torch

from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextConfig, TextEncoder, TextRules


@pytest.mark.parametrize("ids", [{"pad": 1}, {"unk": 0}, {"unk": 1}, {"unk": 2}, {"bos": 2, "unk": 2}])
def test_reserved_ids_must_differ(ids):
    with pytest.raises(ValueError, match="must differ"):
        TextRules(**ids)


def test_texts_may_end_with_what_they_begin_with_or_are_padded_with_where_a_decoder_writes_them():
    for ids in ({"pad": 2}, {"bos": 2}, {"pad": 2, "bos": 2}):
        rules = TextRules(**ids)
        DecoderConfig(rules=rules)
        assert rules.eot not in rules.unwritten
    with pytest.raises(ValueError, match="bos and eot are both 2"):
        TextConfig(rules=TextRules(bos=2))
    with pytest.raises(ValueError, match="a decoder needs BOS"):
        DecoderConfig(rules=TextRules(bos=None))


def test_a_context_without_room_for_a_word_is_refused():
    with pytest.raises(ValueError, match="context 2 leaves no room"):
        TextRules(context=2)


TEXTS = [[1, 3, 4, 9, 2], [1, 5, 2], [1, 10, 7, 8, 3, 2]]
READINGS = {
    f"{pool}-{'causal' if causal else 'both ways'}": (pool, causal)
    for pool in ("eot", "mean")
    for causal in (True, False)
}


@pytest.fixture(params=READINGS.values(), ids=READINGS)
def encoder(request):
    return make_encoder(*request.param)


def make_encoder(pool="eot", causal=True, **changes):
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 2, "heads": 2, "vocabulary": 11, "rules": TextRules(context=9)} | changes
    encoder = TextEncoder(TextConfig(pool=pool, causal=causal, **sizes)).eval()
    for parameter in encoder.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(4)
    return encoder


def rows(texts, to, pad=0):
    return torch.tensor([text + [pad] * (to - len(text)) for text in texts])


@torch.no_grad()
def alone(encoder, text):
    """The text by itself, without a pad: its tokens and its vector."""
    encoded = encoder(torch.tensor([text]))
    return encoded.tokens[0], encoded.pooled[0]


@pytest.mark.parametrize("pad", [0, 1, 2, 10])
@pytest.mark.parametrize("to", [6, 8, 9])
def test_pads_of_any_number_and_id_change_no_text(encoder, to, pad):
    with torch.no_grad():
        encoded = encoder(rows(TEXTS, to, pad))
    for row, text in enumerate(TEXTS):
        tokens, pooled = alone(encoder, text)
        torch.testing.assert_close(encoded.pooled[row], pooled, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoded.tokens[row, : len(text)], tokens, rtol=1e-4, atol=1e-5)
        assert encoded.keep[row].tolist() == [place < len(text) for place in range(to)]


UNLIKE = [[1, *[3 + (7 * n + k) % 8 for k in range(n)], 2] for n in (7, 1, 3, 1, 2, 5, 1, 1, 2)]


@pytest.mark.parametrize("pad", [0, 2, 10])
def test_texts_of_unlike_lengths_share_rows_and_stay_themselves(encoder, pad):
    computed = []
    encoder.blocks[0].register_forward_hook(lambda block, given, x: computed.append(x.shape[0]))
    with torch.no_grad():
        encoded = encoder(rows(UNLIKE, 9, pad))
        assert computed.pop() <= 0.75 * len(UNLIKE)
    for row, text in enumerate(UNLIKE):
        tokens, pooled = alone(encoder, text)
        torch.testing.assert_close(encoded.pooled[row], pooled, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoded.tokens[row, : len(text)], tokens, rtol=1e-4, atol=1e-5)
        assert not encoded.tokens[row, len(text) :].any()


def test_gradients_of_texts_that_share_rows_are_those_of_each_by_itself(encoder):
    encoder.double()  # so that what is left of sums in another order is tiny
    target = torch.randn(len(UNLIKE), 16, generator=torch.Generator().manual_seed(1)).double()
    (encoder(rows(UNLIKE, 9)).pooled * target).sum().backward()
    together = [parameter.grad.clone() for parameter in encoder.parameters()]
    encoder.zero_grad()
    for text, wanted in zip(UNLIKE, target, strict=True):
        (encoder(torch.tensor([text])).pooled[0] * wanted).sum().backward()
    for parameter, gradient in zip(encoder.parameters(), together, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=1e-9)


def test_a_text_is_read_at_its_first_end():
    # The greatest id, 10, is no end; after the first end comes a word, another end, and a pad.
    encoder, text = make_encoder(), [1, 10, 4, 2, 5, 2, 0]
    with torch.no_grad():
        encoded = encoder(torch.tensor([text]))
    assert torch.equal(encoded.pooled[0], encoded.tokens[0, 3])
    for other in (1, 5, 6):  # the greatest id, the second end, the last place
        assert not torch.allclose(encoded.pooled[0], encoded.tokens[0, other], atol=1e-3)


def test_the_mean_is_over_the_real_tokens():
    encoder = make_encoder("mean")
    with torch.no_grad():
        encoded = encoder(rows(TEXTS, 9))
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(encoded.pooled[row], encoded.tokens[row, : len(text)].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_encoder_alone_hides_what_comes_after(causal):
    encoder, text = make_encoder(causal=causal), torch.tensor([[1, 3, 4, 5, 2]])
    changed = torch.tensor([[1, 3, 4, 8, 2]])
    with torch.no_grad():
        same = torch.isclose(encoder(text).tokens, encoder(changed).tokens, atol=1e-6).all(-1)[0]
    assert same.tolist() == ([True] * 3 + [False] * 2 if causal else [False] * 5)


def test_the_last_place_is_that_of_the_context_and_pads_are_read():
    encoder = make_encoder("last", causal=False)
    with torch.no_grad():
        short, long = encoder(rows(TEXTS, 6)), encoder(rows(TEXTS, 9, pad=7))
        assert short.tokens.shape[1] == 9 and torch.equal(short.pooled, short.tokens[:, -1])
        assert torch.equal(short.pooled, long.pooled)  # pads are set to the reserved id
        other = make_encoder("last", causal=False, rules=TextRules(pad=9, context=9))(rows(TEXTS, 6))
    assert not torch.allclose(short.pooled, other.pooled, atol=1e-3)


@pytest.mark.parametrize("pool", ["eot", "mean", "last"])
def test_a_text_without_an_end_is_refused(pool):
    with pytest.raises(ValueError, match=r"no EOT \(id 2\)"):
        make_encoder(pool)(torch.tensor([[1, 3, 2], [1, 3, 4]]))


def test_a_text_beyond_the_encoder_s_context_is_refused():
    with pytest.raises(ValueError, match="10 tokens does not fit a context of 9"):
        make_encoder()(torch.tensor([[1, *[3] * 8, 2]]))
    with pytest.raises(ValueError, match="10 tokens does not fit a context of 9"):  # beside such as would share rows
        make_encoder()(rows([[1, *[3] * 8, 2], [1, 2], [1, 2], [1, 2]], 10))
