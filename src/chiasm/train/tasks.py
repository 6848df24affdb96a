"""Which task trains which model."""

from __future__ import annotations

from typing_extensions import assert_never

from chiasm.models import (
    CaptionerConfig,
    ClipConfig,
    CocaConfig,
    FlamingoConfig,
    FusionClassifierConfig,
    LanguageConfig,
    PerceiverAutoencoderConfig,
    PerceiverClassifierConfig,
    PerceiverMlmConfig,
    PictureClassifierConfig,
)
from chiasm.train.captioning import CaptioningTask
from chiasm.train.classifying import ClassificationTask
from chiasm.train.coca import CocaTask
from chiasm.train.config import RunConfig
from chiasm.train.contrastive import ContrastiveTask
from chiasm.train.flamingo import FlamingoTask
from chiasm.train.language import LanguageTask
from chiasm.train.perceiver import MaskedTask, ReconstructionTask
from chiasm.train.task import Task


def task_of(config: RunConfig) -> Task:
    """How the model of a configuration is trained."""
    match config.model:
        case CaptionerConfig():
            return CaptioningTask(config.train)
        case ClipConfig():
            return ContrastiveTask()
        case CocaConfig():
            return CocaTask(config.train)
        case FusionClassifierConfig() | PictureClassifierConfig() | PerceiverClassifierConfig():
            return ClassificationTask(config)
        case FlamingoConfig():
            return FlamingoTask(config)
        case LanguageConfig():
            return LanguageTask(config.train)
        case PerceiverMlmConfig():
            return MaskedTask()
        case PerceiverAutoencoderConfig():
            return ReconstructionTask()
        case _:
            assert_never(config.model)


__all__ = ["task_of"]
