"""What training minimises, an objective for each way to train."""

from typing_extensions import assert_never

from chiasm.models import (
    CaptionerConfig,
    ClipConfig,
    CocaConfig,
    FlamingoConfig,
    FusionClassifierConfig,
    LanguageConfig,
    ModelConfig,
    PerceiverAutoencoderConfig,
    PerceiverClassifierConfig,
    PerceiverMlmConfig,
    PictureClassifierConfig,
)
from chiasm.objectives.base import Objective, Rows, mean_of
from chiasm.objectives.captioning import Captioning
from chiasm.objectives.classification import Classification
from chiasm.objectives.coca import ContrastiveCaptioning
from chiasm.objectives.contrastive import Contrastive
from chiasm.objectives.interleaving import Interleaving
from chiasm.objectives.masked import MaskedText
from chiasm.objectives.reconstruction import Reconstruction


def objective_of(config: ModelConfig) -> Objective:
    """What a model of this kind is trained for, with nothing else said."""
    match config:
        case CaptionerConfig() | LanguageConfig():
            return Captioning()
        case FlamingoConfig():
            return Interleaving()
        case ClipConfig():
            return Contrastive()
        case CocaConfig():
            return ContrastiveCaptioning()
        case FusionClassifierConfig() | PictureClassifierConfig() | PerceiverClassifierConfig():
            return Classification()
        case PerceiverMlmConfig():
            return MaskedText()
        case PerceiverAutoencoderConfig():
            return Reconstruction()
        case _:
            assert_never(config)


__all__ = [
    "Captioning",
    "Classification",
    "Contrastive",
    "ContrastiveCaptioning",
    "Interleaving",
    "MaskedText",
    "Objective",
    "Reconstruction",
    "Rows",
    "mean_of",
    "objective_of",
]
