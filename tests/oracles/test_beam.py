"""Beam search with room for everything finds what exhaustive search finds; with less room, what a plain loop finds."""

from itertools import product

import pytest
import torch

from chiasm.generate import GenerateConfig, beam_search

PAD, BOS, EOT = 0, 1, 2
WORDS = (3, 4, 5, 6)


def allowed(tokens, token, config):
    """Whether the settings let `token` follow `tokens`."""
    if token == EOT:
        return len(tokens) >= config.min_tokens
    n, grown = config.no_repeat_ngram, (*tokens, token)
    grams = [grown[i : i + n] for i in range(len(grown) - n + 1)] if n else []
    return token in WORDS and len(grams) == len(set(grams))


def next_log_probs(logits, picture, tokens, config):
    drawn = logits(picture, tokens)
    choices = [token for token in (EOT, *WORDS) if allowed(tokens, token, config)]
    return dict(zip(choices, drawn[choices].log_softmax(0).tolist(), strict=True))


def score(log_probs, config):
    return sum(log_probs) / len(log_probs) ** config.length_penalty


def exhaustive(logits, picture, config):
    """Every text of at most `max_tokens` words, best first: (words, log-probabilities)."""
    found = []
    for length in range(config.max_tokens + 1):
        for words in product(WORDS, repeat=length):
            text, log_probs = (*words, EOT), []
            for i, token in enumerate(text):
                choices = next_log_probs(logits, picture, text[:i], config)
                if token not in choices:
                    break
                log_probs.append(choices[token])
            else:
                found.append((words, log_probs))
    return sorted(found, key=lambda text: -score(text[1], config))


def plain_beam(logits, picture, config):
    """Beam search as a list of texts that never stops early."""
    live, finished = [((), [])], []
    for length in range(config.max_tokens + 1):
        options = [
            ((*words, token), [*log_probs, p])
            for words, log_probs in live
            for token, p in next_log_probs(logits, picture, words, config).items()
        ]
        options.sort(key=lambda text: -sum(text[1]))
        finished += [text for text in options[: config.beams] if text[0][-1] == EOT]
        if length < config.max_tokens:
            live = [text for text in options if text[0][-1] != EOT][: config.beams]
    finished = [(words[:-1], log_probs) for words, log_probs in finished] or live
    return sorted(finished, key=lambda text: -score(text[1], config))


def assert_same(written, texts, count):
    assert [text.ids for text in written] == [words for words, _ in texts[:count]]
    for got, (words, log_probs) in zip(written, texts, strict=False):
        assert got.log_probs == pytest.approx(log_probs, abs=1e-5)
        assert got.complete == (len(log_probs) == len(words) + 1)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("rules", [{}, {"min_tokens": 2}, {"no_repeat_ngram": 1}, {"no_repeat_ngram": 2}], ids=str)
def test_with_room_for_everything_it_finds_the_best_of_all_texts(scripted, babble, length_penalty, rules):
    settings = {"max_tokens": 3, "min_tokens": 0, "length_penalty": length_penalty, "captions": 5} | rules
    config = GenerateConfig(mode="beam", beams=320, **settings)  # as many as there are continuations at the last step
    for seed in range(3):
        writer, numbered = scripted(babble(seed))
        found = beam_search(writer, numbered(2), config)
        for picture in range(2):
            assert_same(found[picture], exhaustive(writer.logits, picture, config), 5)


@pytest.mark.parametrize("fusion", ["cross", "early", "late", "perceiver"])
@torch.no_grad()
def test_of_a_real_model_it_finds_the_best_of_all_texts(make_captioner, make_images, fusion):
    model, images = make_captioner(vocabulary=7, fusion=fusion, latents=3, gain=6.0), make_images(2)
    config = GenerateConfig(mode="beam", beams=80, captions=5, max_tokens=2, min_tokens=0)

    def logits(picture, tokens):
        return model.head(model(images[picture : picture + 1], torch.tensor([[BOS, *tokens]])))[0, -1]

    found = beam_search(model, images, config)
    assert found[0][0].ids != found[1][0].ids or found[0][0].log_probs != found[1][0].log_probs
    for picture in range(2):
        assert_same(found[picture], exhaustive(logits, picture, config), 5)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("beams, captions", [(1, 1), (2, 1), (3, 3), (4, 2)])
def test_stopping_early_never_loses_a_better_text(scripted, babble, beams, captions, length_penalty):
    for seed in range(12):
        config = GenerateConfig(
            mode="beam", beams=beams, captions=captions, max_tokens=6, length_penalty=length_penalty,
            min_tokens=seed % 3, no_repeat_ngram=(0, 2)[seed % 2],
        )  # fmt: skip
        writer, numbered = scripted(babble(seed, end=seed % 4 - 1.0))
        found = beam_search(writer, numbered(3), config)
        for picture in range(3):
            assert_same(found[picture], plain_beam(writer.logits, picture, config), captions)
