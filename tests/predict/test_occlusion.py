"""Occlusion finds the place on which an answer depends, by what a model of any kind itself says of covered pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig, normalize
from chiasm.generate import GenerateConfig
from chiasm.models import FusionClassifierConfig, build_model
from chiasm.models.fusion import CrossConfig, EarlyConfig, LateConfig, PerceiverFusionConfig
from chiasm.nn import weight_decay_groups
from chiasm.objectives import Classification
from chiasm.predict import CaptionPredictor, ClassifierPredictor, ClipPredictor
from chiasm.predict.occlusion import (
    answer_log_probability,
    caption_log_probability,
    occlusion_map,
    text_log_probability,
)
from chiasm.text import Tokenizer
from chiasm.types import Batch
from classifier_files import COLOURS, QUESTIONS, TOKENIZER, fusion_bundle, picture_bundle
from clip_files import WORDS, write_clip

NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
SIZES = {"width": 16, "heads": 2}


def covered(pixel, row, column, cells):
    """The picture with the 3 x 3 cells around one of cells x cells in its mean colour, pixel by pixel."""
    found, side = pixel.copy(), len(pixel) // cells
    for y in range(max(0, row - 1) * side, min(cells, row + 2) * side):
        for x in range(max(0, column - 1) * side, min(cells, column + 2) * side):
            found[y, x] = [round(float(pixel[..., channel].mean())) for channel in range(3)]
    return found


def asked_one_by_one(ask, pixel, cells=4):
    """The map by a question for each picture, `ask` being of one."""
    falls = [[ask(pixel) - ask(covered(pixel, r, c, cells)) for c in range(cells)] for r in range(cells)]
    return np.array(falls)


def example(predictor, text=None):
    """A question as a batch of one, with a picture that is not to be seen."""
    ids = torch.zeros(1, 0, dtype=torch.long) if text is None else TOKENIZER.encode([text], context=8)
    one = torch.zeros(1, dtype=torch.long)
    images = torch.full((1, 3, *predictor.preprocess.size), torch.nan)
    keep = ids != TOKENIZER.pad
    return Batch(images=images, ids=ids, keep=keep, image_ids=one, text_ids=one, keys=("a",), labels=one)


def test_only_the_place_that_matters_is_found():
    def ask(pixels):
        return pixels[:, 4:8, 8:12].astype(float).sum((1, 2, 3))

    fall = (NOISE[4:8, 8:12] - NOISE.reshape(-1, 3).mean(0).round()).sum()
    wanted = np.zeros((4, 4))
    wanted[1, 2] = fall
    assert fall != 0
    np.testing.assert_allclose(occlusion_map(NOISE, ask, cells=4, cover=1), wanted)
    wanted[0:3, 1:4] = fall  # a wider square reaches it from its neighbours
    np.testing.assert_allclose(occlusion_map(NOISE, ask, cells=4), wanted)


@pytest.mark.parametrize(
    ("size", "cells", "shape"), [((16, 16), 8, (8, 8)), ((9, 20), 5, (2, 5)), ((30, 7), 8, (8, 2)), ((2, 3), 8, (2, 3))]
)
def test_cells_cover_every_pixel_once_and_all_are_asked_at_once(size, cells, shape):
    pixel, batches = np.zeros((*size, 3), np.uint8), []
    pixel[..., 0].flat = np.arange(size[0] * size[1]) % 2 * 255

    def ask(pixels):
        batches.append(pixels)
        return np.zeros(len(pixels))

    assert occlusion_map(pixel, ask, cells=cells, cover=1).shape == shape
    (pictures,) = batches
    assert (pictures[0] == pixel).all()
    changed = (pictures[1:] != pixel).any(-1)
    assert changed.any((1, 2)).all()
    assert (changed.sum(0) == 1).all()


def test_a_picture_of_one_colour_has_no_places():
    predictor = ClassifierPredictor(picture_bundle())
    gray = np.full((16, 16, 3), 77, np.uint8)
    ask = answer_log_probability(predictor, example(predictor), "red")
    assert occlusion_map(gray, ask) == pytest.approx(np.zeros((8, 8)), abs=1e-5)
    assert abs(occlusion_map(NOISE, ask)).max() > 1e-2


@pytest.mark.parametrize(("size", "cells", "cover"), [((0, 0), 8, 3), ((16, 16), 0, 3), ((16, 16), 8, 2)])
def test_there_must_be_pixels_and_squares(size, cells, cover):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels has no squares of {cover} of {cells} cells"):
        occlusion_map(np.zeros((*size, 3), np.uint8), lambda p: np.zeros(len(p)), cells=cells, cover=cover)


FUSIONS = {
    "late": LateConfig(width=16),
    "early": EarlyConfig(**SIZES, depth=2),
    "cross": CrossConfig(**SIZES, depth=1),
    "perceiver": PerceiverFusionConfig(**SIZES, depth=1, latents=4),
}


def fusion_predictor(name):
    bundle = fusion_bundle()
    vision = replace(bundle.model.config.vision, pool="mean" if name == "late" else "none")
    torch.manual_seed(0)
    model = build_model(replace(bundle.model.config, fusion=FUSIONS[name], vision=vision))
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(4)
    return ClassifierPredictor(replace(bundle, model=model))


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_is_asked_about_the_same_question(name):
    predictor = fusion_predictor(name)
    ask = answer_log_probability(predictor, example(predictor, QUESTIONS[0]), COLOURS[1])
    found = occlusion_map(NOISE, ask, cells=4)
    wanted = asked_one_by_one(lambda pixel: np.log(predictor.about(pixel, [QUESTIONS[0]])[0, 1]), NOISE)
    assert found == pytest.approx(wanted, abs=1e-4)
    assert abs(wanted).max() > 1e-2


def test_a_captioner_is_asked_about_all_tokens_of_its_caption(make_captioner):
    tokenizer = Tokenizer.train(["red blue circle square"])
    model = make_captioner(vocabulary=tokenizer.vocab_size)
    predictor = CaptionPredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=(16, 16))))
    (cut,) = predictor.caption_pixels(NOISE[None], GenerateConfig(max_tokens=3))
    for caption in (replace(cut, complete=False), replace(cut, complete=True)):

        @torch.no_grad()
        def written(pixel, caption=caption):
            draft, total, last = model.start(normalize(pixel[None], predictor.preprocess)), 0.0, model.rules.bos
            for token in [*caption.ids, *[model.rules.eot] * caption.complete]:
                total += float(model.step(torch.tensor([last]), draft)[0].log_softmax(-1)[token])
                last = token
            return total

        found = occlusion_map(NOISE, caption_log_probability(predictor, caption), cells=4)
        assert found == pytest.approx(asked_one_by_one(written, NOISE), abs=1e-3)
        assert abs(found).max() > 1e-2


def test_a_dual_encoder_is_asked_about_the_texts_share(tmp_path):
    predictor = ClipPredictor.load(write_clip(tmp_path / "clip"))
    ask = text_log_probability(predictor, predictor.embed_texts(WORDS), 1)

    def share(pixel):
        guesses = predictor.classify([pixel], WORDS)[0]
        return np.log(next(guess.share for guess in guesses if guess.label == WORDS[1]))

    found = occlusion_map(NOISE, ask, cells=4)
    assert found == pytest.approx(asked_one_by_one(share, NOISE), abs=1e-4)
    assert abs(found).max() > 1e-3


QUADRANTS = ("first", "second", "third", "fourth")
SHADES = {"none": (115, 115, 30), "green": (30, 200, 30), "red": (200, 30, 30)}
"""The first is the mean of the others: what covers a picture with as much green as red."""


def questions(rows, seed):
    """Pictures of four quadrants, each red or green or nothing, and texts that name one; its colour is the label."""
    draw = torch.Generator().manual_seed(seed)
    colours, asked = torch.randint(3, (rows, 4), generator=draw), torch.randint(4, (rows,), generator=draw)
    pixels = torch.tensor(list(SHADES.values()), dtype=torch.uint8)[colours].view(rows, 2, 2, 3)
    return pixels.repeat_interleave(8, 1).repeat_interleave(8, 2).numpy(), asked, colours[torch.arange(rows), asked]


@pytest.fixture(scope="module")
def trained():
    """A fusion that has learnt to answer them."""
    bundle, tokenizer = fusion_bundle(), Tokenizer.train(QUADRANTS)
    vision, text = (replace(half, width=32) for half in (bundle.model.config.vision, bundle.model.config.text))
    text = replace(text, vocabulary=tokenizer.vocab_size, rules=replace(text.rules, context=4))
    fusion = EarlyConfig(width=32, depth=2, heads=4)
    config = FusionClassifierConfig(vision=vision, text=text, fusion=fusion, classes=tuple(SHADES))
    torch.manual_seed(0)
    predictor = ClassifierPredictor(replace(bundle, model=build_model(config), tokenizer=tokenizer))
    words, names = tokenizer.encode(QUADRANTS, context=3), torch.arange(64)
    optimizer = torch.optim.AdamW(weight_decay_groups(predictor.model, 0.01), lr=1e-3)
    for step in range(250):
        pixels, asked, labels = questions(64, step)
        batch = Batch(
            images=normalize(pixels, predictor.preprocess), ids=words[asked], keep=words[asked] >= 0, image_ids=names,
            text_ids=names, keys=tuple(map(str, names.tolist())), labels=labels,
        )  # fmt: skip
        Classification().backward(predictor.model, batch, 1, lambda loss: loss.backward())
        torch.nn.utils.clip_grad_norm_(predictor.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return predictor


@pytest.mark.slow
def test_a_trained_fusion_looks_where_it_is_asked(trained):
    pixels, asked, labels = questions(120, -1)
    balanced = (pixels.mean((1, 2)).round() == SHADES["none"]).all(-1) & (labels > 0).numpy()
    assert balanced.sum() >= 8
    for pixel, place, label in zip(pixels[balanced], asked[balanced].tolist(), labels[balanced].tolist(), strict=True):
        one, ids = torch.zeros(1, dtype=torch.long), trained.tokenizer.encode([QUADRANTS[place]], context=3)
        batch = Batch(images=torch.zeros(1, 3, 16, 16), ids=ids, keep=ids >= 0, image_ids=one, text_ids=one, keys=("",))
        ask = answer_log_probability(trained, batch, tuple(SHADES)[label])
        assert np.exp(ask(pixel[None]))[0] > 0.9
        found = occlusion_map(pixel, ask, cells=2, cover=1).ravel()
        assert found[place] > 1
        assert np.delete(abs(found), place).max() < 0.2 * found[place]
