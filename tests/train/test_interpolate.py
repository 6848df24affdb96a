"""Weights between two models: the ends are the models, the middle is the mean, and what has no between is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from chiasm.bundle import Bundle, own_tensors
from chiasm.data.shapes import ShapesConfig
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.evaluate import Estimate
from chiasm.metrics.calibration import Calibration
from chiasm.models import ClipConfig, build_model
from chiasm.models.language import TextConfig
from chiasm.models.vision import VitConfig
from chiasm.text import Tokenizer
from chiasm.train.config import DataConfig
from chiasm.train.interpolate import Point, Sweep, calibrated, interpolate, sweep

TOKENIZER = Tokenizer.train(["a red circle on a blue ground", "a green square"])
LESSON = DataConfig(path="shapes", shapes=ShapesConfig(difficulty="lesson", samples=60))
CALIBRATION = Calibration.fit(np.array([0.5, 0.6, 0.7]), np.array([0.1, 0.2, 0.3]))


def make(seed, depth=1, tokenizer=TOKENIZER, mean=0.5, width=16):
    torch.manual_seed(seed)
    vision = VitConfig(size=(32, 32), width=width, depth=depth, heads=2, pool="mean")
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=tokenizer.vocab_size)
    model = build_model(ClipConfig(vision=vision, text=text, embed_dim=8)).eval()
    preprocess = PreprocessConfig(size=(32, 32), mean=(mean, 0.5, 0.5))
    return Bundle(model=model, tokenizer=tokenizer, preprocess=preprocess, calibration=CALIBRATION)


def test_the_ends_are_the_models_and_the_middle_is_the_mean():
    first, last = make(0), make(1)
    before, after = own_tensors(first.model), own_tensors(last.model)
    for alpha in (0.0, 0.25, 1.0):
        mixed = interpolate(first, last, alpha)
        for name, value in own_tensors(mixed.model).items():
            torch.testing.assert_close(value, (1 - alpha) * before[name] + alpha * after[name])
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(interpolate(first, last, 0.0).model.embed_images(images), first.model.embed_images(images))
    assert torch.equal(interpolate(first, last, 1.0).model.embed_images(images), last.model.embed_images(images))
    assert interpolate(first, last, 0.5).calibration is None  # it was of other cosines


def test_models_are_left_as_they_were():
    first, last = make(0), make(1)
    before = {name: tensor.clone() for name, tensor in own_tensors(last.model).items()}
    interpolate(first, last, 0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in own_tensors(last.model).items())


def test_other_architectures_are_refused_with_both_lists():
    with pytest.raises(UserError, match=r"only in the tuned model: vision\.blocks\.1\."):
        interpolate(make(0), make(0, depth=2), 0.5)
    with pytest.raises(UserError, match=r"only in the original: vision\.blocks\.1\."):
        interpolate(make(0, depth=2), make(0), 0.5)
    with pytest.raises(UserError, match=r"of another shape: .*project_image\.weight \(8, 16\) and \(8, 24\)"):
        interpolate(make(0), make(0, width=24), 0.5)


def test_other_worlds_are_refused():
    words = Tokenizer.train(["a red circle on a blue ground", "a green octagon"])
    assert words.vocab_size == TOKENIZER.vocab_size
    with pytest.raises(UserError, match="different tokenizers"):
        interpolate(make(0), make(1, tokenizer=words), 0.5)
    with pytest.raises(UserError, match="different preprocessing"):
        interpolate(make(0), make(1, mean=0.4), 0.5)


def point(alpha, new, *old):
    return Point(alpha, Estimate(new, new - 0.1, new + 0.1), tuple(Estimate(o, o - 0.1, o + 0.1) for o in old))


def test_the_best_has_most_of_both_and_equal_ones_stay_near_the_original():
    found = Sweep("r1", (point(0.0, 0.1, 0.9, 0.7), point(0.5, 0.7, 0.7, 0.7), point(1.0, 0.8, 0.2, 0.2)))
    assert found.best.alpha == 0.5 and found.points[0].old_mean.value == pytest.approx(0.8)
    assert Sweep("r1", (point(0.0, 0.5, 0.5), point(1.0, 0.4, 0.6))).best.alpha == 0.0
    lines = found.table("new", ["one", "two"]).splitlines()
    assert lines[0] == "| alpha | new | one | two | mean |"
    assert (
        lines[3] == "| 0.5 (best) | 0.700 (0.600 to 0.800) | 0.700 (0.600 to 0.800) | 0.700 (0.600 to 0.800) | 0.700 |"
    )
    told = found.as_json()
    assert told["best_alpha"] == 0.5 and [p["alpha"] for p in told["points"]] == [0.0, 0.5, 1.0]


def test_a_sweep_scores_every_alpha_on_every_data(monkeypatch, tmp_path):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path))
    source = LESSON.open()
    tokenizer = Tokenizer.train([text for example in source.split("train") for text in example.texts])
    first, last = make(0, tokenizer=tokenizer), make(1, tokenizer=tokenizer)
    found = sweep(first, last, (source, "test"), [(source, "val")], [1.0, 0.0, 0.0], score="image_to_text_r5")
    assert [p.alpha for p in found.points] == [0.0, 1.0]
    backwards = sweep(last, first, (source, "test"), [(source, "val")], [0.0, 1.0], score="image_to_text_r5")
    assert [(p.new, p.old) for p in backwards.points] == [(p.new, p.old) for p in found.points][::-1]
    assert sweep(first, last, (source, "test"), [(source, "val")], [0.0]).score == "image_to_text_r1"
    with pytest.raises(UserError, match="no score 'beauty'"):
        sweep(first, last, (source, "test"), [(source, "val")], [0.0], score="beauty")


def test_what_is_saved_is_calibrated_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path))
    source = dataclasses.replace(LESSON, shapes=ShapesConfig(difficulty="lesson", samples=300)).open()
    tokenizer = Tokenizer.train([text for example in source.split("train") for text in example.texts])
    mixed = interpolate(make(0, tokenizer=tokenizer), make(1, tokenizer=tokenizer), 0.5)
    assert calibrated(mixed, source).calibration not in (None, CALIBRATION)
