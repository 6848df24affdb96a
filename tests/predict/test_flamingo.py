"""Asking a Flamingo: each shot's words follow its own picture, and the query's picture comes last."""

import numpy as np
import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig, normalize
from chiasm.generate import GenerateConfig
from chiasm.models import FlamingoConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextRules
from chiasm.models.vision import VitConfig
from chiasm.predict import FlamingoPredictor, Shot
from chiasm.text import Tokenizer

TEXTS = ["one red dog", "two blue cats"]
SIZE = (16, 16)


@pytest.fixture(scope="module")
def predictor():
    """A Flamingo with open gates and large weights, so that pictures matter."""
    tokenizer = Tokenizer.train(TEXTS * 3, kind="word")
    rules = TextRules(context=24, unk=tokenizer.unk)
    decoder = DecoderConfig(width=16, depth=2, heads=2, vocabulary=tokenizer.vocab_size, rules=rules)
    vision = VitConfig(size=SIZE, patch_pixels=8, width=16, depth=1, heads=2)
    torch.manual_seed(0)
    model = build_model(FlamingoConfig(vision=vision, decoder=decoder, latents=2, resampler_depth=1, resampler_heads=2))
    for name, parameter in model.named_parameters():
        if "gate_" in name:
            parameter.data.fill_(1.0)
        elif parameter.ndim >= 2 and "vision.embed" not in name:
            parameter.data.mul_(3.0)
    return FlamingoPredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=SIZE)))


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)


def words(predictor, text):
    return predictor.tokenizer.rows([text], context=24)[0][1:-1]


def spelled_out(predictor, pixels, said):
    """The log-probability of a text after two shots, of the whole sequence read at once."""
    model, eot = predictor.model, predictor.model.rules.eot
    ids = [model.rules.start]
    for text in TEXTS:
        ids += [model.config.mark, *words(predictor, text), eot]
    ids.append(model.config.mark)
    start, told = len(ids) - 1, [*words(predictor, said), eot]
    with torch.no_grad():
        hidden = model.read(normalize(pixels, predictor.preprocess)[None, :, None], torch.tensor([[*ids, *told]]))
        log_probs = model.head(hidden)[0].log_softmax(-1)
    return sum(float(log_probs[start + place, token]) for place, token in enumerate(told))


@pytest.mark.parametrize("query", [2, 3])
def test_a_text_is_as_likely_as_in_the_sequence_that_the_shots_begin(predictor, pixels, query):
    shots = predictor.show(pixels[:2], TEXTS)
    found = predictor.log_probs(pixels[query : query + 1], TEXTS, shots)[0]
    wanted = [spelled_out(predictor, pixels[[0, 1, query]], text) for text in TEXTS]
    assert found == pytest.approx(wanted, abs=1e-3)
    exchanged = [spelled_out(predictor, pixels[[query, 0, 1]], text) for text in TEXTS]
    assert found != pytest.approx(exchanged, abs=1e-2)


def test_captions_of_several_queries_are_those_of_each(predictor, pixels):
    shots = [Shot(picture, text) for picture, text in zip(pixels[:2], TEXTS, strict=True)]
    together = predictor.caption(list(pixels[2:]), shots)
    alone = [predictor.caption([picture], shots)[0] for picture in pixels[2:]]
    assert [c.ids for c in together] == [c.ids for c in alone]
    assert [c.confidence for c in together] == pytest.approx([c.confidence for c in alone], rel=1e-4)
    shown = predictor.show(pixels[:2], TEXTS)
    assert together == predictor.caption_pixels(pixels[2:], GenerateConfig(), shown)
