"""BLEU, ROUGE-L and CIDEr-D against pycocoevalcap on the same tokens."""

import random

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from chiasm.metrics.captions import caption_scores, tokenize_caption

WORDS = ["a", "the", "small", "red", "blue", "dog", "cat", "on", "under", "grass", "snow", "runs", "sits", "and"]


def sentence(rng, least, most):
    return " ".join(rng.choices(WORDS, weights=[9, 6, *[2] * 12], k=rng.randint(least, most)))


def corpus(seed, items):
    rng = random.Random(seed)
    references = [[sentence(rng, 1, 14) for _ in range(rng.randint(1, 5))] for _ in range(items)]
    hypotheses = [
        rng.choice(["", own[0], own[-1][: len(own[-1]) // 2], f"{own[0]} a dog", sentence(rng, 0, 20)])
        for own in references
    ]
    return hypotheses, references


def peer(hypotheses, references):
    got = {i: [" ".join(tokenize_caption(h))] for i, h in enumerate(hypotheses)}
    wanted = {i: [" ".join(tokenize_caption(r)) for r in own] for i, own in enumerate(references)}
    values, per_item = Bleu(4).compute_score(wanted, got, verbose=0)
    scores = {f"bleu_{n}": (value, items) for n, (value, items) in enumerate(zip(values, per_item, strict=True), 1)}
    return scores | {
        "rouge_l": Rouge().compute_score(wanted, got),
        "cider_d": Cider().compute_score(wanted, got),
    }


def compare(hypotheses, references):
    ours = caption_scores(hypotheses, references, resamples=10)
    for name, (value, per_item) in peer(hypotheses, references).items():
        assert ours[name].value == pytest.approx(value, abs=1e-6), name
        np.testing.assert_allclose(ours[name].per_item, per_item, atol=1e-6, err_msg=name)
    return ours


@pytest.mark.parametrize(("seed", "items"), [(0, 200), (1, 60), (2, 7), (3, 2), (4, 2), (5, 3)])
def test_random_captions(seed, items):
    compare(*corpus(seed, items))


def test_marks_and_capitals_are_dropped_on_both_sides():
    hypotheses = ["A dog, running.", 'The "big" cat isn’t here!']
    references = [["a dog running"], ["the big cat isn't here", "No cat; none."]]
    scores = compare(hypotheses, references)
    assert scores["bleu_1"].value == pytest.approx(1)
    assert scores["rouge_l"].value == pytest.approx(1)


@pytest.mark.parametrize("hypothesis", ["", "a", "a dog", "a dog on the grass", "zebra", "."])
def test_one_picture_gives_no_cider(hypothesis):
    scores = compare([hypothesis], [["a dog on grass", "the dog"]])
    assert scores["cider_d"].value == 0


def test_every_hypothesis_empty():
    compare(["", "", ""], [["a dog"], ["a cat", "the cat"], ["."]])
