"""Gaps and reconstructions: what is asked, and the scores, against loops over single examples."""

import numpy as np
import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.source import Source
from chiasm.data.transforms import PreprocessConfig, normalize
from chiasm.evaluate.perceiver import evaluate_masked, evaluate_reconstruction
from chiasm.models import PerceiverAutoencoderConfig, PerceiverMlmConfig, build_model
from chiasm.models.inputs import Given, Inputs, PictureInput, Positions, TextInput
from chiasm.models.language import TextRules
from chiasm.models.perceiver import LatentConfig
from chiasm.objectives import MaskedText, Reconstruction
from chiasm.objectives.masked import keyed_generator
from chiasm.predict import MaskedPredictor, ReconstructionPredictor
from chiasm.predict.perceiver import GAP
from chiasm.text import Tokenizer
from chiasm.types import Batch, Example

TEXTS = ["one red dog", "two blue cats and one red dog", "two red cats", "one blue dog and two red cats"]
TOKENIZER = Tokenizer.train(TEXTS)
RULES = TextRules(context=12, unk=TOKENIZER.unk)
LATENTS = LatentConfig(latents=5, width=16, depth=1, heads=2)
TEXT = TextInput(width=8, rules=RULES, vocabulary=TOKENIZER.vocab_size)
PICTURE = PictureInput(size=(8, 8), patch_pixels=2, positions=Positions(bands=3))


def lively(config):
    torch.manual_seed(0)
    model = build_model(config).eval()
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(4.0)
    return model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def masked():
    model = lively(PerceiverMlmConfig(inputs=Inputs(text=TEXT), latents=LATENTS))
    return MaskedPredictor(Bundle(model=model, tokenizer=TOKENIZER, preprocess=PreprocessConfig(size=(0, 0))))


@pytest.fixture(scope="module")
def rebuilding():
    model = lively(PerceiverAutoencoderConfig(inputs=Inputs(picture=PICTURE, text=TEXT), latents=LATENTS))
    return ReconstructionPredictor(Bundle(model=model, tokenizer=TOKENIZER, preprocess=PreprocessConfig(size=(8, 8))))


def source(pictures=False):
    rng = np.random.default_rng(0)
    examples = [
        Example(
            image=rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) if pictures else None, texts=(text,), key=str(row)
        )
        for row, text in enumerate(TEXTS)
    ]
    splits = {"test": np.arange(len(examples))}
    return Source(name="some", examples=examples, splits=splits, understood="as told", fingerprint="")


def batch_of(examples):
    """All of them as one batch, which is what the evaluation makes of so few."""
    ids = TOKENIZER.encode([e.texts[0] for e in examples], context=RULES.context)
    rows = torch.arange(len(examples))
    images = torch.zeros(len(examples), 3, 0, 0)
    if examples[0].image is not None:
        images = normalize(np.stack([e.image for e in examples]), PreprocessConfig(size=(8, 8)))
    keys = tuple(e.key for e in examples)
    return Batch(images=images, ids=ids, keep=ids != RULES.pad, image_ids=rows, text_ids=rows, keys=keys)


@torch.no_grad()
def shares_of(predictor, ids, gaps):
    """What one text's gaps may hold, computed by itself."""
    logits = predictor.model.head(predictor.model(ids[None], torch.ones_like(ids[None], dtype=torch.bool), gaps[None]))
    logits = logits[0].double()
    logits[:, RULES.unwritten] = -torch.inf
    return logits.softmax(-1)


def test_gaps_are_scored_as_one_by_one(masked):
    examples = source().examples
    batch = batch_of(examples)
    gaps = MaskedText().gaps(masked.model, batch, keyed_generator(batch))
    right, losses, stood = [], [], []
    for ids, keep, own in zip(batch.ids, batch.keep, gaps, strict=True):
        shares = shares_of(masked, ids[keep], own[keep])
        for place in own.nonzero()[:, 0].tolist():
            right.append(int(shares[place].argmax()) == int(ids[place]))
            losses.append(-float(shares[place, ids[place]].log()))
            stood.append(int(ids[place]))
    (found,) = evaluate_masked(masked, source(), ["test"])
    assert found.scores["gap_accuracy"].value == pytest.approx(np.mean(right))
    assert found.scores["gap_loss"].value == pytest.approx(np.mean(losses), rel=1e-4)
    assert found.scores["baseline"].value == pytest.approx(max(map(stood.count, stood)) / len(stood))
    assert found.counted == "texts" and [told.text.count(GAP) for told in found.told] == gaps.sum(1).tolist()


def test_a_gap_is_filled_as_the_model_says_of_that_place(masked):
    red = TOKENIZER.rows(["one red dog"], context=RULES.context)[0]
    ids, gaps = torch.tensor(red), torch.zeros(len(red), dtype=torch.bool)
    gaps[2] = True  # BOS, one, red
    shares = shares_of(masked, ids, gaps)[2]
    (found,) = masked.fill(f"one {GAP} dog", 3)
    assert [filling.token for filling in found] == [TOKENIZER.token(int(i)) for i in shares.topk(3).indices]
    assert [filling.probability for filling in found] == pytest.approx(shares.topk(3).values.tolist(), rel=1e-4)
    first, second = masked.fill(f"{GAP} red {GAP}", 1)
    gaps[:] = torch.tensor([place in (1, 3) for place in range(len(red))])
    both = shares_of(masked, ids, gaps)
    assert [first[0].token, second[0].token] == [TOKENIZER.token(int(both[place].argmax())) for place in (1, 3)]


@torch.no_grad()
def test_what_is_given_back_is_a_share_of_the_variance_of_what_was_hidden(rebuilding):
    batch, model = batch_of(source(pictures=True).examples), rebuilding.model
    hidden = Reconstruction(whole=0.0).hidden(model, batch, keyed_generator(batch))
    targets = model.targets("picture", Given(batch.images, None)).tokens.double()
    wrong, wanted, right, tokens = [], [], 0, 0
    for row in range(len(batch)):
        keep = batch.keep[row]
        values = {
            "picture": Given(batch.images[row : row + 1], None),
            "text": Given(batch.ids[row : row + 1, keep], None),
        }
        own = {"picture": hidden["picture"][row : row + 1], "text": hidden["text"][row : row + 1, keep]}
        answers = model(values, own)
        hide = own["picture"][0]
        wrong += (answers["picture"][0][hide].double() - targets[row][hide]).square().flatten().tolist()
        wanted += targets[row][hide].flatten().tolist()
        said, there = answers["text"][0].argmax(-1), own["text"][0]
        right += int((said == batch.ids[row, keep])[there].sum())
        tokens += int(there.sum())
    (found,) = evaluate_reconstruction(rebuilding, source(pictures=True), ["test"])
    explained = 1 - np.sum(wrong) / np.sum((np.array(wanted) - np.mean(wanted)) ** 2)
    assert found.scores["picture_explained"].value == pytest.approx(explained, rel=1e-4)
    assert found.scores["text_explained"].value == pytest.approx(right / tokens)
