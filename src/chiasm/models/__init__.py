"""The models, and `build_model`, which makes one from its configuration."""

from chiasm.models.abilities import Writer
from chiasm.models.captioner import Captioner, CaptionerConfig

ModelConfig = CaptionerConfig
Model = Captioner


def build_model(config: ModelConfig) -> Model:
    """The model that a configuration describes, freshly initialised from torch's global generator."""
    return Captioner(config)


__all__ = ["Captioner", "CaptionerConfig", "Model", "ModelConfig", "Writer", "build_model"]
