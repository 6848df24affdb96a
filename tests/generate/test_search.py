"""Greedy writing and sampling: what is written, when it stops, and what it costs."""

import math
from itertools import pairwise

import pytest
import torch

from chiasm.generate import GenerateConfig, generate, stream
from chiasm.generate.sampling import filter_logits

PAD, BOS, EOT = 0, 1, 2


def spelled(*texts):
    """Logits under which picture i writes texts[i] and ends."""

    def logits(picture, tokens):
        text = (*texts[picture], EOT)
        row = torch.zeros(9)
        row[text[min(len(tokens), len(text) - 1)]] = 5.0
        return row

    return logits


def rows_after_each_step(lengths, captions=1):
    """How many rows a text of each length needs, when rows that have ended leave (once they are a quarter)."""
    rows, going = [], list(lengths)
    for step in range(max(lengths) + 1):
        rows.append(len(going) * captions)
        alive = [length for length in going if length > step]
        if len(alive) <= 0.75 * len(going):
            going = alive
    return rows


def test_each_picture_gets_its_own_text(scripted):
    texts = [(3,), (4, 5, 6, 7), (8, 8), (), (3, 4, 5, 6, 7, 8)]
    writer, numbered = scripted(spelled(*texts))
    written = generate(writer, numbered(5), GenerateConfig(min_tokens=0))
    assert [several[0].ids for several in written] == texts
    assert all(len(several) == 1 and several[0].complete for several in written)


def test_it_stops_when_every_row_has_ended_and_rows_that_have_ended_leave(scripted):
    texts = [(3,), (4, 5, 6, 7), (8, 8), (3,), (3, 4, 5, 6, 7, 8)]
    writer, numbered = scripted(spelled(*texts))
    generate(writer, numbered(5), GenerateConfig())
    assert writer.rows == rows_after_each_step([1, 4, 2, 1, 6]) == [5, 5, 3, 2, 2, 1, 1]


def test_the_longest_text_fills_the_context_and_no_more(scripted):
    writer, numbered = scripted(spelled((3,) * 99), context=8)
    (text,) = generate(writer, numbered(1), GenerateConfig())[0]
    assert text.ids == (3,) * 6 and not text.complete and len(text.log_probs) == 6
    assert len(writer.rows) == 7  # BOS and six words: an end after them would still be seen


def test_a_text_that_ends_exactly_at_the_longest_length_is_complete(scripted):
    writer, numbered = scripted(spelled((3,) * 4))
    (text,) = generate(writer, numbered(1), GenerateConfig(max_tokens=4))[0]
    assert text.ids == (3,) * 4 and text.complete and len(text.log_probs) == 5


@pytest.mark.parametrize("mode", ["greedy", "sample", "beam"])
def test_no_text_is_longer_or_shorter_than_allowed(scripted, babble, mode):
    config = GenerateConfig(mode=mode, captions=1 if mode == "greedy" else 3, min_tokens=2, max_tokens=4)
    writer, numbered = scripted(babble(0, end=1.0))
    lengths = {len(text.ids) for several in generate(writer, numbered(20), config) for text in several}
    assert lengths == {2, 3, 4}


@pytest.mark.parametrize("mode", ["greedy", "sample", "beam"])
def test_no_ngram_is_written_twice(scripted, babble, mode):
    settings = {"mode": mode, "captions": 1 if mode == "greedy" else 2, "min_tokens": 8}
    repeats = []
    for n in (0, 2):
        writer, numbered = scripted(babble(0))
        texts = generate(writer, numbered(20), GenerateConfig(no_repeat_ngram=n, **settings))
        ids = [text.ids for several in texts for text in several]
        repeats.append(any(len(set(grams)) < len(grams) for grams in (list(pairwise(i)) for i in ids)))
    assert repeats == [True, False]


@pytest.mark.parametrize("mode", ["greedy", "sample", "beam"])
def test_where_ngrams_run_out_the_text_ends(scripted, babble, mode):
    config = GenerateConfig(mode=mode, captions=1 if mode == "greedy" else 2, min_tokens=9, no_repeat_ngram=1)
    writer, numbered = scripted(babble(0))
    for several in generate(writer, numbered(3), config):
        for text in several:
            assert sorted(text.ids) == [3, 4, 5, 6] and text.complete and text.confidence > 0


def test_beam_of_one_is_greedy(scripted, babble):
    for seed in range(5):
        writer, numbered = scripted(babble(seed))
        greedy = generate(writer, numbered(4), GenerateConfig())
        assert generate(writer, numbered(4), GenerateConfig(mode="beam", beams=1)) == greedy


def test_greedy_takes_the_likeliest_token_each_time(scripted, babble):
    writer, numbered = scripted(babble(1))
    for picture, (text,) in enumerate(generate(writer, numbered(6), GenerateConfig(min_tokens=0))):
        chosen = [*text.ids, EOT] if text.complete else text.ids
        for place, token in enumerate(chosen):
            assert token == 2 + int(writer.logits(picture, text.ids[:place])[2:].argmax())


def test_log_probabilities_are_of_the_allowed_tokens_before_temperature_and_filters(scripted, babble):
    writer, numbered = scripted(babble(2))
    config = GenerateConfig(mode="sample", captions=4, temperature=2.0, top_k=3, min_tokens=1)
    for picture, several in enumerate(generate(writer, numbered(3), config)):
        for text in several:
            for place, (token, got) in enumerate(zip((*text.ids, EOT), text.log_probs, strict=False)):
                logits = writer.logits(picture, text.ids[:place]).clone()
                logits[[PAD, BOS] if place else [PAD, BOS, EOT]] = -math.inf
                assert got == pytest.approx(float(logits.log_softmax(0)[token]), abs=1e-5)
        assert [t.confidence for t in several] == sorted((t.confidence for t in several), reverse=True)


def test_confidence_is_the_geometric_mean_of_the_probabilities(scripted, babble):
    writer, numbered = scripted(babble(2))
    (text,) = generate(writer, numbered(1), GenerateConfig())[0]
    product = math.prod(math.exp(p) for p in text.log_probs)
    assert text.confidence == pytest.approx(product ** (1 / len(text.log_probs)))


def test_samples_follow_the_filtered_distribution(scripted):
    logits = torch.tensor([9.0, 9.0, -9.0, 1.0, 0.0, 0.5, -1.0])
    settings = {"temperature": 0.8, "top_k": 3, "top_p": 0.9}
    writer, numbered = scripted(lambda picture, tokens: logits)
    drawn = generate(writer, numbered(1), GenerateConfig(mode="sample", captions=4000, max_tokens=1, **settings))[0]
    shares = torch.bincount(torch.tensor([text.ids[0] for text in drawn]), minlength=7) / 4000
    allowed = logits.clone()
    allowed[:3] = -math.inf
    wanted = filter_logits(allowed[None], **settings)[0].softmax(0)
    torch.testing.assert_close(shares, wanted, rtol=0, atol=0.03)


def test_equal_seeds_draw_equal_samples_and_leave_the_global_state_alone(scripted, babble):
    state = torch.get_rng_state()
    first, again, other = (
        generate(*with_pictures(scripted(babble(0)), 4), GenerateConfig(mode="sample", captions=3, seed=seed))
        for seed in (7, 7, 8)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def with_pictures(pair, count):
    writer, numbered = pair
    return writer, numbered(count)


def test_several_captions_are_several_draws(scripted, babble):
    writer, numbered = scripted(babble(3))
    written = generate(writer, numbered(3), GenerateConfig(mode="sample", captions=8))
    assert all(len(several) == 8 and len({text.ids for text in several}) > 1 for several in written)
    assert writer.rows[0] == 24


@pytest.mark.parametrize("mode, captions", [("greedy", 1), ("sample", 3)])
def test_the_stream_s_tokens_are_the_generated_texts(scripted, babble, mode, captions):
    config = GenerateConfig(mode=mode, captions=captions, max_tokens=5)
    writer, numbered = scripted(babble(4, end=1.0))
    texts = [[([], []) for _ in range(captions)] for _ in range(6)]
    last = (-1, 0, 0)
    for token in stream(writer, numbered(6), config):
        ids, log_probs = texts[token.picture][token.caption]
        assert (len(ids), token.picture, token.caption) > last  # all captions in step
        last = (len(ids), token.picture, token.caption)
        ids.append(token.id)
        log_probs.append(token.log_prob)
    streamed = [{(tuple(i for i in ids if i != EOT), tuple(p)) for ids, p in several} for several in texts]
    written = generate(writer, numbered(6), config)
    assert streamed == [{(text.ids, text.log_probs) for text in several} for several in written]


def test_a_stream_yields_before_the_text_is_over(scripted):
    writer, numbered = scripted(spelled((3, 4, 5)))
    tokens = stream(writer, numbered(1), GenerateConfig())
    assert next(tokens).id == 3 and len(writer.rows) == 1
    assert [token.id for token in tokens] == [4, 5, EOT]


def test_beams_are_not_streamed(scripted, babble):
    writer, numbered = scripted(babble(0))
    with pytest.raises(ValueError, match="stream with mode greedy or sample"):
        next(stream(writer, numbered(1), GenerateConfig(mode="beam")))


@pytest.mark.parametrize("mode", ["greedy", "sample", "beam"])
def test_no_pictures_give_no_texts(scripted, babble, mode):
    writer, numbered = scripted(babble(0))
    assert generate(writer, numbered(0), GenerateConfig(mode=mode)) == []
    assert writer.rows == []
