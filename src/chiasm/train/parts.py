"""Models out of trained parts: a language model or a picture encoder, as they are, or where training begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chiasm.bundle import fill, own_tensors
from chiasm.errors import UserError
from chiasm.models import (
    Captioner,
    Clip,
    Flamingo,
    FlamingoConfig,
    FusionClassifier,
    FusionClassifierConfig,
    LanguageModel,
    Model,
    ModelConfig,
)
from chiasm.text import Tokenizer
from chiasm.train.config import RunConfig
from chiasm.train.start import load_start

CLIP = "clip:"
"""What may stand before the folder of a trained dual encoder or captioner."""


def with_parts(settings: RunConfig, lm: str | None, vision: str | None) -> RunConfig:
    """The settings of a Flamingo with a trained language model, a trained picture encoder, or both, frozen.

    UserError where a folder holds something else.
    """
    model, preprocess = settings.model, settings.preprocess
    assert isinstance(model, FlamingoConfig)
    if lm is not None:
        decoder = _language_model(lm).config.decoder
        model = replace(model, decoder=decoder, decoder_from=lm, frozen=(*model.frozen, "decoder"))
    if vision is not None:
        folder = vision.removeprefix(CLIP)
        start = load_start(folder)
        model = replace(model, vision=_seeing(start.model, folder).config.vision, vision_from=folder)
        model, preprocess = replace(model, frozen=(*model.frozen, "vision")), start.preprocess
    return replace(settings, model=model, preprocess=preprocess)


def with_trained_vision(settings: RunConfig, vision: str) -> RunConfig:
    """The settings of a fusion whose picture encoder is a trained one, locked; UserError where there is none."""
    model, folder = settings.model, vision.removeprefix(CLIP)
    assert isinstance(model, FusionClassifierConfig)
    start = load_start(folder)
    model = replace(model, vision=_seeing(start.model, folder).config.vision, vision_from=folder)
    return replace(settings, model=model, preprocess=start.preprocess)


def load_parts(model: Model) -> None:
    """Fill a new model with the weights of the trained parts that it begins with."""
    if isinstance(model, Flamingo) and model.config.decoder_from:
        source = _language_model(model.config.decoder_from)
        fill(model.decoder, own_tensors(source.decoder), Path(model.config.decoder_from))
    if isinstance(model, (Flamingo, FusionClassifier)) and model.config.vision_from and model.vision is not None:
        source = _seeing(load_start(model.config.vision_from).model, model.config.vision_from)
        fill(model.vision, own_tensors(source.vision), Path(model.config.vision_from))


def parts_tokenizer(model: ModelConfig) -> Tokenizer | None:
    """The tokenizer of the language model that a Flamingo begins with."""
    if isinstance(model, FlamingoConfig) and model.decoder_from:
        return load_start(model.decoder_from).tokenizer
    return None


def _language_model(folder: str) -> LanguageModel:
    model = load_start(folder).model
    if not isinstance(model, LanguageModel):
        raise UserError(
            f"{folder} holds a {type(model).__name__}", "Name a language model: chiasm train lm DATA makes one."
        )
    return model


def _seeing(model: Model, folder: str) -> Clip | Captioner:
    if not isinstance(model, (Clip, Captioner)):
        raise UserError(
            f"{folder} holds a {type(model).__name__}", "Name a clip or a captioner, whose encoder is taken."
        )
    return model


__all__ = ["load_parts", "parts_tokenizer", "with_parts", "with_trained_vision"]
