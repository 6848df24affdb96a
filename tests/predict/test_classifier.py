"""Asking a trained classifier: pictures in any company, one picture about many things, and what it was not made for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import chiasm
from chiasm.data.picture import BrokenPicture
from chiasm.data.transforms import normalize
from chiasm.errors import UserError
from chiasm.predict import ClassifierPredictor
from chiasm.predict import classifier as predict
from chiasm.types import Batch
from classifier_files import COLOURS, QUESTIONS, TOKENIZER, fusion_bundle, picture_bundle, write_classifier

PICTURES = [np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8) for i in range(5)]


@pytest.fixture
def predictor():
    return ClassifierPredictor(fusion_bundle())


def shares(answers):
    return np.array([[found.probability for found in sorted(row, key=lambda a: a.label)] for row in answers])


@torch.no_grad()
def naive(predictor, picture, text):
    """The probabilities of one picture with one text, by the model itself."""
    ids = TOKENIZER.encode([text], context=8)
    one = torch.zeros(1, dtype=torch.long)
    images = normalize(predictor.read([picture]), predictor.preprocess)
    batch = Batch(images=images, ids=ids, keep=torch.ones_like(ids).bool(), image_ids=one, text_ids=one, keys=("a",))
    return predictor.model.classify(batch)[0].double().softmax(-1).numpy()


def test_every_pair_is_judged_as_if_it_were_alone(predictor, monkeypatch):
    monkeypatch.setattr(predict, "ROWS", 2)
    texts = [*QUESTIONS, "red?", "is there a circle?", QUESTIONS[0]]  # of several lengths
    found = shares(predictor.classify(PICTURES, texts))
    wanted = [naive(predictor, picture, text) for picture, text in zip(PICTURES, texts, strict=True)]
    assert found == pytest.approx(np.array(wanted), abs=1e-5)
    assert found.std(0).min() > 1e-3  # pictures and words matter here


def test_answers_are_all_classes_the_likeliest_first(predictor):
    for ranked in predictor.answer(PICTURES[0], QUESTIONS):
        assert sorted(a.label for a in ranked) == list(COLOURS)
        assert sum(a.probability for a in ranked) == pytest.approx(1)
        assert [a.probability for a in ranked] == sorted((a.probability for a in ranked), reverse=True)


def test_one_picture_is_asked_many_questions(predictor):
    together = shares(predictor.answer(PICTURES[0], QUESTIONS))
    apart = shares(predictor.classify([PICTURES[0]] * 2, QUESTIONS))
    assert together == pytest.approx(apart)
    assert predictor.classify([], []) == []


def test_a_caption_is_judged_by_the_probability_of_yes():
    predictor = ClassifierPredictor(fusion_bundle("match", ("no", "yes")))
    found = predictor.match(PICTURES[0], ["a red circle", "a square"])
    wanted = [naive(predictor, PICTURES[0], text)[1] for text in ("a red circle", "a square")]
    assert found == pytest.approx(np.array(wanted), abs=1e-5)


@pytest.mark.parametrize("inputs", ["picture", "text"])
def test_a_model_of_one_modality_ignores_the_other(inputs):
    predictor = ClassifierPredictor(fusion_bundle("answer", inputs=inputs))
    texts = None if inputs == "picture" else ["red?", "is there a circle?"]
    found = shares(predictor.classify(PICTURES[:2], texts))
    assert abs(found[0] - found[1]).max() > 1e-3
    if inputs == "text":
        assert found == pytest.approx(shares(predictor.classify(PICTURES[3:], texts)))
        assert predictor.sees_pictures is False


def test_a_classifier_of_pictures_comes_back_from_its_folder(tmp_path):
    bundle = picture_bundle()
    predictor = chiasm.load(write_classifier(bundle, tmp_path / "bundle"))
    assert isinstance(predictor, ClassifierPredictor) and predictor.bundle.task == bundle.task
    assert predictor.classes == COLOURS and not predictor.reads_texts
    found, wanted = (p.classify(PICTURES) for p in (predictor, ClassifierPredictor(bundle)))
    assert found == wanted


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda p: p.classify(PICTURES[:2]), "needs a text with each picture"),
        (lambda p: p.classify(PICTURES[:2], ["red?", " "]), "Text 2 of 2 is empty"),
        (lambda p: p.classify(PICTURES[:1], ["is there a red square? " * 3]), "more than the model's 8"),
        (lambda p: p.match(PICTURES[0], ["red?"]), "trained for the task 'answer', not 'match'"),
    ],
)
def test_what_it_cannot_be_asked_is_told(ask, told, predictor):
    with pytest.raises(UserError, match=told):
        ask(predictor)


def test_texts_must_fit_the_pictures_and_the_model(predictor):
    with pytest.raises(ValueError, match="1 texts do not fit 2 pictures"):
        predictor.classify(PICTURES[:2], ["red?"])
    with pytest.raises(UserError, match="reads no texts"):
        ClassifierPredictor(picture_bundle()).classify(PICTURES[:1], ["red?"])
    with pytest.raises(BrokenPicture):
        predictor.answer(b"junk", QUESTIONS)


def test_another_kind_of_model_is_refused(make_clip):
    bundle = fusion_bundle()
    with pytest.raises(UserError, match="The model is a Clip, and a Classifier is needed here"):
        ClassifierPredictor(replace(bundle, model=make_clip(vocabulary=TOKENIZER.vocab_size)))
