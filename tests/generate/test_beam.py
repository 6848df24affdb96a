"""Beam search: when it stops, what it returns when nothing ends, and that pictures do not meddle with each other."""

import math

import pytest
import torch

from chiasm.generate import GenerateConfig, Written, beam_search, generate
from chiasm.generate.beam import Finished

EOT = 2


def test_pictures_searched_together_equal_each_alone(scripted, babble):
    config = GenerateConfig(mode="beam", beams=3, captions=3)
    logits = babble(0, end=0.5)
    writer, numbered = scripted(logits)
    together = generate(writer, numbered(12), config)
    assert len({len(several[0].ids) for several in together}) > 2
    assert writer.rows[0] == 36 and 0 < writer.rows[-1] < 36  # pictures that are done leave
    for picture in range(12):
        alone, _ = scripted(lambda _, tokens, picture=picture: logits(picture, tokens))
        assert generate(alone, numbered(1), config)[0] == together[picture]


def test_best_come_first_by_penalised_score(scripted, babble):
    for penalty in (0.0, 0.6, 1.0):
        config = GenerateConfig(mode="beam", beams=4, captions=4, length_penalty=penalty)
        writer, numbered = scripted(babble(1, end=1.0))
        for several in beam_search(writer, numbered(5), config):
            scores = [sum(text.log_probs) / len(text.log_probs) ** penalty for text in several]
            assert scores == sorted(scores, reverse=True)
            assert len({text.ids for text in several}) == len(several) == 4


def test_a_larger_penalty_never_shortens_the_text(scripted, babble):
    lengths = []
    for penalty in (0.0, 1.0, 3.0):
        writer, numbered = scripted(babble(2, end=0.5))
        found = beam_search(writer, numbered(10), GenerateConfig(mode="beam", beams=6, length_penalty=penalty))
        lengths.append(sum(len(several[0].ids) for several in found))
    assert lengths[0] < lengths[1] < lengths[2]


def test_it_stops_as_soon_as_no_live_beam_can_win(scripted):
    def logits(picture, tokens):
        row = torch.tensor([0.0, 0.0, -9.0, 9.0, 0.0, 0.0, 0.0])
        if len(tokens) == 2:
            row[EOT] = 30.0
        return row

    writer, numbered = scripted(logits, context=50)
    (text,) = beam_search(writer, numbered(1), GenerateConfig(mode="beam", beams=3))[0]
    assert text.ids == (3, 3) and len(writer.rows) == 3


@pytest.mark.parametrize("beams", [2, 8, 40])
def test_where_nothing_ends_the_best_unfinished_texts_are_returned(scripted, beams):
    writer, numbered = scripted(lambda picture, tokens: torch.tensor([0.0, 0.0, -math.inf, 2.0, 1.0, 0.0, -1.0]))
    config = GenerateConfig(mode="beam", beams=beams, captions=2, max_tokens=2)
    first, second = beam_search(writer, numbered(1), config)[0]
    assert (first.ids, first.complete, second.complete) == ((3, 3), False, False)
    assert sorted(second.ids) == [3, 4]
    assert all(math.isfinite(p) for text in (first, second) for p in text.log_probs)


def first_of_equals(logits, k):
    """`topk` that prefers low indices; which of equals the real one prefers is nobody's promise."""
    return type(logits.sort())([part[..., :k] for part in logits.sort(descending=True, stable=True)])


@pytest.mark.parametrize("topk", [torch.Tensor.topk, first_of_equals], ids=["any", "first"])
@pytest.mark.parametrize("beams", [4, 30])
def test_more_beams_than_choices_write_nothing_forbidden(scripted, babble, monkeypatch, topk, beams):
    monkeypatch.setattr(torch.Tensor, "topk", topk)
    config = GenerateConfig(mode="beam", beams=beams, captions=beams, min_tokens=2, max_tokens=3)
    writer, numbered = scripted(babble(0))
    for several in beam_search(writer, numbered(3), config):
        assert len({text.ids for text in several}) == len(several)
        for text in several:
            assert 2 <= len(text.ids) <= 3 and min(text.ids) >= 3
            assert all(math.isfinite(p) for p in text.log_probs)


def test_of_equal_texts_the_first_are_kept():
    finished, texts = Finished(room=2), [Written((i,), (-1.0,), True) for i in range(4)]
    for score, text in zip((-1.0, -1.0, -1.0, -0.5), texts, strict=True):
        finished.add(score, text)
    assert finished.best(2) == [texts[3], texts[0]] and finished.bar == -1.0
