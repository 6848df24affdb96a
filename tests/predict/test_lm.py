"""Asking a language model: texts begin with the prompt, and losses are those of the model."""

import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.models import LanguageConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextRules
from chiasm.predict import CaptionPredictor, LanguagePredictor, load
from chiasm.text import Tokenizer

SENTENCE = "one red dog and two blue cats"


@pytest.fixture(scope="module", params=["word", "bpe"])
def predictor(request):
    tokenizer = Tokenizer.train([SENTENCE] * 3, kind=request.param, vocab_size=290)
    torch.manual_seed(1)
    decoder = DecoderConfig(width=16, depth=1, heads=2, vocabulary=tokenizer.vocab_size, rules=TextRules(context=16))
    model = build_model(LanguageConfig(decoder=decoder))
    model.decoder.norm.weight.data.normal_()
    for block in model.decoder.blocks:
        block.attend_self.out.weight.data.mul_(8)
    return LanguagePredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=(0, 0))))


@pytest.mark.parametrize("prompt", ["", "one red", "one  red ", "One green dog!", "zebras"])
def test_a_text_begins_with_the_prompt_as_it_was_written(predictor, prompt):
    text = predictor.write(prompt)
    assert text.text.startswith(prompt)
    wanted = predictor.tokenizer.decode(text.ids).strip()
    assert text.text[len(prompt) :].strip() == wanted
    known = predictor.tokenizer.decode(predictor.tokenizer.rows([prompt], context=16)[0][1:-1])
    if prompt and not known and wanted:
        assert text.text[len(prompt)] == " "
    assert len(text.tokens) == len(text.ids) + text.complete


def test_others_are_further_texts_of_the_same_prompt(predictor):
    text = predictor.write("two", mode="sample", captions=4, seed=3)
    assert len(text.others) == 3 and len({t.text for t in (text, *text.others)}) > 1
    assert all(other.text.startswith("two") for other in text.others)
    assert predictor.write("two", mode="sample", captions=4, seed=3) == text


@torch.no_grad()
def test_losses_are_those_of_each_text_alone_and_sum_what_was_written(predictor):
    texts = [SENTENCE, "two cats", "blue"]
    losses, counts = predictor.token_losses(texts)
    for text, loss, count in zip(texts, losses, counts, strict=True):
        ids = predictor.tokenizer.encode([text], context=16, truncate=True)
        log_probs = predictor.model.head(predictor.model(torch.empty(1, 3, 0, 0), ids[:, :-1])).log_softmax(-1)
        wanted = -sum(float(log_probs[0, place, i]) for place, i in enumerate(ids[0, 1:].tolist()))
        assert (loss, count) == (pytest.approx(wanted, rel=1e-5), ids.shape[1] - 1)


def test_a_prompt_that_leaves_no_room_is_refused(predictor):
    with pytest.raises(UserError, match=r"prompt has \d+ tokens, and the model's texts at most 14"):
        predictor.write("red " * 40)


def test_a_bundle_is_asked_as_what_it_is(predictor, tmp_path):
    predictor.bundle.save(tmp_path / "bundle")
    loaded = load(tmp_path)
    assert isinstance(loaded, LanguagePredictor)
    assert loaded.write("one") == predictor.write("one")
    with pytest.raises(UserError, match="The model is a LanguageModel, and a Captioner"):
        CaptionPredictor.load(tmp_path)
