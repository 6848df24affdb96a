"""A Flamingo learns: to name what it sees by way of its gates, with a language model that stays as it is."""

import numpy as np
import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.cache import prepare_pictures
from chiasm.data.interleaved import InterleavedLoader
from chiasm.data.loader import Loader
from chiasm.data.transforms import PreprocessConfig
from chiasm.generate import GenerateConfig
from chiasm.models import build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.flamingo import FlamingoConfig
from chiasm.models.language import TextRules
from chiasm.models.vision import ConvConfig
from chiasm.nn import weight_decay_groups
from chiasm.objectives import Interleaving
from chiasm.predict import FlamingoPredictor
from chiasm.text import Tokenizer
from chiasm.types import Example

pytestmark = pytest.mark.slow

PREPROCESS = PreprocessConfig(size=(8, 8))
COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "white": (250, 250, 250)}


def test_a_frozen_language_model_learns_to_name_colours_in_packed_sequences(tmp_path):
    examples = [
        Example(image=np.full((8, 8, 3), colour, np.uint8), texts=(f"a {name} one",), key=name)
        for name, colour in COLOURS.items()
    ]
    tokenizer = Tokenizer.train(e.texts[0] for e in examples)
    torch.manual_seed(0)
    rules = TextRules(context=24)
    config = FlamingoConfig(
        vision=ConvConfig(size=(8, 8), widths=(16,)),
        decoder=DecoderConfig(width=32, depth=2, heads=2, rules=rules, vocabulary=tokenizer.vocab_size),
        latents=2,
        resampler_depth=1,
        frozen=("decoder",),
    )
    model = build_model(config).train()
    before = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
    flat = Loader(
        examples * 4, prepare_pictures(examples * 4, PREPROCESS, name="colours", folder=tmp_path), tokenizer,
        preprocess=PREPROCESS, augment=None, batch_size=8, context=24, seed=0,
    )  # fmt: skip
    loader = InterleavedLoader(flat, examples * 4, tokenizer, mark=config.mark, context=24, grouped=False, packed=2)
    objective = Interleaving()
    optimizer = torch.optim.AdamW(weight_decay_groups(model, 0.01), lr=5e-3)
    for batch in loader.stream(0, 150):
        objective.backward(model, batch, 1, lambda loss: loss.backward())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.decoder.state_dict().items())
    predictor = FlamingoPredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PREPROCESS))
    pixels = predictor.read([e.image for e in examples])
    said = [c.text for c in predictor.caption_pixels(pixels, GenerateConfig())]
    assert said == [e.texts[0] for e in examples]
    shots = predictor.show(pixels[:1], [examples[0].texts[0]])
    assert [c.text for c in predictor.caption_pixels(pixels, GenerateConfig(), shots)] == said
    likely = predictor.log_probs(pixels, said, shots)
    assert (likely.argmax(1) == np.arange(4)).all() and (likely <= 0).all()
