"""A step of fixed tensors writes what the model writes, whatever rows leave or change places, and is used again.

Where there is a GPU it is a recording there.
"""

import gc
from dataclasses import replace
from itertools import chain

import pytest
import torch

from chiasm.generate import GenerateConfig, Prompted, generate
from chiasm.machine import best_device
from chiasm.models import CaptionerConfig, CocaConfig, LanguageConfig, build_model
from chiasm.models.captioner import with_fusion
from chiasm.models.decoder import DecoderConfig
from chiasm.models.graphed import KEPT, Graphed
from chiasm.models.language import TextRules
from chiasm.models.vision import VitConfig

DEVICE = best_device()
SIZES = {"width": 16, "depth": 2, "heads": 2}
VISION = VitConfig(size=(16, 16), patch_pixels=8, **SIZES)
DECODER = DecoderConfig(**SIZES, vocabulary=12, rules=TextRules(context=13))
CONFIGS = {
    fusion: with_fusion(CaptionerConfig(vision=VISION, decoder=DECODER), fusion)
    for fusion in ("cross", "early", "late", "perceiver")
}
CONFIGS["coca"] = CocaConfig(vision=VISION, latents=3, decoder=replace(DECODER, unimodal_depth=1), embed_dim=12)
CONFIGS["lm"] = LanguageConfig(decoder=DECODER)
MODES = [
    {"no_repeat_ngram": 1},
    {"mode": "sample", "captions": 3, "top_p": 0.9},
    {"mode": "beam", "captions": 2, "beams": 3, "length_penalty": 0.0},
]


def make(name):
    """A model that ends its texts at lengths of all kinds."""
    torch.manual_seed(0)
    model = build_model(CONFIGS[name]).eval()
    for key, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "vision.embed" not in key:
            parameter.data.mul_(6.0)
    return model.to(DEVICE)


def pictures(count=7, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def tokens(*ids):
    return torch.tensor(ids, device=DEVICE)


def same(found, wanted):
    for mine, its in zip(chain(*found), chain(*wanted), strict=True):
        assert mine.ids == its.ids and mine.complete == its.complete
        assert mine.log_probs == pytest.approx(its.log_probs, abs=1e-4)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_it_writes_what_the_model_writes(name, mode):
    model, config = make(name), GenerateConfig(**mode)
    wanted = generate(model, pictures(), config)
    same(generate(Graphed(model), pictures(), config), wanted)
    lengths = {len(text.ids) for several in wanted for text in several}
    assert name not in ("cross", "early") or len(lengths) > 1  # so that rows left on the way


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_after_a_prompt(mode):
    model, config = make("lm"), GenerateConfig(**mode)
    nothing = torch.empty(2, 3, 0, 0, device=DEVICE)
    wanted = generate(Prompted(model, [5, 9, 7]), nothing, config)
    same(generate(Prompted(Graphed(model), [5, 9, 7]), nothing, config), wanted)


@pytest.mark.parametrize("name", ["cross", "early", "coca"])
def test_a_step_is_used_again_and_nothing_of_the_texts_before_is_left(name):
    model, config = make(name), GenerateConfig()
    graphed = Graphed(model)
    for seed in range(3):
        same(generate(graphed, pictures(seed=seed), config), generate(model, pictures(seed=seed), config))
        gc.collect()
        assert len(graphed._idle) == 1
    before = graphed._idle[0]
    generate(graphed, pictures(4), config)
    gc.collect()
    assert before in graphed._idle and len(graphed._idle) == 2


def test_two_that_write_at_once_have_a_step_each():
    model = make("cross")
    graphed = Graphed(model)
    with torch.inference_mode():
        drafts = [(graphed.start(pictures(seed=s)), model.start(pictures(seed=s))) for s in range(2)]
        for token in range(4, 8):
            ids = tokens(*[token] * 7)
            found = [graphed.step(ids, mine).clone() for mine, _ in drafts]
            wanted = [model.step(ids, its) for _, its in drafts]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_no_more_than_a_few_steps_are_kept():
    graphed = Graphed(make("cross"))
    for count in range(1, 8):
        generate(graphed, pictures(count), GenerateConfig(max_tokens=2))
        gc.collect()
    assert [len(step.ids) for step in graphed._idle] == [4, 5, 6, 7] and KEPT == 4


def test_pictures_may_change_places():
    model = make("cross")
    graphed = Graphed(model)
    order = tokens(4, 5, 0, 1)  # of three pictures with two rows each the last, then the first
    with torch.inference_mode():
        mine, its = graphed.start(pictures(3), 2), model.start(pictures(3), 2)
        for ids in (tokens(4, 5, 6, 7, 8, 9), tokens(6, 7, 8, 9, 10, 11)):
            graphed.step(ids, mine), model.step(ids, its)
        graphed.reorder(mine, order), model.reorder(its, order)
        for ids in (tokens(4, 5, 6, 7), tokens(8, 9, 10, 11)):
            torch.testing.assert_close(graphed.step(ids, mine), model.step(ids, its), rtol=1e-4, atol=1e-4)


def test_a_text_beyond_the_context_is_refused():
    graphed = Graphed(make("cross"))
    with torch.inference_mode():
        draft = graphed.start(pictures(2))
        for _ in range(13):
            graphed.step(tokens(4, 5), draft)
        with pytest.raises(ValueError, match="14 tokens does not fit a context of 13"):
            graphed.step(tokens(4, 5), draft)
