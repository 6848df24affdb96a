"""The models, and `build_model`, which makes one from its configuration."""

from typing_extensions import assert_never

from chiasm.models.abilities import Classifier, Embedder, Writer
from chiasm.models.autoencoder import PerceiverAutoencoder, PerceiverAutoencoderConfig
from chiasm.models.captioner import Captioner, CaptionerConfig
from chiasm.models.classifier import (
    FusionClassifier,
    FusionClassifierConfig,
    PictureClassifier,
    PictureClassifierConfig,
)
from chiasm.models.clip import Clip, ClipConfig
from chiasm.models.coca import Coca, CocaConfig
from chiasm.models.flamingo import Flamingo, FlamingoConfig
from chiasm.models.lm import LanguageConfig, LanguageModel
from chiasm.models.mlm import PerceiverMlm, PerceiverMlmConfig
from chiasm.models.perceiver import PerceiverClassifier, PerceiverClassifierConfig

ModelConfig = (
    CaptionerConfig
    | ClipConfig
    | CocaConfig
    | FlamingoConfig
    | FusionClassifierConfig
    | LanguageConfig
    | PictureClassifierConfig
    | PerceiverClassifierConfig
    | PerceiverMlmConfig
    | PerceiverAutoencoderConfig
)
Model = (
    Captioner
    | Clip
    | Coca
    | Flamingo
    | FusionClassifier
    | LanguageModel
    | PictureClassifier
    | PerceiverClassifier
    | PerceiverMlm
    | PerceiverAutoencoder
)


def build_model(config: ModelConfig) -> Model:
    """The model that a configuration describes, freshly initialised from torch's global generator."""
    match config:
        case CaptionerConfig():
            return Captioner(config)
        case ClipConfig():
            return Clip(config)
        case CocaConfig():
            return Coca(config)
        case FusionClassifierConfig():
            return FusionClassifier(config)
        case PictureClassifierConfig():
            return PictureClassifier(config)
        case FlamingoConfig():
            return Flamingo(config)
        case PerceiverClassifierConfig():
            return PerceiverClassifier(config)
        case PerceiverMlmConfig():
            return PerceiverMlm(config)
        case PerceiverAutoencoderConfig():
            return PerceiverAutoencoder(config)
        case LanguageConfig():
            return LanguageModel(config)
        case _:
            assert_never(config)


__all__ = [
    "Captioner",
    "CaptionerConfig",
    "Classifier",
    "Clip",
    "ClipConfig",
    "Coca",
    "CocaConfig",
    "Embedder",
    "Flamingo",
    "FlamingoConfig",
    "FusionClassifier",
    "FusionClassifierConfig",
    "LanguageConfig",
    "LanguageModel",
    "Model",
    "ModelConfig",
    "PerceiverAutoencoder",
    "PerceiverAutoencoderConfig",
    "PerceiverClassifier",
    "PerceiverClassifierConfig",
    "PerceiverMlm",
    "PerceiverMlmConfig",
    "PictureClassifier",
    "PictureClassifierConfig",
    "Writer",
    "build_model",
]
