"""The models, and `build_model`, which makes one from its configuration."""

from typing_extensions import assert_never

from chiasm.models.abilities import Classifier, Embedder, Writer
from chiasm.models.captioner import Captioner, CaptionerConfig
from chiasm.models.clip import Clip, ClipConfig

ModelConfig = CaptionerConfig | ClipConfig
Model = Captioner | Clip


def build_model(config: ModelConfig) -> Model:
    """The model that a configuration describes, freshly initialised from torch's global generator."""
    match config:
        case CaptionerConfig():
            return Captioner(config)
        case ClipConfig():
            return Clip(config)
        case _:
            assert_never(config)


__all__ = [
    "Captioner",
    "CaptionerConfig",
    "Classifier",
    "Clip",
    "ClipConfig",
    "Embedder",
    "Model",
    "ModelConfig",
    "Writer",
    "build_model",
]
