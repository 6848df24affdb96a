"""Perplexity of a language model: of even odds the vocabulary's size, and the mean over tokens and not over texts."""

import math

import numpy as np
import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.source import Source
from chiasm.data.transforms import PreprocessConfig
from chiasm.evaluate import evaluate, evaluate_lm
from chiasm.models import LanguageConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextRules
from chiasm.predict import LanguagePredictor
from chiasm.text import Tokenizer
from chiasm.types import Example

TEXTS = [("one red dog", "two blue cats"), ("dog",), ("one red dog and two blue cats and one dog",), ()]


@pytest.fixture(scope="module")
def source():
    examples = [Example(image=None, texts=texts, key=f"e{i}") for i, texts in enumerate(TEXTS)]
    return Source(name="few", examples=examples, splits={"test": np.arange(4)}, understood="few", fingerprint="0")


@pytest.fixture(scope="module")
def make_predictor():
    def make(context=16, seed=0):
        tokenizer = Tokenizer.train([text for texts in TEXTS for text in texts])
        rules = TextRules(context=context)
        torch.manual_seed(seed)
        decoder = DecoderConfig(width=16, depth=1, heads=2, vocabulary=tokenizer.vocab_size, rules=rules)
        model = build_model(LanguageConfig(decoder=decoder))
        return LanguagePredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=(0, 0))))

    return make


def test_of_even_odds_the_perplexity_is_the_vocabulary(make_predictor, source):
    predictor = make_predictor()
    predictor.model.decoder.norm.weight.data.zero_()
    (result,) = evaluate_lm(predictor, source, ["test"])
    assert result.scores["perplexity"] == pytest.approx((predictor.tokenizer.vocab_size,) * 3, rel=1e-5)


def test_it_is_the_mean_over_all_tokens_with_an_interval_over_examples(make_predictor, source):
    predictor = make_predictor()
    predictor.model.decoder.norm.weight.data.mul_(5)
    (result,) = evaluate(predictor, source, ["test"])
    losses, counts = predictor.token_losses([text for texts in TEXTS for text in texts])
    score = result.scores["token_loss"]
    assert score.value == pytest.approx(losses.sum() / counts.sum())
    assert score.value != pytest.approx((losses / counts).mean(), rel=1e-3)
    assert score.low < score.value < score.high
    assert result.scores["perplexity"] == pytest.approx(tuple(map(math.exp, score)))
    assert result.pictures == 3  # an example without a text is none
    assert [(read.key, read.text) for read in result.told] == [
        (f"e{i}", text) for i, texts in enumerate(TEXTS) for text in texts
    ]
    assert [read.token_loss for read in result.told] == pytest.approx((losses / counts).tolist(), abs=1e-4)


def test_long_texts_are_scored_whole_in_parts(make_predictor, source):
    (result,) = evaluate_lm(make_predictor(context=7), source, ["test"])
    assert [read.text for read in result.told][3:] == ["one red dog and two", "blue cats and one dog"]
    assert [read.key for read in result.told][3:] == ["e2#1", "e2#2"]
