"""Flamingo's scores on sequences, against asking about each by itself, with what stood before and without."""

import numpy as np
import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.source import Source
from chiasm.data.transforms import PreprocessConfig
from chiasm.evaluate import evaluate_flamingo
from chiasm.generate import GenerateConfig
from chiasm.models import FlamingoConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextRules
from chiasm.models.vision import VitConfig
from chiasm.predict import FlamingoPredictor
from chiasm.text import Tokenizer
from chiasm.types import Example

WORDS = ["one red dog", "two blue cats", "one blue dog", "two red cats"]
SIZE = (16, 16)


@pytest.fixture(scope="module")
def predictor():
    tokenizer = Tokenizer.train(WORDS * 3, kind="word")
    rules = TextRules(context=32, unk=tokenizer.unk)
    decoder = DecoderConfig(width=16, depth=2, heads=2, vocabulary=tokenizer.vocab_size, rules=rules)
    vision = VitConfig(size=SIZE, patch_pixels=8, width=16, depth=1, heads=2)
    torch.manual_seed(3)
    model = build_model(FlamingoConfig(vision=vision, decoder=decoder, latents=2, resampler_depth=1, resampler_heads=2))
    for name, parameter in model.named_parameters():
        if "gate_" in name:
            parameter.data.fill_(1.0)
        elif parameter.ndim >= 2 and "vision.embed" not in name:
            parameter.data.mul_(4.0)
    return FlamingoPredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=SIZE)))


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Ten sequences of three pictures with texts."""
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    examples = [
        Example(
            image=rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
            texts=(WORDS[int(word)],),
            key=f"{group}-{place}",
            group=str(group),
        )
        for group in range(10)
        for place, word in enumerate(rng.permutation(4)[:3])
    ]
    splits = {"test": np.arange(len(examples))}
    return Source(name="some", examples=examples, splits=splits, understood="as told", fingerprint="", interleaved=True)


def test_scores_are_those_of_each_sequence_alone(predictor, source):
    (found,) = evaluate_flamingo(predictor, source, ["test"], GenerateConfig())
    right = {"choice": [], "choice_0_shots": []}
    for told, start in zip(found.told, range(0, 30, 3), strict=True):
        *before, query = [source.examples[start + place] for place in range(3)]
        pixels = np.stack([e.image for e in (*before, query)])
        choices = [e.texts[0] for e in (*before, query)]
        shots = predictor.show(pixels[:2], [e.texts[0] for e in before])
        for name, shown in (("choice", shots), ("choice_0_shots", None)):
            likely = predictor.log_probs(pixels[2:], choices, shown)[0]
            right[name].append(choices[int(likely.argmax())] == query.texts[0])
        assert told.caption == predictor.caption_pixels(pixels[2:], GenerateConfig(), shots)[0].text
        assert told.without_shots == predictor.caption_pixels(pixels[2:], GenerateConfig())[0].text
        assert (told.text, told.shots) == (query.texts[0], tuple(e.texts[0] for e in before))
    assert any(told.caption != told.without_shots for told in found.told)
    assert right["choice"] != right["choice_0_shots"]
    for name, values in right.items():
        assert found.scores[name].value == pytest.approx(np.mean(values))
    assert found.scores["chance"].value == pytest.approx(1 / 3)
    assert found.scores["exact_match"].value == np.mean([told.caption == told.text for told in found.told])
    assert found.pictures == 10 and found.counted == "sequences"
