"""Asking trained models: `load` gives the predictor that fits the model in a folder."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import assert_never

from chiasm.bundle import Bundle
from chiasm.models import (
    Captioner,
    Classifier,
    Clip,
    Coca,
    Flamingo,
    LanguageModel,
    PerceiverAutoencoder,
    PerceiverMlm,
)
from chiasm.predict.base import Pixels, Predictor
from chiasm.predict.captioner import Caption, CaptionPredictor
from chiasm.predict.classifier import Answer, ClassifierPredictor
from chiasm.predict.clip import ClipPredictor, Guess
from chiasm.predict.coca import CocaPredictor
from chiasm.predict.flamingo import FlamingoPredictor, Shot, read_shots
from chiasm.predict.lm import LanguagePredictor
from chiasm.predict.perceiver import Filling, MaskedPredictor, ReconstructionPredictor

AnyPredictor = (
    CaptionPredictor
    | ClipPredictor
    | CocaPredictor
    | ClassifierPredictor
    | FlamingoPredictor
    | LanguagePredictor
    | MaskedPredictor
    | ReconstructionPredictor
)


def load(folder: str | Path) -> AnyPredictor:
    """The trained model in a run's or a bundle's folder, ready to be asked; UserError where there is none."""
    bundle = Bundle.load(folder)
    match bundle.model:
        case Captioner():
            return CaptionPredictor(bundle)
        case Clip():
            return ClipPredictor(bundle)
        case Coca():
            return CocaPredictor(bundle)
        case Flamingo():
            return FlamingoPredictor(bundle)
        case LanguageModel():
            return LanguagePredictor(bundle)
        case Classifier():
            return ClassifierPredictor(bundle)
        case PerceiverMlm():
            return MaskedPredictor(bundle)
        case PerceiverAutoencoder():
            return ReconstructionPredictor(bundle)
        case _:
            assert_never(bundle.model)


__all__ = [
    "Answer",
    "AnyPredictor",
    "Caption",
    "CaptionPredictor",
    "ClassifierPredictor",
    "ClipPredictor",
    "CocaPredictor",
    "Filling",
    "FlamingoPredictor",
    "Guess",
    "LanguagePredictor",
    "MaskedPredictor",
    "Pixels",
    "Predictor",
    "ReconstructionPredictor",
    "Shot",
    "load",
    "read_shots",
]
