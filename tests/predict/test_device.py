"""On another device every model says what it says on the CPU; nothing stays behind that would be an error on a GPU.

The other device is a GPU where there is one, or made in Python.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

import pretended
from chiasm.bundle import Bundle
from chiasm.data.source import Source
from chiasm.data.task import TaskConfig
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.evaluate import evaluate_captioner, evaluate_clip, evaluate_flamingo
from chiasm.evaluate.classifier import evaluate_classifier
from chiasm.evaluate.perceiver import evaluate_masked, evaluate_reconstruction
from chiasm.generate import GenerateConfig
from chiasm.machine import best_device
from chiasm.models import (
    CaptionerConfig,
    ClipConfig,
    CocaConfig,
    FlamingoConfig,
    FusionClassifierConfig,
    LanguageConfig,
    PerceiverAutoencoderConfig,
    PerceiverMlmConfig,
    PictureClassifierConfig,
    build_model,
)
from chiasm.models.captioner import with_fusion
from chiasm.models.decoder import DecoderConfig
from chiasm.models.fusion import CrossConfig, EarlyConfig, LateConfig, PerceiverFusionConfig
from chiasm.models.inputs import Inputs, PictureInput, Positions, TextInput
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.perceiver import LatentConfig
from chiasm.models.vision import VitConfig
from chiasm.predict import (
    CaptionPredictor,
    ClassifierPredictor,
    ClipPredictor,
    FlamingoPredictor,
    LanguagePredictor,
    MaskedPredictor,
    ReconstructionPredictor,
    Shot,
    base,
)
from chiasm.predict.occlusion import answer_log_probability, caption_log_probability
from chiasm.text import Tokenizer
from chiasm.types import Example

pytestmark = pytest.mark.slow

TEXTS = ["one red dog", "two blue cats", "one blue dog", "two red cats and one blue dog", "red cats", "a dog"]
TOKENIZER = Tokenizer.train(TEXTS * 3, kind="word")
RULES = TextRules(context=24, unk=TOKENIZER.unk)
SIZES = {"width": 16, "depth": 2, "heads": 2}
VISION = VitConfig(size=(16, 16), patch_pixels=8, **SIZES)
POOLED = replace(VISION, pool="cls")
DECODER = DecoderConfig(**SIZES, vocabulary=TOKENIZER.vocab_size, rules=RULES)
TEXT = TextConfig(**SIZES, vocabulary=TOKENIZER.vocab_size, rules=RULES)
CAPTIONER = CaptionerConfig(vision=VISION, decoder=DECODER)
WRITERS = {fusion: with_fusion(CAPTIONER, fusion) for fusion in ("cross", "early", "late", "perceiver")}
WRITERS["coca"] = CocaConfig(vision=VISION, latents=3, decoder=replace(DECODER, unimodal_depth=1), embed_dim=12)
FUSIONS = {
    "late": LateConfig(width=16),
    "early": EarlyConfig(**SIZES),
    "cross": CrossConfig(**SIZES),
    "perceiver": PerceiverFusionConfig(**SIZES, latents=4),
}
CLASSES = ("blue", "red")
LATENTS = LatentConfig(latents=5, width=16, depth=1, heads=2)
WORDS = TextInput(width=8, rules=RULES, vocabulary=TOKENIZER.vocab_size)
PICTURE = PictureInput(size=(16, 16), patch_pixels=4, positions=Positions(bands=3))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def both(monkeypatch):
    """A function that makes predictors of one model, here and on the other device."""

    def make(kind, config, *, size=(16, 16), task="label"):
        torch.manual_seed(0)
        model = build_model(config).eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "vision.embed" not in name:
                parameter.data.mul_(4.0)
            if "gate_" in name:
                parameter.data.fill_(1.0)
        bundle = Bundle(
            model=model,
            tokenizer=TOKENIZER if config.rules else None,
            preprocess=PreprocessConfig(size=size),
            task=TaskConfig(name=task),
        )
        monkeypatch.setattr(base, "best_device", lambda: torch.device("cpu"))
        here = kind(deepcopy(bundle))
        device = best_device() if torch.cuda.is_available() else pretended.device()
        monkeypatch.setattr(base, "best_device", lambda: device)
        if device.type == pretended.NAME:
            pretended.stand_in(monkeypatch)
        there = kind(bundle)
        assert next(here.model.parameters()).device.type == "cpu"
        assert {parameter.device.type for parameter in there.model.parameters()} == {device.type}
        return here, there

    return make


def pictures(count=5):
    return list(np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))


def source(label=True, seen=True):
    examples = [
        Example(image=picture if seen else None, texts=(text,), key=text, label=CLASSES[i % 2] if label else "")
        for i, (picture, text) in enumerate(zip(pictures(len(TEXTS)), TEXTS, strict=True))
    ]
    splits = {"test": np.arange(len(examples))}
    return Source(name="some", examples=examples, splits=splits, understood="", fingerprint="")


def close(first, second):
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def same_scores(first, second):
    assert first[0].scores.keys() == second[0].scores.keys()
    for name, score in first[0].scores.items():
        close(score, second[0].scores[name])
    return first


def test_the_device_is_one_of_its_own():
    away = torch.ones(3).to(pretended.device())
    with pytest.raises(RuntimeError, match="tensors on cpu and pretended"):
        away + torch.ones(3)
    with pytest.raises(RuntimeError, match="numpy"):
        away.numpy()
    assert (away + 1).cpu().tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "mode",
    [{"mode": "greedy"}, {"mode": "sample", "top_p": 0.9, "captions": 2}, {"mode": "beam", "captions": 2}],
    ids=str,
)
def test_captions(both, name, mode):
    here, there = both(CaptionPredictor, WRITERS[name])
    settings = {"max_tokens": 8, "no_repeat_ngram": 2} | mode
    said = here.caption(pictures(), **settings)
    assert [c.text for c in there.caption(pictures(), **settings)] == [c.text for c in said]
    if here.looks:
        pixel = here.read(pictures(1))
        close(here.attention(pixel, said[0]), there.attention(pixel, said[0]))
    pixel = here.read(pictures(3))
    close(caption_log_probability(here, said[0])(pixel), caption_log_probability(there, said[0])(pixel))


def test_captions_are_streamed_and_scored(both):
    here, there = both(CaptionPredictor, CAPTIONER)
    with torch.no_grad():  # hooks of the tests keep a generator from doing this itself
        told = ["".join(side.stream(pictures(1)[0], max_tokens=6)) for side in (here, there)]
    assert told[0] == told[1]
    config = GenerateConfig(max_tokens=6)
    same_scores(*(evaluate_captioner(side, source(), ["test"], config) for side in (here, there)))


@pytest.mark.parametrize("config", [ClipConfig(vision=POOLED, text=TEXT, embed_dim=12), WRITERS["coca"]])
def test_vectors(both, config):
    here, there = both(ClipPredictor, config)
    close(here.embed_images(pictures()), there.embed_images(pictures()))
    close(here.embed_texts(TEXTS), there.embed_texts(TEXTS))
    if isinstance(config, ClipConfig):  # a tie of weights does not outlive the move to a device made in Python
        assert here.fingerprint == there.fingerprint
    close(here.embed_labels(["dog", "cats"]), there.embed_labels(["dog", "cats"]))
    same_scores(*(evaluate_clip(side, source(), ["test"]) for side in (here, there)))


@pytest.mark.parametrize("name", FUSIONS)
def test_answers(both, name):
    text = replace(TEXT, causal=False, pool="mean")
    vision = replace(VISION, pool="mean") if name == "late" else VISION
    config = FusionClassifierConfig(vision=vision, text=text, fusion=FUSIONS[name], classes=CLASSES)
    here, there = both(ClassifierPredictor, config, task="answer")
    pixels = here.read(pictures(3))
    close(here.probabilities(pixels, TEXTS[:3]), there.probabilities(pixels, TEXTS[:3]))
    same_scores(*(evaluate_classifier(side, source(), ["test"]) for side in (here, there)))
    example = here._batch(pixels[:1], TEXTS[:1])
    close(*(answer_log_probability(side, example, "red")(pixels) for side in (here, there)))


def test_classes(both):
    config = PictureClassifierConfig(vision=POOLED, classes=CLASSES)
    here, there = both(ClassifierPredictor, config)
    same_scores(*(evaluate_classifier(side, source(), ["test"]) for side in (here, there)))


def test_texts(both):
    here, there = both(LanguagePredictor, LanguageConfig(decoder=DECODER), size=(0, 0))
    assert here.write("one red", max_tokens=6).text == there.write("one red", max_tokens=6).text
    close(here.token_losses(TEXTS)[0], there.token_losses(TEXTS)[0])


def test_answers_after_shots(both):
    config = FlamingoConfig(vision=VISION, decoder=DECODER, latents=2, resampler_depth=1, resampler_heads=2)
    here, there = both(FlamingoPredictor, config)
    shots = [Shot(picture, text) for picture, text in zip(pictures(2), TEXTS, strict=False)]
    for given in ((), shots):
        said = [[c.text for c in side.caption(pictures(), given, max_tokens=6)] for side in (here, there)]
        assert said[0] == said[1]
    pixels = here.read(pictures(3))
    close(here.log_probs(pixels, TEXTS), there.log_probs(pixels, TEXTS))
    config = GenerateConfig(max_tokens=6)
    same_scores(*(evaluate_flamingo(side, source(), ["test"], config) for side in (here, there)))


def test_gaps(both):
    config = PerceiverMlmConfig(inputs=Inputs(text=WORDS), latents=LATENTS)
    here, there = both(MaskedPredictor, config, size=(0, 0))
    guesses = ([[f.token for f in gap] for gap in side.fill("one ___ dog")] for side in (here, there))
    assert next(guesses) == next(guesses)
    same_scores(*(evaluate_masked(side, source(seen=False), ["test"]) for side in (here, there)))


def test_reconstructions(both):
    config = PerceiverAutoencoderConfig(inputs=Inputs(picture=PICTURE, text=WORDS), latents=LATENTS)
    here, there = both(ReconstructionPredictor, config)
    same_scores(*(evaluate_reconstruction(side, source(), ["test"]) for side in (here, there)))


def test_int8_is_refused_there(both):
    _, there = both(CaptionPredictor, CAPTIONER)
    with pytest.raises(UserError, match="for CPUs"):
        there.write_in_int8()
