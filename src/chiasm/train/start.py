"""What a run starts from: a trained model, published weights, or encoders brought in, with their own world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chiasm import config as configs
from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.hub import find
from chiasm.models import ClipConfig, ModelConfig
from chiasm.models.brought import HfTextConfig, HfVisionConfig, bring_text, bring_vision, tokenizer_of
from chiasm.pretrained import load_pretrained
from chiasm.pretrained.preprocess import read_processor
from chiasm.text import Tokenizer
from chiasm.train.config import RunConfig


def load_start(source: str) -> Bundle:
    """A trained model by the folder of its run or bundle, or published weights by folder or Hub id."""
    folder = Path(source)
    described = [file for file in (folder / "bundle" / "config.json", folder / "config.json") if file.exists()]
    if any(configs.TAG in configs.read_json(file) for file in described):  # only ours have one
        return Bundle.load(folder)
    model, tokenizer, preprocess = load_pretrained(source)
    return Bundle(model=model, tokenizer=tokenizer, preprocess=preprocess)


def started_from(settings: RunConfig, source: str) -> RunConfig:
    """The settings of a run that goes on from a trained model: its sizes, its preprocessing, a low learning rate.

    UserError where it is another kind of model.
    """
    start = load_start(source)
    if type(start.model.config) is not type(settings.model):
        raise UserError(f"{source} holds a {type(start.model).__name__}", "Name the kind of model that it is.")
    train = replace(settings.train, learning_rate=1e-4)
    return replace(settings, model=start.model.config, preprocess=start.preprocess, start=source, train=train)


def with_brought(settings: RunConfig, vision: str | None, text: str | None) -> RunConfig:
    """The settings with encoders brought in by `hf:` or `py:`, and the preprocessing that goes with them."""
    model, preprocess = settings.model, settings.preprocess
    if not isinstance(model, ClipConfig):
        raise UserError("Encoders can be brought into a clip only", "chiasm train clip ... --vision ... --text ...")
    if vision is not None:
        model = replace(model, vision=bring_vision(vision))
        preprocess = brought_preprocess(model, preprocess)
    if text is not None:
        model = replace(model, text=bring_text(text))
    return replace(settings, model=model, preprocess=preprocess)


def brought_preprocess(model: ClipConfig, otherwise: PreprocessConfig) -> PreprocessConfig:
    """How the pictures were prepared that a picture encoder of transformers has seen, where its folder says so."""
    if isinstance(model.vision, HfVisionConfig):
        file = find(model.vision.source) / "preprocessor_config.json"
        if file.exists():
            try:
                return read_processor(configs.read_json(file), model.size)
            except ValueError as error:
                raise UserError(f"{file}: {error}", "Give it a size and crop_size that are the model's.") from error
    return replace(otherwise, size=model.size)


def brought_tokenizer(model: ModelConfig) -> Tokenizer | None:
    """The tokenizer that comes with the text encoder, where that was brought in."""
    if isinstance(model, ClipConfig) and isinstance(model.text, HfTextConfig):
        return tokenizer_of(model.text)
    return None


__all__ = ["brought_preprocess", "brought_tokenizer", "load_start", "started_from", "with_brought"]
