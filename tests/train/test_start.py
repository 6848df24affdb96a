"""What a run starts from: bundles, published weights, encoders brought in, each with its own words and pictures."""

import dataclasses
import json
import shutil

import pytest
import torch

from chiasm.bundle import Bundle, own_tensors
from chiasm.errors import UserError
from chiasm.models import ClipConfig, build_model
from chiasm.models.language import TextConfig
from chiasm.models.vision import VitConfig
from chiasm.text import Tokenizer
from chiasm.train import contrastive, outcome
from chiasm.train.config import DataConfig, RunConfig
from chiasm.train.run import train
from chiasm.train.start import load_start, started_from, with_brought
from published_files import write_clip


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """Drawing takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "draw_clip", lambda *_, **__: None)
        patch.setattr(outcome, "curves_figure", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny CLIP that transformers wrote."""
    folder = tmp_path_factory.mktemp("published")
    write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def run_settings(settings):
    """Two steps on the lesson, of a dual encoder that is still to be chosen."""
    plain = settings(steps=2, validate_every_epochs=1.0, augment=None)
    data = dataclasses.replace(plain.data, truncate=True)
    vision = VitConfig(size=(32, 32), width=32, depth=1, heads=2, pool="mean")
    model = ClipConfig(vision=vision, text=TextConfig(width=32, depth=1, heads=2), embed_dim=16)
    return dataclasses.replace(plain, data=data, model=model)


def test_a_run_from_published_weights_keeps_their_words_and_pictures(run_settings, published, tmp_path):
    settings = started_from(run_settings, str(published))
    start = load_start(str(published))
    assert settings.train.learning_rate == 1e-4 and settings.preprocess == start.preprocess
    assert settings.model == start.model.config and settings.preprocess.resize == "crop"
    still = dataclasses.replace(settings.train, learning_rate=1e-12)
    assert train(dataclasses.replace(settings, train=still), tmp_path / "run").finished
    kept = Bundle.load(tmp_path / "run")
    assert kept.tokenizer == start.tokenizer and kept.preprocess == start.preprocess
    assert kept.model.config.rules == start.model.config.rules
    before, after = own_tensors(start.model), own_tensors(kept.model)
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)


def test_a_trained_bias_is_not_set_anew(run_settings, tmp_path):
    tokenizer = Tokenizer.train(["a red circle"])
    config = dataclasses.replace(run_settings.model, similarity="sigmoid").completed(
        tokenizer.vocab_size, tokenizer.unk
    )
    model = build_model(config)
    model.bias.data.fill_(-3.25)
    world = {"tokenizer": tokenizer, "preprocess": dataclasses.replace(run_settings.preprocess, size=(32, 32))}
    Bundle(model=model, **world).save(tmp_path / "start")
    settings = started_from(run_settings, str(tmp_path / "start"))
    still = dataclasses.replace(settings.train, learning_rate=1e-12)
    train(dataclasses.replace(settings, train=still), tmp_path / "run")
    assert float(Bundle.load(tmp_path / "run").model.bias.detach()) == pytest.approx(-3.25, abs=1e-5)


def test_towers_brought_in_start_with_their_weights_and_stay_locked(run_settings, published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "published")
    settings = with_brought(run_settings, f"hf:{folder}", f"hf:{folder}")
    start = load_start(str(published))
    assert settings.preprocess == start.preprocess and settings.model.size == (16, 16)
    assert train(settings, tmp_path / "run").finished
    shutil.rmtree(folder)  # a bundle needs its source no more
    kept = Bundle.load(tmp_path / "run")
    assert kept.tokenizer == start.tokenizer
    images, ids = torch.randn(2, 3, 16, 16), kept.tokenizer.encode(["the red dog", "cat"], context=24)
    with torch.no_grad():  # our own reading of the same weights is the oracle
        torch.testing.assert_close(
            kept.model.vision(images).pooled, start.model.vision(images).pooled, atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(kept.model.text(ids).pooled, start.model.text(ids).pooled, atol=1e-4, rtol=1e-4)


def test_one_tower_alone_is_brought_in(run_settings, published):
    vision = with_brought(run_settings, f"hf:{published}", None)
    text = with_brought(run_settings, None, f"hf:{published}")
    assert vision.model.text == run_settings.model.text and text.model.vision == run_settings.model.vision
    assert text.preprocess == run_settings.preprocess
    assert not vision.model.vision.tune and not text.model.text.tune


def test_a_picture_tower_whose_preprocessing_is_unknown_to_us(run_settings, published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "published")
    file = folder / "preprocessor_config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"do_normalize": False}))
    with pytest.raises(UserError, match="do_normalize is false"):
        with_brought(run_settings, f"hf:{folder}", None)
    file.unlink()
    plain = with_brought(run_settings, f"hf:{folder}", None).preprocess
    assert plain == dataclasses.replace(run_settings.preprocess, size=(16, 16))


def test_kinds_that_do_not_fit(settings, run_settings, published, tmp_path):
    with pytest.raises(UserError, match="holds a Clip"):
        started_from(settings(), str(published))
    with pytest.raises(UserError, match="into a clip only"):
        with_brought(settings(), f"hf:{published}", None)
    unfinished = RunConfig(data=DataConfig(path="shapes"), model=run_settings.model)
    (tmp_path / "config.json").write_text(json.dumps({"kind": type(unfinished).__name__}))
    with pytest.raises(UserError, match="holds no trained model"):
        load_start(str(tmp_path))
