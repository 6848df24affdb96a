"""A captioner learns: eight pairs by heart, from its pictures and not from the words alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.cache import prepare_pictures
from chiasm.data.loader import Loader
from chiasm.data.shapes import ShapesConfig, shapes_source
from chiasm.data.transforms import PreprocessConfig
from chiasm.evaluate import evaluate_captioner
from chiasm.generate import GenerateConfig
from chiasm.models import CaptionerConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.nn import weight_decay_groups
from chiasm.objectives import Captioning
from chiasm.predict import CaptionPredictor
from chiasm.text import Tokenizer

pytestmark = pytest.mark.slow

PREPROCESS = PreprocessConfig(size=(32, 32))
VISIONS = {
    "patch": VitConfig(size=(32, 32), width=64, depth=1, heads=4, pool="mean"),
    "stem": VitConfig(size=(32, 32), width=64, depth=1, heads=4, stem="conv"),
    "conv": ConvConfig(size=(32, 32), widths=(16, 32, 64)),
}
MODELS = {name: (vision, "cross") for name, vision in VISIONS.items()}
MODELS |= {fusion: (VISIONS["conv"], fusion) for fusion in ("early", "late", "perceiver")}


@pytest.fixture(scope="module")
def eight():
    """Drawn pictures of eight different captions, as the one split of a source."""
    source = shapes_source(ShapesConfig(difficulty="easy", samples=40))
    by_text = {example.texts: row for row, example in reversed(list(enumerate(source.examples)))}
    rows = np.array(sorted(by_text.values())[:8])
    return replace(source, splits={"train": rows})


@pytest.mark.parametrize("vision, fusion", MODELS.values(), ids=MODELS)
def test_it_learns_eight_pairs_by_heart_and_looks_at_the_picture_for_them(eight, vision, fusion, tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path))
    examples = eight.split("train")
    tokenizer = Tokenizer.train(e.texts[0] for e in examples)
    torch.manual_seed(0)
    decoder = DecoderConfig(width=64, depth=1, heads=4, vocabulary=tokenizer.vocab_size)
    model = build_model(CaptionerConfig(vision=vision, decoder=decoder, fusion=fusion, latents=8))
    train(model, examples, tokenizer, steps=120)
    predictor = CaptionPredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PREPROCESS))
    (result,) = evaluate_captioner(predictor, eight, ["train"], GenerateConfig())
    scores = {name: score.value for name, score in result.scores.items()}
    assert scores["exact_match"] == 1.0
    assert scores["token_loss"] < 0.1
    assert scores["shuffled_rise"] > 1.0


def train(model, examples, tokenizer, steps):
    loader = Loader(
        examples,
        prepare_pictures(examples, PREPROCESS, name="eight"),
        tokenizer,
        preprocess=PREPROCESS,
        augment=None,
        batch_size=8,
        context=model.rules.context,
        seed=0,
    )
    objective = Captioning()
    optimizer = torch.optim.AdamW(weight_decay_groups(model, 0.01), lr=3e-3)
    for batch in loader.stream(0, steps):
        loss = objective(model, batch)["loss"] / objective.count(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
