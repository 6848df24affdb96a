"""Writing by a compiled step: the same texts, and refused where it cannot be."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.models import CaptionerConfig, CocaConfig, FlamingoConfig, LanguageConfig, build_model
from chiasm.models.captioner import with_fusion
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextRules
from chiasm.models.vision import VitConfig
from chiasm.predict import CaptionPredictor, LanguagePredictor
from chiasm.text import Tokenizer

TOKENIZER = Tokenizer.train(["one red dog", "two blue cats and one blue dog"] * 3, kind="word")
SIZES = {"width": 16, "depth": 2, "heads": 2}
VISION = VitConfig(size=(16, 16), patch_pixels=8, **SIZES)
DECODER = DecoderConfig(**SIZES, vocabulary=TOKENIZER.vocab_size, rules=TextRules(context=12, unk=TOKENIZER.unk))
CAPTIONER = CaptionerConfig(vision=VISION, decoder=DECODER)


def predictor(config, kind=CaptionPredictor, size=(16, 16)):
    torch.manual_seed(0)
    model = build_model(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "vision.embed" not in name:
            parameter.data.mul_(6.0)
    return kind(Bundle(model=model, tokenizer=TOKENIZER, preprocess=PreprocessConfig(size=size)))


def test_the_texts_are_the_same():
    """In a process of its own: no compiler can trace the tests' checks of shapes."""
    ran = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=300, check=False)
    assert (ran.returncode, ran.stdout.split()) == (0, ["equal"] * 4), ran.stderr


def compare() -> None:
    """With the tracing of torch.compile alone: its code generator would take a minute."""
    torch.compile = partial(torch.compile, backend=counted, fullgraph=True)
    pictures = list(torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8).numpy())
    coca = CocaConfig(vision=VISION, latents=3, decoder=replace(DECODER, unimodal_depth=1), embed_dim=12)
    for config in (CAPTIONER, with_fusion(CAPTIONER, "early"), coca):
        asked = predictor(config)
        told(asked, lambda asked: [c.text for c in asked.caption(pictures, no_repeat_ngram=1)])
    told(
        predictor(LanguageConfig(decoder=DECODER), LanguagePredictor, (0, 0)), lambda asked: asked.write("one red").text
    )


def told(asked, texts) -> None:
    wanted = texts(asked)
    asked.compile_writing()
    counted.graphs = 0
    if texts(asked) == wanted and counted.graphs == 1:
        print("equal")


def counted(graph, inputs):
    """A compiler that runs what was traced as it is."""
    counted.graphs += 1
    return graph.forward


@pytest.mark.parametrize("config", [FlamingoConfig(vision=VISION, decoder=DECODER, latents=2)], ids=["flamingo"])
def test_refused_for_a_model_whose_steps_are_not_alike(config):
    with pytest.raises(UserError, match="How a Flamingo writes is not compiled"):
        predictor(config).compile_writing()


def test_refused_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        predictor(CAPTIONER).compile_writing()


if __name__ == "__main__":
    compare()
