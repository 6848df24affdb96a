"""A dual encoder learns: eight pairs by heart, and the lesson's shapes, of which it names new ones without error."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.cache import prepare_pictures
from chiasm.data.loader import Loader
from chiasm.data.shapes import ShapesConfig, shapes_source
from chiasm.data.transforms import PreprocessConfig
from chiasm.evaluate import evaluate_clip
from chiasm.models import ClipConfig, build_model
from chiasm.models.language import TextConfig
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.nn import weight_decay_groups
from chiasm.objectives import Contrastive
from chiasm.predict import ClipPredictor
from chiasm.text import Tokenizer

pytestmark = pytest.mark.slow

PREPROCESS = PreprocessConfig(size=(32, 32))
VISIONS = {
    "cls": VitConfig(size=(32, 32), width=64, depth=1, heads=4, pool="cls"),
    "attention": VitConfig(size=(32, 32), width=64, depth=1, heads=4, stem="conv", pool="attention"),
    "conv": ConvConfig(size=(32, 32), widths=(16, 32, 64), pool="mean"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path))


def learn(source, vision, *, steps, batch_size, similarity="softmax", rate=1e-3):
    """A predictor of a new model after so many steps on the training split, and the excess loss of the last ones."""
    examples = source.split("train")
    tokenizer = Tokenizer.train(text for example in examples for text in example.texts)
    torch.manual_seed(0)
    text = TextConfig(width=64, depth=1, heads=4, vocabulary=tokenizer.vocab_size)
    model = build_model(ClipConfig(vision=vision, text=text, embed_dim=32, similarity=similarity))
    loader = Loader(
        examples,
        prepare_pictures(examples, PREPROCESS, name="some"),
        tokenizer,
        preprocess=PREPROCESS,
        augment=None,
        batch_size=batch_size,
        context=model.config.rules.context,
        seed=0,
    )
    objective, losses = Contrastive(), []
    optimizer = torch.optim.AdamW(weight_decay_groups(model, 0.01), lr=rate, betas=(0.9, 0.98))
    for step, batch in enumerate(loader.stream(0, steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, 3 * (1 - step / steps))
        losses.append(objective.backward(model, batch, 1, lambda loss: loss.backward())["excess_loss"])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(model)
    return ClipPredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PREPROCESS)), np.mean(losses[-10:])


@pytest.mark.parametrize(
    ("vision", "similarity"), [("cls", "softmax"), ("attention", "softmax"), ("conv", "softmax"), ("conv", "sigmoid")]
)
def test_it_learns_eight_pairs_by_heart(vision, similarity):
    source = shapes_source(ShapesConfig(difficulty="easy", samples=40))
    by_text = {example.texts: row for row, example in reversed(list(enumerate(source.examples)))}
    eight = replace(source, splits={"train": np.array(sorted(by_text.values())[:8])})
    predictor, excess = learn(eight, VISIONS[vision], steps=100, batch_size=8, similarity=similarity)
    (result,) = evaluate_clip(predictor, eight, ["train"])
    for score in ("image_to_text_r1", "text_to_image_r1"):
        assert result.scores[score].value == 1.0
    assert excess < (0.1 if similarity == "softmax" else 0.5)


def test_of_the_lesson_s_shapes_it_names_new_ones_without_error():
    source = shapes_source(ShapesConfig(difficulty="lesson", samples=1200, seed=0))
    captions = sorted({text for example in source.examples for text in example.texts})
    assert len(captions) == 12
    predictor, excess = learn(source, VISIONS["conv"], steps=150, batch_size=64)
    assert excess < 0.05
    unseen = source.split("test")
    guesses = predictor.classify([example.image for example in unseen], captions)
    wrong = [(e.texts[0], g[0].label) for e, g in zip(unseen, guesses, strict=True) if g[0].label not in e.texts]
    assert wrong == [] and len(guesses) > 100
